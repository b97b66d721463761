"""Grids that are found by descent."""

import jax.numpy as jnp
import numpy as np
import pytest

from gdiff.budget.forecast import GaussianForecast
from gdiff.budget.spectrum import Spectrum
from gdiff.errors import UserError
from gdiff.process.vp import VPLinear
from gdiff.sampler.methods.ancestral import Ancestral
from gdiff.sampler.methods.ddim import DDIM
from gdiff.sampler.methods.ddpm import DDPM
from gdiff.sampler.methods.dpmpp_2m import DPMpp2M
from gdiff.sampler.methods.heun import Heun
from gdiff.sampler.methods.li_cai import LiCai
from gdiff.sampler.methods.midpoint import Midpoint
from gdiff.schedule.compare import compare
from gdiff.schedule.descent import descended
from gdiff.schedule.edm import EDM
from gdiff.schedule.las import LAS
from gdiff.schedule.optimal import Optimal

ENDS = {"sigma_max": 80.0, "sigma_min": 0.002}
VARIANCE = np.geomspace(20, 1e-4, 12)
SPECTRUM = Spectrum(VARIANCE, np.ones(12), VARIANCE, np.zeros(12))


def test_descent_finds_the_best_levels_of_a_sum_that_is_known():
    """Σ log² of the ratios is least where they are equal; with a free end, where it says so."""

    def spread(levels):
        return 1 + jnp.sum(jnp.diff(jnp.log(levels)) ** 2)

    start = np.array([10.0, 9.0, 2.0, 0.1])
    [found] = descended(spread, [start])
    assert found == pytest.approx(np.geomspace(10, 0.1, 4), rel=1e-3)
    [found] = descended(lambda x: 1 + (x[-1] - 3) ** 2 + spread(x), [start], is_free=True)
    assert found[0] == pytest.approx(10)
    assert np.all(np.diff(found) < 0)
    assert found[-1] > 3


@pytest.mark.parametrize("method", [DDIM(), DPMpp2M()])
def test_the_optimum_is_below_all_other_grids(method):
    forecast = GaussianForecast(SPECTRUM, method)
    grid = Optimal(steps=6, **ENDS).found(forecast, VPLinear()).grid(VPLinear())
    assert (len(grid), *grid[[0, -2, -1]]) == (7, 80, 0.002, 0)
    others = compare(SPECTRUM.losses((80, 0.002)), VPLinear(), 5, 80, 0.002)
    costs = {name: forecast.of(np.append(nodes, 0)) for name, nodes in others.items()}
    assert forecast.of(grid) < min(costs.values())
    if isinstance(method, DDIM):  # where the density of las is nearly the best
        assert costs["las"] < 1.05 * forecast.of(grid)
        again = Optimal(steps=6, **ENDS).found(forecast, VPLinear()).grid(VPLinear())
        assert again.tolist() == grid.tolist()


def test_the_loss_places_ancestral_steps_better_than_those_of_the_ode():
    """Squared Fréchet distances of grids with the same ends."""
    losses = SPECTRUM.losses((80, 0.002))
    for method in (Ancestral(), DDPM()):
        forecast = GaussianForecast(SPECTRUM, method)
        for steps in (10, 20, 50):
            costs = [
                forecast.of(
                    LAS(steps=steps, measure=m).adapted(losses, VPLinear()).grid(VPLinear())
                )
                for m in ("ancestral", "log_snr")
            ]
            assert costs[0] < costs[1]


@pytest.mark.slow
@pytest.mark.parametrize("steps", [5, 10, 20, 50])
@pytest.mark.parametrize("method", [DDIM(), Ancestral(), DPMpp2M(), Heun(), Midpoint(), LiCai()])
def test_the_optimum_is_below_all_other_grids_for_any_sampler(method, steps):
    forecast = GaussianForecast(SPECTRUM, method)
    grid = Optimal(steps=steps, **ENDS).found(forecast, VPLinear()).grid(VPLinear())
    others = compare(SPECTRUM.losses((80, 0.002)), VPLinear(), steps - 1, 80, 0.002)
    assert forecast.of(grid) < min(forecast.of(np.append(nodes, 0)) for nodes in others.values())


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["frechet", "sliced_w2", "kl"])
def test_every_objective_is_least_on_its_own_grid(objective):
    names = ("frechet", "sliced_w2", "kl")
    forecasts = {name: GaussianForecast(SPECTRUM, DDIM(), objective=name) for name in names}
    grids = {
        name: Optimal(steps=6, objective=name, **ENDS).found(forecasts[name], VPLinear())
        for name in names
    }
    costs = {name: forecasts[objective].of(g.grid(VPLinear())) for name, g in grids.items()}
    assert min(costs, key=costs.get) == objective


@pytest.mark.slow
def test_a_free_end_does_better_than_a_fixed_one():
    forecast = GaussianForecast(SPECTRUM, DDIM())
    fixed = Optimal(steps=5, **ENDS).found(forecast, VPLinear()).grid(VPLinear())
    free = Optimal(steps=5, sigma_min="auto").found(forecast, VPLinear()).grid(VPLinear())
    assert free[0] == 80
    assert free[-2] > 0.002
    assert forecast.of(free) < forecast.of(fixed)


def test_few_levels_leave_nothing_to_find():
    forecast = GaussianForecast(SPECTRUM, DDIM())
    for steps, levels in ((1, [80, 0]), (2, [80, 0.002, 0])):
        found = Optimal(steps=steps, **ENDS).found(forecast, VPLinear())
        assert found.grid(VPLinear()).tolist() == levels


def test_the_lowest_level_is_high_for_few_steps():
    forecast = GaussianForecast(SPECTRUM, DDIM())
    lowest = []
    for steps in (4, 10, 40):
        spec = EDM(steps=steps, sigma_min="auto")
        assert spec.needs_forecast
        assert spec.grid(VPLinear())[-2] == 0.002  # until it is found
        lowest.append(spec.settled(forecast, VPLinear()).sigma_min)
    assert lowest[0] > lowest[1] > lowest[2]
    assert EDM().settled(forecast, VPLinear()) == EDM()


def test_options_that_cannot_be_are_refused_in_one_line():
    with pytest.raises(UserError, match=r"^objective='looks' is not one of: frechet"):
        Optimal(objective="looks")
    with pytest.raises(UserError, match=r"^sigma_min=auto: divergences"):
        Optimal(objective="kl", sigma_min="auto")
    with pytest.raises(UserError, match=r"^sigma_min=low is not a number, nor auto$"):
        EDM(sigma_min="low")
