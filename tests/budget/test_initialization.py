from types import SimpleNamespace

import numpy as np
import pytest

from gdiff.budget import initialization, noised
from gdiff.budget.initialization import Noised, shortest
from gdiff.dataset.base import Dataset
from gdiff.dataset.digits import Digits
from gdiff.dataset.placed import Placed
from gdiff.dataset.toy import Gaussians, TwoPoints
from gdiff.errors import UserError
from gdiff.parallel.mesh import make_mesh
from gdiff.prior.empirical import Empirical
from gdiff.prior.gaussian import Gaussian
from gdiff.prior.gmm import GMM
from gdiff.prior.standard import Standard


@pytest.fixture(scope="module")
def mesh():
    return make_mesh("batch:2")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GDIFF_CACHE", str(tmp_path))


def by_quadrature(points, sigma, log_prior):
    """KL of a 1-D noised data set from a prior."""
    x = np.linspace(-12 * (1 + sigma), 12 * (1 + sigma), 40_001)
    parts = np.exp(-((x - points[:, None]) ** 2) / (2 * sigma**2))
    density = parts.mean(0) / np.sqrt(2 * np.pi * sigma**2)
    inside = density > 1e-300
    gap = np.log(density[inside]) - log_prior(x[inside])
    return np.trapezoid(density[inside] * gap, x[inside])


def test_draws_of_wide_points_fit_into_memory():
    draws = {
        width: Noised.of(SimpleNamespace(dataset=data), 1.0).effort.draws
        for width in (3072, 200_000)
        for data in [Dataset("d", np.broadcast_to(np.float32(1), (40, width)))]
    }
    assert draws[3072] == 4096
    assert 64 <= draws[200_000] <= 2**30 / (8 * 200_000) + noised.REPLICATES


@pytest.mark.parametrize("sigma", [0.5, 1.0, 3.0])
def test_two_points_against_quadrature(mesh, sigma):
    variance = 1 + sigma**2

    def log_prior(x):
        return -(x**2) / (2 * variance) - np.log(2 * np.pi * variance) / 2

    found = Noised.of(Placed(TwoPoints().load(), mesh), sigma).divergence(Standard())
    exact = by_quadrature(np.array([-1.0, 1.0]), sigma, log_prior)
    assert found.nats == pytest.approx(exact, abs=4 * found.standard_error + 1e-4)
    assert found.standard_error < 0.01


def test_the_law_of_the_data_itself_costs_nothing(mesh):
    found = Noised.of(Placed(Gaussians(num_points=50).load(), mesh), 0.7, 256).divergence(
        Empirical()
    )
    assert abs(found.nats) < 1e-9


def test_a_gaussian_is_better_than_the_standard_prior_by_the_closed_form(mesh):
    data, sigma = Digits(subset=300).load(), 3.0
    noised = Noised.of(Placed(data, mesh), sigma, 512)
    standard, gaussian = noised.divergence(Standard()), noised.divergence(Gaussian())
    x = data.rows(slice(None)).reshape(300, -1).astype(float)
    ratio = (np.linalg.eigvalsh(np.cov(x.T, bias=True)) + sigma**2) / (1 + sigma**2)
    shift = np.sum(x.mean(0) ** 2) / (1 + sigma**2)
    exact = (np.sum(ratio - 1 - np.log(ratio)) + shift) / 2
    assert standard.nats - gaussian.nats == pytest.approx(exact, rel=1e-6)


@pytest.mark.slow
def test_standard_errors_are_honest_and_controls_make_them_small(mesh):
    data = Digits(subset=200).load()
    truth = Noised.of(Placed(data, mesh), 1.0, 4096).divergence(Gaussian())
    rough = Noised.of(Placed(data, mesh), 1.0, 128).divergence(Gaussian())
    assert abs(rough.nats - truth.nats) < 5 * rough.standard_error
    assert rough.standard_error < 0.5


def test_tiny_divergences_of_large_points_are_not_lost_to_rounding(mesh):
    rng = np.random.default_rng(0)
    data = Dataset("noise", rng.standard_normal((64, 2000)).astype(np.float32))
    found = Noised.of(Placed(data, mesh), 500.0, 64).divergence(Gaussian())
    assert abs(found.nats) < 1e-5


def test_the_shortest_horizon_is_where_the_tolerance_is_met(mesh):
    data = Digits(subset=200).load()
    sigma = shortest(Placed(data, mesh), Gaussian(), 0.1, (80.0, 0.01))
    found = Noised.of(Placed(data, mesh), sigma).divergence(Gaussian())
    below = Noised.of(Placed(data, mesh), 0.9 * sigma).divergence(Gaussian())
    assert found.nats + 2 * found.standard_error <= 0.1 < below.nats + 2 * below.standard_error


def test_a_tolerance_that_cannot_be_met_says_what_can(mesh):
    data = Digits(subset=50).load()
    with pytest.raises(UserError, match=r"^schedule.horizon_tolerance=1e-06 cannot.*nats from"):
        shortest(Placed(data, mesh), Standard(), 1e-6, (80.0, 0.01))


def test_mixtures_are_nearer_than_gaussians(mesh):
    noised = Noised.of(Placed(Gaussians(num_points=400).load(), mesh), 0.3)
    gmm = noised.divergence(GMM(components=8))
    gaussian = noised.divergence(Gaussian())
    assert gmm.nats + 5 * gmm.standard_error < gaussian.nats


def test_standard_errors_of_few_draws_are_honest(mesh, monkeypatch):
    placed = Placed(Digits(subset=200).load(), mesh)
    truth = Noised.of(placed, 1.0, 2048).divergence(Standard())
    monkeypatch.setattr(noised, "_MOST_SOBOL", 0)
    scores = []
    for seed in range(40):
        monkeypatch.setattr(initialization, "_SEED", 100 + seed)
        monkeypatch.setattr(initialization, "_VERSION", f"seed {seed}")
        found = Noised.of(placed, 1.0, 16).divergence(Standard())
        scores.append((found.nats - truth.nats) / found.standard_error)
    # Student's t of 12 degrees of freedom has a mean square of 1.2.
    assert 0.6 < np.mean(np.square(scores)) < 2.2


def test_controls_along_few_directions_have_mean_zero_all_the_same(mesh, monkeypatch):
    data = Digits(subset=200).load()
    monkeypatch.setattr(noised, "WORK", 10 * data.x.size)
    found = Noised.of(Placed(data, mesh), 0.5, 4096)
    assert found.moments.eigenvectors.shape == (64, 5)
    assert found.effort.is_capped
    error = found.controls.std(axis=0) / 64
    assert np.all(np.abs(found.controls.mean(axis=0)) < 4 * error)
