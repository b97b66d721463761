import json
import shlex

import pytest
from commands import gdiff

MOONS = ("dataset=moons", "dataset.num_points=200")


@pytest.fixture(autouse=True)
def _in_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


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


@pytest.mark.parametrize(
    "words, message",
    [
        ((), "gdiff plan needs one tolerance"),
        (("tolerance=0.1", "tolerance=1"), "gdiff plan needs one tolerance"),
        (("tolerance=much",), "tolerance=much is not a number"),
        (("tolerance=-1",), "tolerance=-1.0 must be positive"),
        (("tolerance=1", "score=wiener"), "is about the exact score"),
        (("tolerance=1", "schedule=las"), "finds the grid itself"),
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
