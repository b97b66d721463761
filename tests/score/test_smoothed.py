import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gdiff.dataset import Dataset
from gdiff.dataset.digits import Digits
from gdiff.dataset.placed import Placed
from gdiff.errors import UserError
from gdiff.parallel.mesh import make_mesh
from gdiff.score.smoothed import Smoothed, width_of

from .exact import posterior

SIGMAS = (0.05, 0.3, 1.0, 5.0, 80.0)


def fit(dataset, layout="batch:1", **options):
    return eqx.filter_jit(Smoothed(**options).fit(Placed(dataset, make_mesh(layout))))


def problem():
    """Data that are symmetric about the origin, a query for every level, and the levels."""
    x = Digits(subset=50).load().x
    data = Dataset("symmetric", np.concatenate([x, 255 - x]), shift=127.5, scale=127.5)
    z = jax.random.normal(jax.random.key(0), (len(SIGMAS), *data.event_shape))
    return data, z, jnp.array(SIGMAS)


def exactly(data, z, sigma):
    y = data.to_model(data.x, np.float64).reshape(len(data), -1)
    return posterior(y, np.asarray(z, np.float64).reshape(len(z), -1), np.asarray(sigma, float))


def test_without_width_it_is_the_exact_denoiser():
    data, z, sigma = problem()
    got = fit(data, width=0.0, perturbations=6)(z, sigma)
    mean, trace, _ = exactly(data, z, sigma)
    assert np.allclose(got.mean.reshape(mean.shape), mean, atol=1e-5)
    assert np.all(np.abs(got.trace_cov - trace) <= 1e-4 * (trace + data.dim * sigma**2))


def test_is_the_mean_over_perturbed_queries_in_the_coordinates_of_the_paper():
    # There z_t = t x + (1 - t) ε, so that t = 1 / (1 + σ), and z_t is what is perturbed.
    data, z, sigma = problem()
    got = fit(data, width=0.4, perturbations=6, seed=3)(z, sigma)
    half = np.random.default_rng(3).standard_normal((3, 64))
    noise = np.concatenate([half, -half])
    for i, level in enumerate(SIGMAS):
        t = 1 / (1 + level)
        moved = (t * np.asarray(z[i], np.float64).ravel() + 0.4 * noise) / t
        mean, trace, _ = exactly(data, moved, np.full(6, level))
        assert np.allclose(got.mean[i].ravel(), mean.mean(axis=0), atol=1e-4)
        assert np.isclose(got.trace_cov[i], trace.mean(), rtol=1e-3, atol=1e-5)
    assert got.log_density is None
    assert got.error_bound is None


def test_symmetric_data_have_an_odd_denoiser():
    data, z, sigma = problem()
    denoise = fit(data, width=0.8, perturbations=6)
    assert np.allclose(denoise(-z, sigma).mean, -denoise(z, sigma).mean, atol=1e-5)


def test_neither_the_batch_nor_the_devices_change_a_query():
    data, z, sigma = problem()
    expected = fit(data, perturbations=6)(z, sigma)
    pair = fit(data, "data:2/batch:2", perturbations=6)(z[2:4], sigma[2:4])
    assert np.allclose(pair.mean, expected.mean[2:4], atol=1e-5)
    assert np.allclose(pair.trace_cov, expected.trace_cov[2:4], rtol=1e-3)


def test_without_noise_samples_are_means_of_data_points():
    # The nearest of -1 and 1 to 0.1 ± 0.6 |ε|: a mean of M signs.
    data = Dataset("two", np.array([[-1.0], [1.0]], np.float32))
    got = fit(data, width=0.6, perturbations=64)(jnp.array([[0.1]]), jnp.array([1e-3])).mean
    assert np.isclose(got * 32, np.round(got * 32))
    assert 0 < float(got[0, 0]) < 0.9


def test_one_point_is_its_own_mean():
    x = np.array([[0.3, -0.2]], np.float32)
    got = fit(Dataset("one", x))(jnp.zeros((3, 2)), jnp.array([0.01, 1.0, 80.0]))
    assert np.allclose(got.mean, x, atol=1e-6)
    assert np.allclose(got.trace_cov, 0, atol=1e-6)


def test_the_width_follows_the_distances_between_neighbours():
    """1.25 r / √d by a double loop: for points near a curve, and the same a thousand times larger.

    Points that are there twice are no neighbours.
    """
    rng = np.random.default_rng(0)
    x = rng.standard_normal((60, 3)) * [1, 0.3, 0.05]
    gaps = []
    for i, point in enumerate(x):
        others = np.delete(x, i, axis=0) - point
        gaps.append(others[np.argmin(np.linalg.norm(others, axis=1))])
    products = [(gaps[i] @ gaps[j]) ** 2 for i in range(60) for j in range(60) if i != j]
    squares = np.sum(np.square(gaps), axis=1)
    directions = squares.mean() ** 2 / np.mean(products)
    expected = 1.25 * np.sqrt(np.median(squares) / directions)
    assert 1 <= directions <= 3
    assert width_of(Dataset("few", x)) == pytest.approx(expected, rel=1e-6)
    assert width_of(Dataset("far", 1000 * x + 1e5)) == pytest.approx(1000 * expected, rel=1e-6)
    assert width_of(Dataset("twice", np.repeat(x, 2, axis=0))) == pytest.approx(expected, rel=0.05)
    assert width_of(Dataset("same", np.ones((5, 2)))) == 0


def test_a_mean_of_neighbours_stays_on_the_curve():
    """Points of a circle: samples are new ones, and on it."""
    angle = np.linspace(0, 2 * np.pi, 200, endpoint=False)
    data = Dataset("circle", np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32))
    between = angle[:16] + 0.4 * angle[1]
    z = jnp.asarray(np.stack([np.cos(between), np.sin(between)], axis=1), jnp.float32)
    mean = fit(data)(z, jnp.full(16, 1e-3)).mean
    assert np.allclose(np.linalg.norm(mean, axis=1), 1, atol=2e-3)
    to_points = np.linalg.norm(np.asarray(mean)[:, None] - data.x, axis=2).min(axis=1)
    assert np.mean(to_points > 0.1 * angle[1]) > 0.5


def test_bad_settings_are_refused():
    with pytest.raises(UserError, match="perturbations=3 must be an even"):
        Smoothed(perturbations=3)
    with pytest.raises(UserError, match="perturbations=0 must be an even"):
        Smoothed(perturbations=0)
    for width in (-0.1, float("nan"), float("inf")):
        with pytest.raises(UserError, match="width"):
            Smoothed(width=width)
    with pytest.raises(UserError, match="width=wide must be 0 or more, and finite, or auto"):
        Smoothed(width="wide")
    with pytest.raises(UserError, match="seed=-1"):
        Smoothed(seed=-1)
