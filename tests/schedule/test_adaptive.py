"""Schedules that follow the loss of the data: las, entropic and asymptotic."""

import numpy as np
import pytest

from gdiff.errors import UserError
from gdiff.process.ou import OU
from gdiff.process.vp import VPLinear
from gdiff.sampler.methods.ancestral import Ancestral
from gdiff.sampler.methods.ddim import DDIM
from gdiff.sampler.methods.ddpm import DDPM
from gdiff.sampler.methods.heun import Heun
from gdiff.schedule.asymptotic import Asymptotic
from gdiff.schedule.edm import EDM
from gdiff.schedule.entropic import Entropic
from gdiff.schedule.las import LAS

from .curves import ENDS, MEMORISED, NORMAL, TWO_POINTS

SCHEDULES = [LAS, Entropic, Asymptotic]
EVERY = pytest.mark.parametrize("schedule", SCHEDULES)
CURVES = pytest.mark.parametrize("losses", [NORMAL, TWO_POINTS, MEMORISED])


def spec(schedule, steps, **fields):
    if schedule is LAS:
        fields = {"measure": "snr"} | fields
    return schedule(steps=steps, sigma_max=80.0, sigma_min=0.05, **fields)


def kl(schedule, losses, steps):
    grid = spec(schedule, steps, to_zero=False).adapted(losses, OU()).grid(OU())
    return losses.discretization(grid)


@EVERY
def test_before_it_is_adapted_the_grid_is_geometric(schedule):
    assert schedule.needs_losses
    nodes = spec(schedule, 20).grid(OU())[:-1]
    assert nodes == pytest.approx(np.geomspace(80, 0.05, 20))


def test_other_schedules_need_no_losses_and_stay_as_they_are():
    assert not EDM.needs_losses
    assert EDM().adapted(NORMAL, OU()) == EDM()


@EVERY
@CURVES
@pytest.mark.parametrize("steps", [1, 2, 3, 32, 300])
def test_the_adapted_grid_has_the_ends_and_the_steps_that_were_asked_for(schedule, losses, steps):
    grid = spec(schedule, steps).adapted(losses, OU()).grid(OU())
    assert len(grid) == steps + 1
    assert (grid[0], grid[-1]) == (80, 0)
    assert steps == 1 or grid[-2] == 0.05
    assert np.all(np.diff(grid) < 0)
    open_end = spec(schedule, steps, to_zero=False).adapted(losses, OU()).grid(OU())
    assert (len(open_end), *open_end[[0, -1]]) == (steps + 1, 80, 0.05)
    assert np.all(np.diff(open_end) < 0)


@EVERY
def test_what_is_shared_survives_the_adaptation(schedule):
    before = spec(schedule, 7, loss_samples=3, horizon_tolerance=0.5)
    after = before.adapted(NORMAL, OU())
    assert not after.needs_losses
    for key in ("steps", "sigma_max", "sigma_min", "to_zero", "loss_samples", "horizon_tolerance"):
        assert getattr(after, key) == getattr(before, key)


@EVERY
def test_a_horizon_is_where_the_adapted_grid_starts(schedule):
    process = VPLinear()
    after = spec(schedule, 9, horizon=0.4).adapted(NORMAL, process)
    assert after.grid(process)[0] == process.sigma(0.4)


@EVERY
def test_a_curve_that_is_too_short_is_refused_in_one_line(schedule):
    with pytest.raises(UserError, match=r"^sigma = 0\.002 is outside the loss curve.*$"):
        schedule(steps=9).adapted(NORMAL, OU())


@pytest.mark.parametrize("losses, steps, nats", [(NORMAL, 5, 2.793), (NORMAL, 20, 0.4975)])
@EVERY
def test_all_are_the_same_on_a_normal_law(schedule, losses, steps, nats):
    # There γ ↦ log(1 + γ) is the entropy and the root of the slope alike.
    assert kl(schedule, losses, steps) == pytest.approx(nats, abs=0.0005 if nats > 1 else 5e-5)


@EVERY
def test_the_nodes_of_a_normal_law_are_geometric_in_one_plus_snr(schedule):
    grid = spec(schedule, 20, to_zero=False).adapted(NORMAL, OU()).grid(OU())
    ratio = (1 + 0.05**-2) / (1 + 80**-2)
    tolerance = 0.01 if schedule is LAS else 1e-4
    assert np.diff(np.log1p(grid**-2)) == pytest.approx(np.log(ratio) / 20, rel=tolerance)
    exact = 0.5 * (20 * (ratio ** (1 / 20) - 1) - np.log(ratio))
    assert kl(schedule, NORMAL, 20) == pytest.approx(exact, rel=1e-5)


@pytest.mark.parametrize("steps, nats, digit", [(5, 0.5627, 1e-4), (20, 0.0885, 1e-4)])
def test_las_on_two_points(steps, nats, digit):
    assert kl(LAS, TWO_POINTS, steps) == pytest.approx(nats, abs=digit / 2)


@CURVES
def test_las_is_the_best_and_satisfies_the_condition_of_stationarity(losses):
    for steps in (2, 5, 20, 200):
        best = kl(LAS, losses, steps)
        for other in (Entropic, Asymptotic):
            assert best <= kl(other, losses, steps) * (1 + 1e-9)
    # γ_{k+1} = γ_k + (ℓ_{k-1} - ℓ_k) / (-ℓ'(γ_k)), up to the width of the refinement.
    if losses is not MEMORISED:
        grid = spec(LAS, 12, to_zero=False).adapted(losses, OU()).grid(OU())
        snr, loss, inner = grid**-2, losses.at(grid), grid[1:-1]
        slope = -np.diff([losses.at(inner * f) for f in (1 + 1e-5, 1 - 1e-5)], axis=0)[0]
        slope /= inner**-2 * ((1 - 1e-5) ** -2 - (1 + 1e-5) ** -2)
        assert snr[2:] == pytest.approx(snr[1:-1] + (loss[:-2] - loss[1:-1]) / slope, rel=0.01)


def test_the_steps_of_the_entropic_grid_have_equal_integrals():
    grid = spec(Entropic, 10, to_zero=False).adapted(TWO_POINTS, OU()).grid(OU())
    assert TWO_POINTS.integrals(grid) == pytest.approx(TWO_POINTS.integral(*ENDS) / 10, rel=1e-3)


def test_the_steps_of_the_asymptotic_grid_have_equal_integrals_of_the_root_of_the_slope():
    grid = spec(Asymptotic, 10, to_zero=False).adapted(TWO_POINTS, OU()).grid(OU())
    root = 2 * np.sqrt(TWO_POINTS.asymptotic_constant(*ENDS))
    assert TWO_POINTS.root_integrals(grid) == pytest.approx(root / 10, rel=1e-3)


@pytest.mark.parametrize(
    "fields",
    [
        {"steps": 3000},
        {"steps": 2048, "to_zero": False},
        {"steps": 5, "fine_levels": 4},
        {"steps": 1, "fine_levels": 1},
    ],
)
def test_more_nodes_than_candidates_are_refused_in_one_line(fields):
    with pytest.raises(UserError, match=r"^fine_levels=.* steps=.*$"):
        LAS(**fields)


def test_as_many_nodes_as_candidates_are_possible():
    grid = spec(LAS, 60, fine_levels=60).adapted(TWO_POINTS, OU()).grid(OU())
    assert len(grid) == 61


def test_over_log_snr_the_nodes_of_a_normal_law_are_uniform_in_the_arctangent():
    # The density σ γ √(-dℓ/dγ) is σ^-1 / (1 + σ^-2) per log σ: that of arctan σ.
    for steps in (20, 60):  # by density, and by the programme
        grid = spec(LAS, steps, measure="log_snr", to_zero=False).adapted(NORMAL, OU()).grid(OU())
        gaps = -np.diff(np.arctan(grid))[1:]
        if steps > 32:  # a left sum makes the first steps longer
            gaps = gaps[5:]
        assert gaps == pytest.approx(gaps.mean(), rel=1e-3 if steps < 32 else 0.15)


@CURVES
def test_measures_go_from_nats_to_samples(losses):
    grids = {
        g: spec(LAS, 12, measure=g).adapted(losses, OU()).grid(OU())
        for g in (0, "snr", 0.5, 1, "log_snr")
    }
    assert grids[0].tolist() == grids["snr"].tolist()
    assert grids[1].tolist() == grids["log_snr"].tolist()
    # The less low noise weighs, the higher the levels.
    assert np.all(grids[0.5][1:-2] <= grids[1][1:-2] * (1 + 1e-6))


def test_the_programme_over_log_snr_makes_its_own_sum_least():
    best = spec(LAS, 40, measure=1, to_zero=False).adapted(TWO_POINTS, OU()).grid(OU())
    nats = spec(LAS, 40, to_zero=False).adapted(TWO_POINTS, OU()).grid(OU())
    assert TWO_POINTS.sum(best, 1.0) < TWO_POINTS.sum(nats, 1.0)
    assert TWO_POINTS.sum(best, 0.0) > TWO_POINTS.sum(nats, 0.0)


@pytest.mark.parametrize("measure", ["nats", -1, 3.0])
def test_what_is_no_measure_is_refused_in_one_line(measure):
    with pytest.raises(
        UserError, match=r"^measure=.* is neither auto nor ancestral nor snr nor log_snr nor .*$"
    ):
        LAS(measure=measure)


def test_ancestral_steps_have_a_density_of_their_own():
    """For N(0, 1), R = 2σ²/(1 + σ²)² and R + ½ R' = 4σ²/(1 + σ²)³: quantiles by a fine sum."""
    grid = spec(LAS, 9, measure="ancestral", to_zero=False).adapted(NORMAL, OU()).grid(OU())
    x = np.linspace(*np.log(grid[[0, -1]]), 20001)
    square = np.exp(2 * x)
    density = (8 * square**2 / (1 + square) ** 5) ** 0.25
    reached = np.append(0, np.cumsum(density[1:] + density[:-1]))
    wanted = np.exp(np.interp(np.linspace(0, reached[-1], 10), reached, x))
    assert grid == pytest.approx(wanted, rel=0.03)
    usual = spec(LAS, 9, measure="log_snr", to_zero=False).adapted(NORMAL, OU()).grid(OU())
    assert np.all(grid[1:-1] < usual[1:-1])


def test_the_measure_follows_the_sampler():
    for sampler, measure in (
        (Ancestral(), "ancestral"),
        (DDPM(), "ancestral"),
        (DDIM(eta=1.0), "ancestral"),
        (DDIM(), "log_snr"),
        (Heun(), "log_snr"),
    ):
        assert LAS().serving(is_ancestral=sampler.is_ancestral).measure == measure
    assert LAS(measure="snr").serving(is_ancestral=True).measure == "snr"
    assert EDM().serving(is_ancestral=True) == EDM()
