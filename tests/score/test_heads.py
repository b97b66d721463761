"""The heaviest rows of posteriors, and the mixture that parallel runs start from."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax

from gdiff.dataset import Dataset
from gdiff.dataset.digits import Digits
from gdiff.dataset.placed import Placed
from gdiff.denoiser import as_denoiser, headed, noise_floor
from gdiff.parallel.mesh import make_mesh
from gdiff.score.centres import Centres
from gdiff.score.exact import Exact
from gdiff.score.golden import index
from gdiff.score.golden.heads import heads
from gdiff.score.wiener import Wiener

K = 12


@pytest.fixture(scope="module")
def data():
    return Digits(subset=300).load()


@pytest.fixture(scope="module")
def points(data):
    """Noised rows and their levels, and all log weights in float64."""
    rng = np.random.default_rng(0)
    y = data.to_model(data.x, np.float64).reshape(len(data), -1)
    sigma = np.array([0.01, 0.3, 1.0, 3.0, 10.0, 40.0])
    z = y[:6] + sigma[:, None] * rng.standard_normal((6, 64))
    distances = np.sum((z[:, None] - y) ** 2, axis=2)
    logs = log_softmax(-distances / (2 * sigma[:, None] ** 2), axis=1)
    return z.astype(np.float32).reshape(-1, 8, 8, 1), sigma.astype(np.float32), logs, y


def check(head, logs):
    """The heaviest rows, each once, with their weights."""
    rows, found = np.asarray(head.rows), np.asarray(head.log_weights)
    assert rows.shape == found.shape == (len(logs), K)
    assert np.all(np.diff(found, axis=1) <= 1e-5)
    assert all(len(set(own)) == K for own in rows)
    for own, weights, exact in zip(rows, found, logs, strict=True):
        heavy = weights > -20
        np.testing.assert_allclose(weights[heavy], exact[own][heavy], atol=5e-3)
        np.testing.assert_allclose(np.exp(weights), np.sort(np.exp(exact))[::-1][:K], atol=5e-3)


@pytest.mark.parametrize("layout", ["batch:1", pytest.param("data:3", marks=pytest.mark.slow)])
def test_heads_of_the_exact_score(data, points, layout):
    z, sigma, logs, y = points
    score = Exact().fit(Placed(data, make_mesh(layout)))
    posterior, head = eqx.filter_jit(lambda score, *q: score.heads(*q, K))(score, z, sigma)
    check(head, logs)
    np.testing.assert_allclose(
        np.asarray(posterior.mean).reshape(6, -1), np.exp(logs) @ y, atol=1e-5
    )
    assert np.array_equal(score.take(head.rows), y[np.asarray(head.rows)].astype(np.float32))


def test_heads_of_a_golden_scan(data, points):
    z, sigma, logs, _ = points
    full = Exact().fit(Placed(data, make_mesh("batch:1")))
    golden = index.build(data, full, (32, 48), 0.01)
    check(jax.jit(lambda z, sigma: heads(golden, z, sigma, K))(z, sigma), logs)


def test_scores_that_are_posteriors_of_rows_say_so(data):
    placed = Placed(data, make_mesh("batch:1"))
    assert headed(as_denoiser(Exact().fit(placed))) is not None
    assert headed(as_denoiser(Wiener().fit(placed))) is None
    assert headed(lambda z, sigma: z) is None


def test_a_mixture_is_the_posterior_of_its_gaussians():
    """Against the formula in float64, by matrices."""
    rng, (k, d, r) = np.random.default_rng(1), (5, 6, 3)
    basis = np.linalg.qr(rng.standard_normal((d, d)))[0][:, :r]
    means, variances, tail = 2 * rng.standard_normal((k, d)), np.array([2.0, 0.7, 0.3]), 0.1
    shares, centre = rng.dirichlet(np.ones(k)), rng.standard_normal(d)
    parts = (centre, means, np.log(shares), basis, variances, np.array(tail), np.array(0))
    parts = (*parts, means @ basis)
    got_of = Centres(*(jnp.asarray(part, jnp.float32) for part in parts))
    within = basis @ np.diag(variances - tail) @ basis.T + tail * np.eye(d)
    z, sigma = rng.standard_normal((4, d)) * 3, np.array([0.2, 1.0, 3.0, 20.0])
    got = jax.jit(got_of.__call__)(z.astype(np.float32), sigma.astype(np.float32)).mean
    for own, level, found in zip(z - centre, sigma, got, strict=True):
        inverse = np.linalg.inv(within + level**2 * np.eye(d))
        away = own - means
        weights = np.exp(
            log_softmax(np.log(shares) - 0.5 * np.sum((away @ inverse) * away, axis=1))
        )
        mean = centre + weights @ (means + away @ inverse @ within)
        np.testing.assert_allclose(found, mean, atol=2e-4)


def test_centres_keep_mean_and_covariance_of_the_data(data):
    found = Centres.fit(Placed(data, make_mesh("batch:1")))
    y = data.to_model(data.x, np.float64).reshape(len(data), -1)
    shares = np.exp(np.asarray(found.log_weights, np.float64))
    means, basis = (np.asarray(x, np.float64) for x in (found.means, found.basis))
    assert shares.sum() == pytest.approx(1)
    assert len(shares) > 10
    np.testing.assert_allclose(shares @ means, 0, atol=1e-5)
    within = (basis * np.asarray(found.eigenvalues)) @ basis.T
    np.testing.assert_allclose(
        (shares * means.T) @ means + within, np.cov(y.T, bias=True), atol=1e-4
    )


def test_the_floor_of_a_mixture_is_where_rows_stand_alone(data):
    found = Centres.fit(Placed(data, make_mesh("batch:1")))
    variances = np.append(np.asarray(found.eigenvalues, np.float64), float(found.tail))
    each = np.append(np.ones(len(variances) - 1), 64 - len(variances) + 1)
    known = 0.5 * np.log1p(variances / float(found.floor) ** 2) @ each
    assert known == pytest.approx(8 * np.log(len(data) / len(found.log_weights)), rel=0.05)
    assert noise_floor(as_denoiser(found)) == float(found.floor)
    assert noise_floor(as_denoiser(lambda z, sigma: z)) == 0


def test_centres_of_few_and_of_equal_rows():
    for n in (1, 20):
        found = Centres.fit(Dataset("same", np.full((n, 3), 0.25, np.float32)))
        mean = found(np.ones((2, 3), np.float32), np.full(2, 0.5, np.float32)).mean
        np.testing.assert_allclose(mean, 0.25, atol=1e-6)
