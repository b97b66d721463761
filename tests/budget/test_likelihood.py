import numpy as np
import pytest

from gdiff.budget import likelihood
from gdiff.budget.likelihood import bits_per_dim, first_level, integrate
from gdiff.dataset.base import Dataset
from gdiff.dataset.digits import Digits
from gdiff.dataset.placed import Placed
from gdiff.denoiser import from_numpy
from gdiff.errors import UserError
from gdiff.prior.gaussian import Gaussian
from gdiff.runtime import Runtime
from gdiff.score.exact import Exact
from gdiff.score.wiener import Wiener
from tests.score.exact import posterior

SIGMA_MAX = 80.0


@pytest.fixture(scope="module")
def digits():
    """Digits with what they are placed on, the rest of them, a level and a prior."""
    spec = Digits(subset=400)
    train, mesh = spec.load(), Runtime(mesh="batch:1").start()
    data = Placed(train, mesh, "auto")
    low = first_level(train, 0.002)
    return data, spec.load_held_out(), low, Gaussian().fit(data, SIGMA_MAX)


def flow(digits, denoiser, x, **options):
    data, _, low, prior = digits
    options = {"probes": 63} | options
    return integrate(denoiser, prior, data.mesh, x, (SIGMA_MAX, low), **options)


def noised(digits, n=8):
    data, _, low, _ = digits
    x = data.dataset.rows(np.arange(n))
    return x + low * np.random.default_rng(0).standard_normal(x.shape)


def test_gaussian_data_have_the_density_of_the_gaussian(digits):
    data, held_out, low, _ = digits
    x = held_out.rows(np.arange(8))
    y = data.dataset.rows(slice(None)).reshape(400, 64).astype(np.float64)
    covariance = np.cov(y.T, bias=True) + low**2 * np.eye(64)
    away = x.reshape(8, 64) - y.mean(0)
    log_volume = np.linalg.slogdet(2 * np.pi * covariance)[1]
    expected = -0.5 * (np.sum(away @ np.linalg.inv(covariance) * away, axis=1) + log_volume)
    found = flow(digits, Wiener().fit(data), x)
    assert found.probes == 0
    np.testing.assert_allclose(found.log_density, expected, atol=0.05)


def test_the_exact_score_has_the_density_of_the_noised_data(digits):
    data, _, low, _ = digits
    x, y = noised(digits), data.dataset.rows(slice(None)).astype(np.float64)
    sigma = np.full(8, low)
    expected = posterior(y.reshape(400, 64), x.reshape(8, 64), sigma)[2]
    found = flow(digits, Exact().fit(data), x)
    np.testing.assert_allclose(found.log_density, expected, atol=0.4)
    again = flow(digits, Exact().fit(data), x[3:5])
    np.testing.assert_allclose(again.log_density, found.log_density[3:5], atol=0.05)


@pytest.mark.parametrize("score", [Wiener(), pytest.param(Exact(), marks=pytest.mark.slow)])
def test_probes_agree_with_the_exact_divergence(digits, score):
    x, denoiser = noised(digits, 16), score.fit(digits[0])
    exact = flow(digits, denoiser, x)
    probed = flow(digits, denoiser, x, use_trace=False)
    assert (exact.probes, probed.probes) == (0, 63)
    away = np.mean(probed.log_density - exact.log_density)
    assert abs(away) < 2 * np.sqrt(np.sum(probed.error**2)) / 16


def test_a_probe_for_each_coordinate_leaves_no_error(digits):
    x, denoiser = noised(digits, 16), Wiener().fit(digits[0])
    exact = flow(digits, denoiser, x)
    found = flow(digits, denoiser, x, use_trace=False, probes=64)
    assert (found.probes, found.error.tolist()) == (0, [0.0] * 16)
    np.testing.assert_allclose(found.log_density, exact.log_density, atol=0.01)


def test_what_is_remembered_costs_its_number_and_the_rest_far_more(digits):
    data, held_out, low, _ = digits
    denoiser = Exact().fit(data)

    def of(dataset):
        return bits_per_dim(dataset, np.arange(8), lambda x: flow(digits, denoiser, x), low, 0)

    train, test = of(data.dataset), of(held_out)
    number = np.log2(400) / 64  # and what the decoder is unsure of
    assert number < train.mean < number + 0.5
    assert test.mean > 10


@pytest.mark.parametrize("sigma", [0.3, 1.5])
def test_whole_numbers_cost_no_less_than_their_entropy_under_a_known_law(sigma):
    # p_σ of uniform levels 0 … 3 on a line, in closed form; the entropy is 2 bits.
    x = np.arange(4, dtype=np.uint8).repeat(4000)[:, None]
    dataset = Dataset("levels", x, shift=1.5, scale=2.0)

    def flow(z):
        away = (z * 2 + 1.5 - np.arange(4)) / sigma
        density = np.exp(-(away**2) / 2).sum(1) / (4 * sigma / 2 * np.sqrt(2 * np.pi))
        return likelihood.Flow(np.log(density), np.zeros(len(z)), 0)

    found = bits_per_dim(dataset, np.arange(len(x)), flow, sigma / 2, 0)
    assert 2 - 3 * found.error < found.mean < 2 + (0.4 if sigma < 1 else 3)


def test_functions_of_numpy_arrays_have_no_derivatives(digits):
    with pytest.raises(UserError, match="no derivatives"):
        flow(digits, from_numpy(lambda z, sigma: 0 * z), noised(digits))


def test_a_subset_keeps_the_rest_aside():
    spec = Digits(subset=1000, classes=[1, 7])
    with pytest.raises(UserError, match="subset=1000"):
        spec.load_held_out()
    spec = Digits(subset=200, classes=[1, 7])
    kept, rest = spec.load(), spec.load_held_out()
    assert len(kept) + len(rest) == len(Digits(classes=[1, 7]).load())
    assert set(rest.labels.tolist()) == {1, 7}
    with pytest.raises(UserError, match=r"dataset\.subset"):
        Digits().load_held_out()
