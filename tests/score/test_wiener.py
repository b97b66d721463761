import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import multivariate_normal

from gdiff.dataset import Dataset
from gdiff.dataset.digits import Digits
from gdiff.dataset.placed import Placed
from gdiff.errors import UserError
from gdiff.parallel.mesh import make_mesh
from gdiff.score.wiener import Wiener

from .exact import posterior

SIGMAS = (0.002, 0.05, 0.7, 3.0, 80.0)


def fit(dataset, layout="batch:1", **options):
    return eqx.filter_jit(Wiener(**options).fit(Placed(dataset, make_mesh(layout))))


def moments(dataset):
    y = dataset.to_model(dataset.x, np.float64).reshape(len(dataset), -1)
    return y.mean(axis=0), np.atleast_2d(np.cov(y, rowvar=False, bias=True))


def check(dataset, covariance, z, sigma, got):
    """Compare with the textbook formulas in float64."""
    mean, d = moments(dataset)[0], dataset.dim
    for i, level in enumerate(np.asarray(sigma, np.float64)):
        noisy = covariance + level**2 * np.eye(d)
        point = np.asarray(z[i], np.float64).ravel()
        gain = np.linalg.solve(noisy, covariance)
        expected = mean + (point - mean) @ gain
        error = np.linalg.norm(np.asarray(got.mean[i]).ravel() - expected)
        assert error <= 1e-5 * np.linalg.norm(expected) + 1e-6
        assert np.isclose(got.trace_cov[i], level**2 * np.trace(gain), rtol=1e-4, atol=1e-9)
        density = multivariate_normal(mean, noisy, allow_singular=True).logpdf(point)
        assert np.isclose(got.log_density[i], density, rtol=1e-4, atol=1e-2)


def test_formulas_on_real_images():
    data = Digits().load()
    sigma = jnp.array(SIGMAS)
    noise = jax.random.normal(jax.random.key(0), (5, 8, 8, 1))
    z = data.rows(slice(0, 5)) + sigma[:, None, None, None] * noise
    check(data, moments(data)[1], z, sigma, fit(data)(z, sigma))


def test_truncation_gives_the_other_directions_their_mean_variance():
    data = Digits().load()
    _, covariance = moments(data)
    values, vectors = np.linalg.eigh(covariance)
    values[: 64 - 9] = values[: 64 - 9].mean()
    z = jax.random.normal(jax.random.key(0), (5, 8, 8, 1))
    sigma = jnp.array(SIGMAS)
    check(data, (vectors * values) @ vectors.T, z, sigma, fit(data, rank=9)(z, sigma))


@pytest.mark.parametrize("n", [1, 2])
def test_directions_without_variance_count_in_the_density_and_not_in_the_mean(n):
    x = np.random.default_rng(0).integers(0, 256, (n, 3, 4, 3), dtype=np.uint8)
    data = Dataset("few", x, shift=127.5, scale=127.5)
    covariance = moments(data)[1] if n > 1 else np.zeros((36, 36))
    z = jax.random.uniform(jax.random.key(1), (3, 3, 4, 3), minval=-1)
    sigma = jnp.array([0.1, 1.0, 30.0])
    for rank in (None, max(n - 1, 1)):
        check(data, covariance, z, sigma, fit(data, rank=rank)(z, sigma))


def test_is_the_exact_score_of_gaussian_data():
    # The data set is a sample: its own posterior differs by the error of a Monte Carlo mean.
    rng = np.random.default_rng(0)
    mixing = np.array([[1.0, 0.0], [0.8, 0.3]])
    x = (rng.standard_normal((200_000, 2)) @ mixing.T + [1.0, -2.0]).astype(np.float32)
    data = Dataset("gaussian", x)
    sigma = jnp.repeat(jnp.array([0.5, 1.0, 4.0]), 4)
    z = x[:12] + sigma[:, None] * jax.random.normal(jax.random.key(0), (12, 2))
    mean, trace, log_density = posterior(x.astype(float), np.asarray(z, float), np.asarray(sigma))
    got = fit(data)(z, sigma)
    assert np.allclose(got.mean, mean, atol=0.03)
    assert np.allclose(got.trace_cov, trace, rtol=0.03)
    assert np.allclose(got.log_density, log_density, atol=0.03)


def test_trace_is_the_divergence_and_the_score_is_the_gradient_of_the_log_density():
    with jax.enable_x64(True):
        data = Digits(subset=50).load()
        z = jax.random.normal(jax.random.key(1), (1, 8, 8, 1), jnp.float64)
        sigma = jnp.array([0.3])
        denoise = fit(data, rank=7)
        got = denoise(z, sigma)
        jacobian = jax.jacfwd(lambda z: denoise(z, sigma).mean.ravel())(z).reshape(64, 64)
        assert np.isclose(jnp.trace(jacobian) * 0.3**2, got.trace_cov[0], rtol=1e-10)
        gradient = jax.grad(lambda z: denoise(z, sigma).log_density[0])(z)
        assert np.allclose(gradient, (got.mean - z) / 0.3**2, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("layout", ["batch:4", "data:2/batch:2"])
def test_layouts_of_devices_and_batches_make_no_difference(layout):
    data = Digits(subset=101).load()
    z = jax.random.normal(jax.random.key(0), (8, 8, 8, 1))
    sigma = jnp.array([0.01, 0.1, 0.5, 1.0, 2.0, 5.0, 20.0, 80.0])
    alone = fit(data)(z[:1], sigma[:1])
    got, expected = fit(data, layout)(z, sigma), fit(data)(z, sigma)
    for a, b, first in zip(got[:3], expected[:3], alone[:3], strict=True):
        assert np.allclose(a, b, rtol=1e-5, atol=1e-5)
        assert np.allclose(b[:1], first, rtol=1e-5, atol=1e-5)
    assert got.error_bound is None


def test_bad_settings_are_refused():
    with pytest.raises(UserError, match="rank=0 must be at least 1"):
        Wiener(rank=0)
