"""Properties that every schedule shares."""

import numpy as np
import pytest

from gdiff.errors import UserError
from gdiff.process.cosine import Cosine
from gdiff.process.ddpm import DDPM
from gdiff.process.flow import LinearFlow
from gdiff.process.ou import OU
from gdiff.process.ve import VE
from gdiff.process.vp import VPLinear
from gdiff.schedule.ddpm import DDPMIndices
from gdiff.schedule.edm import EDM
from gdiff.schedule.logsnr import LogSNR
from gdiff.schedule.piadm import Piadm
from gdiff.schedule.time import UniformTime
from gdiff.schedule.uniform import UniformSigma

CONTINUOUS = [LogSNR, EDM, UniformSigma, UniformTime]
SCHEDULES = [*CONTINUOUS, DDPMIndices]


@pytest.mark.parametrize("schedule", CONTINUOUS)
@pytest.mark.parametrize("process", [OU(), VPLinear(), Cosine(), VE(), LinearFlow()])
@pytest.mark.parametrize("steps", [2, 3, 32, 1000])
def test_the_grid_runs_from_sigma_max_over_sigma_min_to_zero(schedule, process, steps):
    grid = schedule(steps=steps).grid(process)
    assert grid.shape == (steps + 1,)
    assert grid.dtype == np.float64
    assert grid[[0, -2, -1]].tolist() == [80.0, 0.002, 0.0]
    assert np.all(np.diff(grid) < 0)


@pytest.mark.parametrize("schedule", CONTINUOUS)
@pytest.mark.parametrize("steps", [1, 2, 1000])
def test_the_grid_can_end_at_sigma_min(schedule, steps):
    grid = schedule(steps=steps, sigma_max=3.0, sigma_min=0.1, to_zero=False).grid(OU())
    assert grid.shape == (steps + 1,)
    assert grid[[0, -1]].tolist() == [3.0, 0.1]
    assert np.all(np.diff(grid) < 0)


@pytest.mark.parametrize("schedule", CONTINUOUS)
def test_one_step_to_zero_evaluates_the_denoiser_at_sigma_max_only(schedule):
    assert schedule(steps=1).grid(OU()).tolist() == [80.0, 0.0]


@pytest.mark.parametrize("schedule", CONTINUOUS)
def test_halving_the_steps_keeps_the_other_nodes(schedule):
    fine = schedule(steps=8, sigma_max=20.0, sigma_min=0.1, to_zero=False).grid(VE())
    coarse = schedule(steps=4, sigma_max=20.0, sigma_min=0.1, to_zero=False).grid(VE())
    assert fine[::2] == pytest.approx(coarse)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(
    "key,fields",
    [
        ("steps", {"steps": 0}),
        ("steps", {"steps": -3}),
        ("sigma_min", {"sigma_min": 0.0}),
        ("sigma_min", {"sigma_min": np.nan}),
        ("sigma_max", {"sigma_max": np.inf}),
        ("sigma_max", {"sigma_max": -1.0}),
        ("sigma_min", {"sigma_min": 2.0, "sigma_max": 2.0}),
        ("sigma_min", {"sigma_min": 3.0, "sigma_max": 2.0}),
    ],
)
def test_impossible_options_are_refused_in_one_line(schedule, key, fields):
    with pytest.raises(UserError, match=rf"^{key}=.*$"):
        schedule(**fields)


def test_levels_that_coincide_in_float64_are_refused():
    tight = LogSNR(steps=50, sigma_max=1 + 1e-15, sigma_min=1.0)
    with pytest.raises(UserError, match=r"^schedule\.steps=50 .*$"):
        tight.grid(OU())


@pytest.mark.parametrize(
    "key,value",
    [
        ("horizon", 0.0),
        ("horizon", -1),
        ("horizon", np.nan),
        ("horizon", np.inf),
        ("horizon", "long"),
        ("horizon_tolerance", 0.0),
        ("horizon_tolerance", np.inf),
        ("loss_on", "valid"),
        ("loss_type", "u"),
        ("loss_samples", 0),
    ],
)
@pytest.mark.parametrize("schedule", [*SCHEDULES, Piadm])
def test_impossible_shared_options_are_refused_in_one_line(schedule, key, value):
    with pytest.raises(UserError, match=rf"^{key}=.*$"):
        schedule(**{key: value})


@pytest.mark.parametrize("schedule", [*CONTINUOUS, Piadm])
@pytest.mark.parametrize("process, horizon", [(VPLinear(), 0.4), (OU(), 2), (LinearFlow(), 0.75)])
def test_a_horizon_is_sigma_max_as_a_time_of_the_process(schedule, process, horizon):
    sigma = float(process.sigma(horizon))
    spec = schedule(horizon=horizon)
    same = schedule(sigma_max=sigma)
    assert spec.grid(process).tolist() == same.grid(process).tolist()
    assert spec.blocks(process) == same.blocks(process)
    assert spec.first_level(process) == sigma
    assert spec.started(process) == spec.starting_at(sigma) == same


def test_a_horizon_leaves_out_noisier_indices():
    spec = DDPMIndices(steps=5, spacing="trailing", horizon=499)
    assert DDPM().time(spec.grid(DDPM())[:-1]) == pytest.approx([499, 399, 299, 199, 99])
    assert DDPMIndices(steps=5).first_level(DDPM()) == DDPM().sigma(800)


@pytest.mark.parametrize("schedule", [*CONTINUOUS, Piadm])
def test_sigma_max_stands_in_for_a_horizon_that_is_to_be_found(schedule):
    spec = schedule(horizon="auto")
    assert spec.first_level(VPLinear()) == 80
    assert spec.blocks(VPLinear()) == schedule().blocks(VPLinear())
    assert spec.starting_at(3.0) == schedule(sigma_max=3.0)


@pytest.mark.parametrize(
    "process, horizon, message",
    [
        (VPLinear(), 1.5, r"is outside the times 0 to 1 of the process VPLinear"),
        (LinearFlow(), 1.0, r"is sigma = inf: choose an earlier time"),
        (VE(), 0.01, r"is sigma = 0\.01, below schedule\.sigma_min=0\.05: raise .*"),
        (VE(), 0.05, r"is sigma = 0\.05, at schedule\.sigma_min=0\.05: raise .*"),
    ],
)
@pytest.mark.parametrize("schedule", [*SCHEDULES, Piadm])
def test_an_impossible_horizon_is_refused_in_one_line(schedule, process, horizon, message):
    spec = schedule(horizon=horizon, sigma_min=0.05)
    with pytest.raises(UserError, match=rf"^schedule\.horizon={horizon} {message}$"):
        spec.grid(process)
