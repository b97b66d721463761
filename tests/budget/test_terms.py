import json
from itertools import pairwise

import jax
import numpy as np
import pytest

from gdiff.budget import noised
from gdiff.budget.terms import METRICS, SPENT, budget, is_ancestral, score_error
from gdiff.dataset.base import Dataset
from gdiff.dataset.digits import Digits
from gdiff.dataset.placed import Placed
from gdiff.dataset.toy import Gaussians, TwoPoints
from gdiff.denoiser import Posterior
from gdiff.parallel.mesh import make_mesh
from gdiff.prior.empirical import Empirical
from gdiff.prior.standard import Standard
from gdiff.sampler.methods import ddpm
from gdiff.sampler.methods.ancestral import Ancestral
from gdiff.sampler.methods.ddim import DDIM
from gdiff.sampler.methods.heun import Heun
from gdiff.score.exact import Exact
from gdiff.score.wiener import Wiener

GRID = np.append(np.geomspace(20.0, 0.1, 12), 0.0)


@pytest.fixture(scope="module")
def mesh():
    return make_mesh("batch:1")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GDIFF_CACHE", str(tmp_path))


def of(dataset, mesh, *, sampler=None, score=None, prior=None, grid=GRID, **options):
    sampler, score = sampler or Ancestral(), score or Exact()
    denoiser = None if score.is_exact else score.fit(Placed(dataset, mesh))
    steps = sampler.blocks(grid).steps
    return budget(
        Placed(dataset, mesh), grid, steps, prior or Standard(), score, denoiser, **options
    )


def term(found, name):
    return next(t for t in found.terms if t.name == name)


def test_the_terms_add_up_and_say_where_they_come_from(mesh):
    found = of(Gaussians(num_points=200).load(), mesh)
    nats = [t.nats for t in found.terms]
    assert [t.name for t in found.terms] == [m.removeprefix("kl_") for m in METRICS]
    assert nats[-1] == pytest.approx(sum(nats[:-1]))
    assert all(t.statement for t in found.terms)
    assert (term(found, "score").nats, term(found, "picard").nats) == (0, 0)
    assert found.sigma == (20.0, 0.1)
    assert tuple(found.metrics()) == METRICS
    content = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert content["total"]["nats_per_dimension"] == pytest.approx(nats[-1] / 2)


@pytest.mark.parametrize("sampler", [DDIM(), Heun(), ddpm.DDPM()])
def test_only_the_start_is_charged_where_the_identity_does_not_hold(mesh, sampler):
    found = of(TwoPoints().load(), mesh, sampler=sampler)
    assert found.terms[0].nats > 0
    assert {t.nats for t in found.terms[1:]} == {None}
    assert all("does not apply" in t.statement for t in found.terms[1:])
    assert list(found.metrics()) == ["kl_initialization"]


def test_the_ancestral_sampler_is_known_by_its_table():
    assert is_ancestral(DDIM(eta=1.0).blocks(GRID).steps, GRID)
    assert is_ancestral(Ancestral(block_size="all").blocks(GRID).steps, GRID)
    assert not is_ancestral(DDIM(eta=0.99).blocks(GRID).steps, GRID)
    assert is_ancestral(Ancestral().blocks(GRID[:-1]).steps, GRID[:-1])


def test_path_divergence_of_two_points_by_simulation(mesh):
    """KL of the discretised path from the exact one, by the mean of its log density ratio."""
    sigma = np.geomspace(10.0, 0.3, 6)
    found = of(TwoPoints().load(), mesh, prior=Empirical(), grid=np.append(sigma, 0.0))
    rng = np.random.default_rng(0)
    x = rng.choice([-1.0, 1.0], 400_000)
    total = np.zeros_like(x)
    z = dict.fromkeys(sigma)
    # Noised data on all levels at once: a walk up in noise.
    now, level = x, 0.0
    for s in sigma[::-1]:
        now = now + np.sqrt(s**2 - level**2) * rng.standard_normal(len(x))
        z[s], level = now, s
    for s, t in pairwise(sigma):
        mean, h = np.tanh(z[s] / s**2), s**2 - t**2
        # Backwards kernels: the exact one mixes over x_0, the sampler's freezes its mean.
        variance = t**2 / s**2 * h

        def log_kernel(x0, z=z, s=s, t=t, h=h, variance=variance):
            centre = (t**2 * z[s] + h * x0) / s**2
            return -((z[t] - centre) ** 2) / (2 * variance)

        up = 1 / (1 + np.exp(-2 * z[s] / s**2))
        exact = np.logaddexp(np.log(up) + log_kernel(1.0), np.log1p(-up) + log_kernel(-1.0))
        total += exact - log_kernel(mean)
    error = total.std() / np.sqrt(len(total))
    assert term(found, "discretization").nats == pytest.approx(total.mean(), abs=3 * error + 1e-3)


def test_the_error_of_a_score_is_charged_at_its_weight(mesh):
    class Shifted(Wiener):
        def fit(self, data, sigmas=()):
            return jax.tree_util.Partial(shifted, Exact().fit(data))

    def shifted(exact, z, sigma):
        return Posterior(exact(z, sigma).mean + 0.1)

    data = Gaussians(num_points=100).load()
    levels = GRID[:-1]
    nats, error = score_error(Placed(data, mesh), levels, Shifted().fit(Placed(data, mesh)))
    assert nats == pytest.approx(0.5 * np.sum(np.diff(levels**-2.0)) * 2 * 0.01, rel=1e-4)
    assert error < 1e-3 * nats
    found = of(data, mesh, score=Shifted())
    assert term(found, "score").nats == pytest.approx(nats)


def test_long_grids_are_measured_at_some_levels(mesh):
    data = Digits(subset=60).load()
    fine = np.geomspace(20.0, 0.5, 200)
    denoiser = Wiener().fit(Placed(data, mesh))
    nats, _ = score_error(Placed(data, mesh), fine, denoiser)
    # A grid of 25 levels is measured at all of them.
    coarse = np.geomspace(20.0, 0.5, 25)
    rough, _ = score_error(Placed(data, mesh), coarse, denoiser)
    assert nats == pytest.approx(rough, rel=0.5)


def test_accepted_changes_of_parallel_steps_are_charged(mesh):
    data = Dataset("pair", np.array([[-1.0, 0], [1, 0]], np.float32))
    blocks = [{"rows": 6, "residual": 1e-3}, {"rows": 6, "residual": 0.0}]
    found = of(data, mesh, blocks=blocks)
    rho, rho_next = GRID[:6] ** 2, GRID[1:7] ** 2
    noise = rho_next / rho * (rho - rho_next)
    expected = np.sum(2 * 1e-6 * (1 + rho_next) / noise) / 2
    assert term(found, "picard").nats == pytest.approx(expected)


def test_what_is_spent_by_level_ends_with_the_terms(mesh):
    found = of(TwoPoints().load(), mesh, score=Wiener())
    rows = found.spent()
    assert [row["sigma"] for row in rows] == GRID[GRID > 0].tolist()
    assert rows[0]["total"] == rows[0]["initialization"] == term(found, "initialization").nats
    for name in SPENT[1:]:
        assert rows[-1][name] == pytest.approx(term(found, name).nats)
        assert all(a[name] <= b[name] + 1e-12 for a, b in pairwise(rows))
    assert of(TwoPoints().load(), mesh, sampler=DDIM()).spent() == []


@pytest.mark.parametrize("grid", [np.array([5.0, 0.0]), np.array([5.0, 1.0])])
def test_one_step_has_a_budget(mesh, grid):
    found = of(TwoPoints().load(), mesh, grid=grid)
    assert found.terms[-1].nats >= term(found, "initialization").nats - 1e-6


def test_large_data_get_less_work_larger_errors_and_a_word_about_it(mesh, monkeypatch):
    data, grid = Digits(subset=100).load(), np.append(np.geomspace(20.0, 0.1, 30), 0.0)
    usual = of(data, mesh, score=Wiener(), grid=grid)
    # Sixty evaluations a term, and thirty directions.
    monkeypatch.setattr(noised, "WORK", 60 * data.x.size)
    found = of(data, mesh, score=Wiener(), grid=grid)
    before, after = usual.to_json(), found.to_json()
    expected = {"initialization": (1, 56), "discretization": (12, 8), "score": (12, 8)}
    for name, (levels, draws) in expected.items():
        assert (after[name]["levels"], after[name]["draws"]) == (levels, draws)
        assert before[name]["levels"] * before[name]["draws"] > 3 * levels * draws
        assert (before[name]["capped"], after[name]["capped"]) == (False, True)
        assert "cut, since the data are large" in term(found, name).statement
        gap = abs(term(found, name).nats - term(usual, name).nats)
        assert gap < 4 * term(found, name).standard_error
        assert term(found, name).standard_error > 2 * term(usual, name).standard_error
    assert "30 directions" in term(found, "initialization").statement
    assert (before["total"]["capped"], after["total"]["capped"]) == (False, True)
    assert after["picard"]["capped"] is False
    json.dumps(after, allow_nan=False)


def test_the_work_for_a_term_is_bounded_whatever_the_size():
    usual = noised.Effort(24, 128)
    # ImageNet-64: a minute and a half of full scans, and not half an hour.
    found = usual.within(
        noised.affordable(Dataset("d", np.broadcast_to(np.uint8(0), (1_281_167, 12288))))
    )
    assert found == (12, 8, True)
    assert usual.within(24 * 128) == usual
    # A run of few evaluations is measured by few, but for what takes a moment.
    cifar = Dataset("d", np.broadcast_to(np.uint8(0), (50_000, 3072)))
    assert noised.affordable(cifar, share=2048) == 2048
    assert noised.affordable(cifar, share=10) == pytest.approx(447, abs=1)
    assert noised.affordable(cifar, share=10, products=3072) == pytest.approx(224, abs=1)
    assert usual.within(24 * 40) == (24, 40, True)
    assert usual.within(1) == (12, 8, True)
    assert noised.Effort(1, 17).within(1e9) == (1, 24, False)
