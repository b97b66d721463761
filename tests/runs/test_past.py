"""Runs of the past: found, read without trust, chosen, told apart."""

import fcntl
import math
import os

import numpy as np
import pytest
from past import add_samples, config, damage, make, make_sweep

from gdiff import runs
from gdiff.errors import UserError
from gdiff.runs import series
from gdiff.store.files import DamagedError, read_first


def found(folder):
    return runs.find([folder])[0]


def test_runs_are_found_wherever_they_lie_in_the_order_of_their_numbers(tmp_path):
    for name in ("2026/b", "2026/10", "2026/9"):
        make(tmp_path / name, config())
    (tmp_path / "2026/other").mkdir()
    (tmp_path / ".trash").mkdir()
    make(tmp_path / ".trash/run", config())
    assert [run.name for run in found(tmp_path)] == ["2026/9", "2026/10", "2026/b"]
    both, _ = runs.find([tmp_path / "2026", tmp_path / "2026/9"])
    assert [run.name for run in both] == ["2026/9", "2026/10", "2026/b"]
    (one,) = found(tmp_path / "2026/9")
    assert one.name == "9"
    with pytest.raises(UserError, match="there is no folder"):
        runs.find([tmp_path / "nothing"])


def test_a_run_tells_its_settings_by_option_and_how_to_repeat_it(tmp_path):
    words = ["dataset=moons", "name=it's; rm -rf"]
    make(tmp_path / "a", config(steps=7), {"sliced_w2": 0.5}, words=words)
    (run,) = found(tmp_path)
    assert run.settings["dataset"] == "moons"
    assert run.settings["schedule.steps"] == 7
    assert run.metrics == {"sliced_w2": 0.5}
    assert run.command == "gdiff sample dataset=moons 'name=it'\"'\"'s; rm -rf'"
    assert run.size == sum(f.stat().st_size for f in tmp_path.rglob("*") if f.is_file())
    assert 0 <= run.age < 600


def test_a_run_without_hydras_record_is_told_by_its_classes(tmp_path):
    foreign = config(extra={"_target_": "my_package.score.Mine"})
    (run,) = found(make(tmp_path / "a", foreign).parent)
    assert (run.settings["dataset"], run.command, run.plugins) == ("moons", None, ["my_package"])


def test_what_is_damaged_is_named_and_left_out(tmp_path):
    messages = damage(tmp_path)
    make(tmp_path / "whole", config())
    good, damaged = runs.find([tmp_path])
    assert [run.name for run in good] == ["whole"]
    assert len(damaged) == len(messages)
    for name, message in messages.items():
        (line,) = [line for line in damaged if f"/{name}" in line]
        assert message in line
        assert "\n" not in line


def test_a_named_pipe_is_not_waited_for(tmp_path):
    run = make(tmp_path / "a", config())
    (run / "run.json").unlink()
    os.mkfifo(run / "run.json")
    (run / ".hydra").mkdir()
    (run / ".hydra/overrides.yaml").write_text("[]")
    assert "is a named pipe" in runs.find([tmp_path])[1][0]


def test_a_run_that_nobody_works_on_is_interrupted(tmp_path):
    folder = make(tmp_path / "a", config(), status="running")
    lock = (folder / ".lock").open("w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    assert found(tmp_path)[0].status == "running"
    lock.close()
    assert found(tmp_path)[0].status == "interrupted"
    make(tmp_path / "b", config(), status="failed", error="no data")
    make(tmp_path / "c", config(), failed={"budget": "no room"})
    states = [(run.status, run.problem) for run in found(tmp_path)]
    assert states[1:] == [
        ("failed", "no data"),
        ("partial", "budget could not be made (no room)"),
    ]


def test_what_differs_is_without_what_follows(tmp_path):
    sweep = found(make_sweep(tmp_path / "s"))
    assert [d.key for d in runs.differing(sweep)] == ["sampler", "schedule.steps", "seed"]
    assert "sampler.eta" in [d.key for d in runs.differing(sweep, whole=True)]
    assert runs.common(sweep) == {"dataset": "moons", "schedule": "edm"}
    make(tmp_path / "eta", config(), words=["sampler.eta=0.0"])
    more = [*sweep, *found(tmp_path / "eta")]
    assert "sampler.eta" not in [d.key for d in runs.differing(more)]  # the same where it is
    make(tmp_path / "other", config() | {"sampler": {"_target_": "a.Ddim", "eta": 1.0}})
    more = [*sweep, *found(tmp_path / "other")]
    assert "sampler.eta" in [d.key for d in runs.differing(more)]


def test_runs_are_chosen_and_ordered(tmp_path):
    sweep = found(make_sweep(tmp_path / "s"))

    def names(*conditions):
        return [run.name for run in runs.chosen(sweep, conditions)]

    assert names("sampler=ddim", "schedule.steps>10") == ["2", "3"]
    assert names("sampler=heun,euler", "seed!=0") == ["5", "7"]
    assert names("schedule.steps=1e1", "seed<1") == ["0", "4"]
    assert names("sliced_w2<=0.01", "status=complete") == ["2"]
    assert names("sampler=none") == []
    ordered = [run.metrics["sliced_w2"] for run in runs.ordered(sweep, "sliced_w2")]
    assert ordered == sorted(ordered)
    for condition, message in {
        "sampler": "write key=value",
        "smapler=ddim": "did you mean 'sampler'",
        "seed<x": "x is not a number",
    }.items():
        with pytest.raises(UserError, match=message):
            names(condition)
    for k, run in enumerate(sweep):
        os.utime(run.folder / "run.json", (0, 1e9 + k % 3))
        os.utime(run.folder / "config.yaml", (0, 0))
        os.utime(run.folder / "metrics.json", (0, 0))
    assert [run.name for run in runs.newest(found(tmp_path / "s"), 2)] == ["2", "5"]


def test_seeds_are_averaged(tmp_path):
    groups = runs.seeds_apart(found(make_sweep(tmp_path / "s")))
    assert groups[0].settings == {"sampler": "ddim", "schedule.steps": "10"}
    assert [group.seeds for group in groups] == ["0,1"] * 4
    mean = groups[0].mean("sliced_w2")
    assert mean.value == pytest.approx(0.15)
    assert mean.error == pytest.approx(np.std([0.1, 0.2], ddof=1) / math.sqrt(2))


def test_lines_are_by_steps_with_seeds_averaged(tmp_path):
    sweep = found(make_sweep(tmp_path / "s"))
    axes = series.axes(sweep)
    assert axes == ("schedule.steps", ["sampler"], [])
    ddim, heun = series.series(sweep, "sliced_w2", axes)
    assert (ddim.label, ddim.x, heun.label) == ("ddim", [10.0, 100.0], "heun")
    assert ddim.y == pytest.approx([0.15, 0.015])
    assert min(ddim.error) > 0
    by_name = series.axes(sweep, "sampler", ["schedule.steps"])
    assert by_name.names == ["ddim", "heun"]
    assert [line.x for line in series.series(sweep, "sliced_w2", by_name)] == [[0.0, 1.0]] * 2
    with pytest.raises(UserError, match="no run has such"):
        series.series(sweep, "fid", axes)
    with pytest.raises(UserError, match="--x nope"):
        series.axes(sweep, "nope")
    assert [series.is_wide(x, "x") for x in ([1, 10], [1, 2], [0, 9], [])] == [True, *[False] * 3]


def test_first_samples_are_read_and_no_more(tmp_path):
    folder = make(tmp_path / "a", config())
    samples = np.random.default_rng(0).normal(size=(5, 2, 2, 1)).astype(np.float32)
    add_samples(folder, samples)
    np.testing.assert_array_equal(read_first(folder / "samples.npz", "samples", 3), samples[:3])
    np.testing.assert_array_equal(found(tmp_path)[0].samples(9), samples)
    for name, match in (("index", "no rows of floating"), ("nothing", "nothing")):
        with pytest.raises(DamagedError, match=match):
            read_first(folder / "samples.npz", name, 3)
    with pytest.raises(DamagedError, match="take 48 bytes"):
        read_first(folder / "samples.npz", "samples", 3, most=40)
    content = (folder / "samples.npz").read_bytes()
    (folder / "samples.npz").write_bytes(content[: len(content) // 2])
    assert found(tmp_path)[0].samples(3) is None


def test_objects_among_samples_are_never_loaded(tmp_path):
    folder = make(tmp_path / "a", config())
    np.savez(folder / "samples.npz", samples=np.array([{}], object))
    assert found(tmp_path)[0].samples(1) is None
