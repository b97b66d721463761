import json
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from commands import gdiff

from gdiff.budget.initialization import Nats
from gdiff.schedule.las import LAS
from gdiff.schedule.losses import LossCurve
from gdiff.study.plan import Found, Setting, _first, _Search

PLUGIN = Path(__file__).parents[1] / "plugin"

MOONS = ("dataset=moons", "dataset.num_points=200")


pytestmark = pytest.mark.usefixtures("in_empty_folder")


def test_a_grid_is_judged_by_other_draws_than_it_was_made_for():
    sigma = np.geomspace(80, 0.01, 40)
    loss = 1 / (1 + sigma**-2.0)
    spread = np.linspace(0.8, 1.2, 8)[:, None]
    flattering, honest = (LossCurve(sigma, c * loss, c * spread * loss) for c in (0.5, 1.0))
    search = _Search(None, flattering, honest, 2.0, 80.0, 0.01)
    prior = Nats(0.3, 0.1)
    steps, cost = search.fewest(80.0, [prior], 256)

    def at_most(steps):
        grid = search.optimum(80.0).nodes(steps + 1)
        errors = np.hypot(0.1, honest.discretization_error(grid))
        return 0.3 + honest.discretization(grid) + 2 * errors

    assert at_most(steps) <= 2.0 < at_most(steps - 1)
    assert cost.nats == honest.discretization(search.optimum(80.0).nodes(steps + 1))
    assert search.fewest(80.0, [prior], steps - 1) is None


@pytest.mark.parametrize("least, low, high", [(1, 1, 1), (7, 1, 100), (7, 7, 7), (100, 3, 100)])
def test_the_first_number_that_is_enough_is_found_in_few_trials(least, low, high):
    asked = []
    found = _first(lambda n: asked.append(n) or n >= least, low, high)
    assert found == least
    assert len(asked) <= 16
    assert _first(lambda n: False, low, high) is None


@pytest.mark.slow
@pytest.mark.parametrize("tolerance", [1, 3, 10])
def test_a_run_keeps_within_the_budget_that_was_promised(tolerance):
    plan = json.loads(gdiff("plan", f"tolerance={tolerance}", "dataset=digits", "--json").out)
    run = gdiff("sample", *plan["overrides"], "-q", "num_samples=4", "hydra.run.dir=run")
    assert run.code == 0, run.err
    with open("run/budget.json") as file:
        total = json.load(file)["total"]
    assert plan["setting"]["at_most"] <= tolerance
    assert total["nats"] <= tolerance + total["standard_error"]


@pytest.mark.slow
def test_the_setting_found_is_cheap_and_keeps_its_promise():
    replaced = ("prior=ppca", "prior.rank=1", "sampler.eta=0.5", "schedule.rho=3")
    result = gdiff("plan", "tolerance=0.3", *MOONS, *replaced)
    assert result.code == 0, result.err
    words = shlex.split(result.last)
    assert words[:2] == ["gdiff", "sample"]
    assert set(MOONS) < set(words)
    assert not {"sampler.eta=0.5", "schedule.rho=3"} & set(words)
    # The prior found is this one with its options, or another without them.
    assert ("prior=ppca" in words) == ("prior.rank=1" in words)
    run = gdiff(*words[1:], "-q", "num_samples=4", "hydra.run.dir=run")
    assert run.code == 0, run.err
    with open("run/budget.json") as file:
        budget = json.load(file)
    total = budget["total"]
    assert total["nats"] < 0.3 + 2 * total["standard_error"]
    with open("run/metrics.json") as file:
        found = json.load(file)
    plan = json.loads(gdiff("plan", "tolerance=0.3", *MOONS, "--json").out)
    assert found["denoiser_evaluations"] == plan["setting"]["evaluations"]
    assert plan["times_fewer_evaluations"] > 3
    assert plan["usual"]["total"] <= 0.3


def test_the_command_finds_the_users_own_parts_again(tmp_path, monkeypatch):
    """The search itself stands in for one that finds what it was given, with another schedule."""

    def found(experiment, priors, tolerance):
        schedule = LAS(steps=5, sigma_max=3.0)
        setting = Setting("mine", 3.0, 5, None, 0.0, 0.0, 0.0, 0.0)
        result = {"tolerance": tolerance, "setting": setting._asdict() | {"total": 0.0}}
        result |= {"usual": None, "times_fewer_evaluations": None}
        own = {"schedule": "las", "prior": "mine"}
        return Found(result, replace(experiment, schedule=schedule), own)

    monkeypatch.setattr("gdiff.study.plan.main", found)
    shutil.copytree(PLUGIN, tmp_path, dirs_exist_ok=True)
    (tmp_path / "my groups").mkdir()
    options = ("--config-dir", "my groups", "--plugin", "tiny_parts")
    words = ("prior=mine", "prior.factor=2", "schedule.rho=3", "seed=1")
    result = gdiff("plan", *options, "tolerance=1", *words)
    assert result.code == 0, result.err
    command = shlex.split(result.last)
    (left,) = Path("outputs").glob("*/*")
    assert {"config.yaml", "gdiff.log", "plan.json"} <= {path.name for path in left.iterdir()}
    assert json.loads((left / "plan.json").read_text())["overrides"] == command[6:]
    changed = ["schedule.steps=5", "schedule.sigma_max=3.0"]
    expected = [*options, "prior=mine", "prior.factor=2", "seed=1", "schedule=las", *changed]
    assert command == ["gdiff", "sample", *expected]
    assert gdiff(*command[1:], "--dry-run").code == 0


@pytest.mark.parametrize(
    "words, message",
    [
        ((), "gdiff plan needs one tolerance"),
        (("tolerance=0.1", "tolerance=1"), "gdiff plan needs one tolerance"),
        (("tolerance=much",), "tolerance=much is not a number"),
        (("tolerance=-1",), "tolerance=-1.0 must be positive"),
        (("tolerance=1", "score=wiener"), "is about the exact score"),
        (("tolerance=1", "schedule=las"), "finds the grid itself"),
        (("tolerance=1", "objective=frechet", "schedule=las"), "finds the grid itself"),
        (("tolerance=1", "objective=looks"), "is not one of: nats, frechet, sliced_w2"),
        (("tolerance=1e-12", *MOONS), "the nearest prior"),
        pytest.param(
            ("tolerance=1e-4", *MOONS, "schedule.sigma_max=1000"),
            "the least is",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_what_cannot_be_planned_is_said_in_one_line(words, message):
    result = gdiff("plan", *words)
    assert result.code == 2
    assert message in result.err.splitlines()[-1]


def test_a_distance_is_met_by_fewer_evaluations_than_usual():
    words = ("tolerance=0.2", "objective=sliced_w2", *MOONS, "prior=gaussian")
    result = gdiff("plan", *words, "--json")
    assert result.code == 0, result.err
    found = json.loads(result.out)
    assert found["setting"]["distance"] <= 0.2
    assert found["setting"]["evaluations"] < found["usual"]["evaluations"]
    assert {"schedule=optimal", "schedule.sigma_min=auto"} < set(found["overrides"])
    steps = f"schedule.steps={found['setting']['steps']}"
    assert steps in found["overrides"]
    assert gdiff("sample", *found["overrides"], "--dry-run").code == 0
