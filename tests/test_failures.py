"""A picture, a plot or a metric that cannot be made does not cost the run."""

import json
from pathlib import Path

import numpy as np
import pytest
from commands import gdiff

from gdiff import figures
from gdiff.dataset.base import Dataset
from gdiff.errors import Failures, UserError
from gdiff.metrics import DISTANCES, NONFINITE, MetricsSpec, compute
from gdiff.metrics.sliced import SlicedW2
from gdiff.trajectory import Batches, Queries

# As few programs as there may be: the exact score on a line, whose budget needs little.
JOB = ("dataset=two_points", "num_samples=5", "schedule.steps=3", "runtime.mesh=batch:1")
JOB = (*JOB, "metrics.neighbours=1")  # of two points
PLAIN = (*JOB, "metrics.budget=false")
IMAGES = ("dataset=digits", "dataset.subset=20", *PLAIN[1:])

pytestmark = pytest.mark.usefixtures("in_empty_folder", "silent", "undrawn")


def fail(*_, **__):
    raise ValueError("too wide")


def exhaust(*_, **__):
    raise MemoryError("Unable to allocate 149. GiB")


def read(name, folder="run"):
    return json.loads(Path(folder, name).read_text())


def sample(*words):
    return gdiff("sample", "-q", *words, "hydra.run.dir=run")


@pytest.mark.parametrize(
    "job, target, named, missing",
    [
        (PLAIN, (figures, "picture"), "picture", "grid.png"),
        (IMAGES, (figures, "neighbours"), "neighbours", "neighbours.png"),
        (PLAIN, (SlicedW2, "compute"), "metrics: sliced_w2 and sliced_w2_null", None),
        ((*PLAIN, "trajectory=true"), (figures, "trajectory_gif"), "trajectory", "trajectory.gif"),
        (
            (*JOB, "metrics.budget=true"),
            (figures, "budget_figure"),
            "budget: budget.png",
            "budget.png",
        ),
        (
            (*PLAIN, "metrics.score_error=always"),
            (figures, "score_error"),
            "score error: score_error.png",
            "score_error.png",
        ),
    ],
)
def test_what_fails_is_named_and_the_rest_is_there(monkeypatch, job, target, named, missing):
    with monkeypatch.context() as patched:
        patched.setattr(*target, fail)
        result = sample(*job)
    assert result.code == 1
    assert result.out.splitlines() == ["run"]
    assert result.err.count("\n") == 1
    assert result.err.startswith(f"error: {named} could not be made (ValueError: too wide)")
    assert "all else is in run" in result.err
    metrics = read("metrics.json")
    lost = set(SlicedW2.names) if "sliced_w2" in named else set()
    assert set(DISTANCES) - set(metrics) == lost
    assert read("run.json")["failed"].keys() == {named}
    assert "JAX_PLATFORMS" in read("run.json")["environment"]
    assert "Traceback" in Path("run/gdiff.log").read_text()
    assert (Path("run/grid.png").is_file(), Path("run/samples.npz").is_file()) == (
        missing != "grid.png",
        True,
    )
    if named == "trajectory":  # its states are gone
        return
    before = Path("run/samples.npz").read_bytes()
    assert gdiff("sample", "-q", "--resume", "run") == (0, "run\n", "")
    assert not read("run.json")["failed"]
    assert missing is None or Path("run", missing).is_file()
    assert set(DISTANCES) <= read("metrics.json").keys()
    assert Path("run/samples.npz").read_bytes() == before


def test_states_that_could_not_be_kept_are_drawn_again(monkeypatch):
    content, calls = Queries.to_bytes, []

    def second(self):
        calls.append(1)
        return fail() if len(calls) == 1 else content(self)

    monkeypatch.setattr(Queries, "to_bytes", second)
    result = sample(*PLAIN, "metrics.score_error=always")
    assert (result.code, len(calls)) == (0, 2)
    assert Path("run/score_error.csv").is_file()
    assert not read("run.json")["failed"]


def test_a_picture_beyond_memory_says_what_to_lower(monkeypatch):
    monkeypatch.setattr(figures, "picture", exhaust)
    result = sample(*PLAIN)
    assert result.code == 1
    why = "memory ran out in picture, Unable to allocate 149. GiB: lower picture_samples"
    assert result.err.startswith(f"error: picture could not be made ({why}")


def test_an_interrupt_is_not_a_failure(monkeypatch):
    def interrupted(*_, **__):
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as error:
            raise RuntimeError("a library in cleaning up") from error

    monkeypatch.setattr(figures, "picture", interrupted)
    assert sample(*PLAIN).code == 130
    assert read("run.json")["status"] == "interrupted"


def test_failures_are_single_lines():
    failed = Failures()
    for name, error in (("a", UserError("too few")), ("b", ValueError("x\ny")), ("c", OSError())):
        with failed.spare(name):
            raise error
    assert failed == {"a": "too few", "b": "ValueError: x y", "c": "OSError"}
    assert failed.line().startswith("a could not be made (too few); b could")
    assert Failures.of({"failed": failed}) == failed
    assert not any(map(Failures.of, ({}, {"failed": None}, {"failed": [1]}, {"failed": {}})))


def test_a_run_of_a_sweep_that_lacks_a_part_keeps_its_metrics(monkeypatch):
    picture, calls = figures.picture, []

    def second(*arguments, **look):
        calls.append(1)
        return fail() if len(calls) == 2 else picture(*arguments, **look)

    monkeypatch.setattr(figures, "picture", second)
    words = ("-m", *PLAIN, "seed=1,2", "hydra.sweep.dir=s")
    result = gdiff("sample", "-q", *words)
    assert result.code != 0
    assert "1 of 2 runs failed: 1" in result.err
    header, first, last = Path("s/sweep.csv").read_text().splitlines()
    row = dict(zip(header.split(","), last.split(","), strict=True))
    assert row["status"] == "failed"
    assert float(row["nn_distance"]) >= 0
    assert row["error"].startswith("picture could not be made")
    assert ",complete," in first


def test_an_evaluation_leaves_no_number_of_another_time(monkeypatch):
    assert sample(*PLAIN).code == 0
    path = Path("run/metrics.json")
    whole = read("metrics.json")
    with monkeypatch.context() as patched:
        broken = np.full((5, 1), np.nan, np.float32)
        patched.setattr("gdiff.run.RunFolder.samples", lambda *_: broken)
        assert gdiff("evaluate", "run").code == 0
    metrics = read("metrics.json")
    assert metrics[NONFINITE] == 5
    assert not metrics.keys() & set(DISTANCES)
    assert metrics["seconds_per_sample"] == whole["seconds_per_sample"]
    path.write_text(json.dumps(metrics | {"mine": 1.0}))
    assert gdiff("evaluate", "run").code == 0
    assert read("metrics.json") == whole | {"mine": 1.0}


def test_an_evaluation_names_what_it_could_not_compute(monkeypatch):
    assert sample(*PLAIN).code == 0
    with monkeypatch.context() as patched:
        patched.setattr(SlicedW2, "compute", fail)
        result = gdiff("evaluate", "run")
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert "sliced_w2 and sliced_w2_null could not be made" in result.err
    assert not read("metrics.json").keys() & {"sliced_w2", "sliced_w2_null"}
    assert gdiff("evaluate", "run").code == 0
    assert "sliced_w2" in read("metrics.json")
    assert not read("run.json")["failed"]


def test_metrics_alone_raise_what_they_raise(monkeypatch):
    monkeypatch.setattr(SlicedW2, "compute", fail)
    x = np.random.default_rng(0).standard_normal((9, 2)).astype(np.float32)
    with pytest.raises(ValueError, match="too wide"):
        compute(MetricsSpec(), x, Dataset("d", x))


@pytest.mark.parametrize("target", [(Batches, "draw"), ("gdiff.run.RunFolder.samples",)])
def test_what_a_run_cannot_do_without_fails_it(monkeypatch, target):
    monkeypatch.setattr(*target, exhaust)
    result = sample(*PLAIN)
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert result.err.startswith(
        "error: memory ran out in the run, Unable to allocate 149. GiB: lo"
    )
