"""What a run measures on request, and what it refuses before it draws."""

import json
from pathlib import Path

import pytest

from tests.commands import gdiff, sampled

JOB = ("num_samples=6", "schedule.steps=3", "runtime.mesh=batch:1", "metrics.budget=false")
FILTER = (*JOB, "score=wiener", "prior=gaussian", "metrics.score_error=never")

pytestmark = pytest.mark.usefixtures("in_empty_folder", "silent", "undrawn")


def test_a_run_codes_points_that_it_knows_and_others():
    words = ("dataset=digits", "dataset.subset=400", "metrics.bits_points=8")
    run = sampled((*FILTER, *words), "run", "metrics.bits_per_dim=true")
    metrics = json.loads((run / "metrics.json").read_text())
    assert 1 < metrics["bits_per_dim_train"] < metrics["bits_per_dim"] + 0.5 < 5
    assert metrics["bits_per_dim_se"] > 0
    about = json.loads((run / "bits.json").read_text())
    assert (about["discrete"], about["held_out"]["points"]) == (True, 8)
    before = metrics["bits_per_dim"]
    assert gdiff("evaluate", run, "metrics.bits_points=4").code == 0
    after = json.loads((run / "metrics.json").read_text())["bits_per_dim"]
    assert after != before


@pytest.mark.parametrize(
    "words, said",
    [
        (("dataset=digits", "metrics.bits_per_dim=true"), "dataset.subset=N"),
        (("dataset=swiss_roll", "metrics.classifier=true"), "has no labels"),
        (
            ("dataset=digits", "dataset.subset=100", "condition=each", "metrics.bits_per_dim=true"),
            "condition=null",
        ),
        (("dataset=digits", "metrics.bits_probes=1"), "bits_probes=1"),
    ],
)
def test_what_the_data_do_not_have_is_one_line(words, said):
    result = gdiff("sample", "-q", *FILTER, *words, "hydra.run.dir=run")
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert said in result.err
    assert not Path("run/samples.npz").is_file()
