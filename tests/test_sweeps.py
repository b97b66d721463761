"""Sweeps that are cut off and continued, and whose runs have folders of their own."""

import csv
import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest
from commands import gdiff, start

from gdiff import config
from gdiff import run as runs

TINY = (
    *("-q", "dataset=moons", "dataset.num_points=50", "num_samples=4", "schedule.steps=3"),
    *("metrics=none", "runtime.mesh=batch:1"),
)


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path, monkeypatch, undrawn):
    monkeypatch.chdir(tmp_path)


def table(path="s/sweep.csv"):
    """The rows of the runs."""
    with open(path) as file:
        return [row for row in csv.DictReader(file) if row["run"] not in ("mean", "se")]


def refused(*words) -> str:
    result = gdiff("sample", *words)
    assert result.code == 2, result.err
    assert len(result.err.splitlines()) == 1, result.err
    return result.err


@pytest.fixture
def cut_off(monkeypatch):
    """A sweep of three runs whose second one was interrupted."""

    def fragile(e, folder):
        if e.seed == 1:
            raise KeyboardInterrupt
        return run(e, folder)

    with monkeypatch.context() as patch:
        run = runs.run
        patch.setattr(runs, "run", fragile)
        begun = gdiff("sample", "-m", *TINY, "seed=0,1,2", "hydra.sweep.dir=s")
    assert begun.code == 130
    assert begun.err == "interrupted; continue with: gdiff sample --resume s\n"


def test_a_signal_while_a_launcher_waits_says_how_to_continue(monkeypatch):
    def wait(*_):
        Path("s/0").mkdir()
        for name in ("multirun.yaml", "0/config.yaml"):
            Path("s", name).touch()
        raise KeyboardInterrupt(signal.SIGTERM)

    monkeypatch.setattr(config.Composer, "multirun", wait)
    result = gdiff("sample", "-m", *TINY, "seed=0,1", "hydra.sweep.dir=s")
    assert result.code == 143
    assert result.err == "terminated; continue with: gdiff sample --resume s\n"


def test_a_sweep_that_was_cut_off_is_completed(cut_off, monkeypatch):
    first = Path("s/0/samples.npz")
    before = first.stat().st_mtime_ns
    result = gdiff("sample", "-q", "--resume", "s", "batch_size=2")
    assert result.code == 0, result.err
    assert result.last == "s/sweep.csv"
    averages = Path("s/sweep.csv").read_text().splitlines()[-2:]
    assert [line.split(",")[0] for line in averages] == ["mean", "se"]
    assert "3 runs, 3 complete" in Path("s/report.html").read_text()
    assert [(row["run"], row["status"], row["seed"]) for row in table()] == [
        ("0", "complete", "0"),
        ("1", "complete", "1"),
        ("2", "complete", "2"),
    ]
    assert first.stat().st_mtime_ns == before
    words = ("seed=0,1,2", "hydra.sweep.dir=whole", "report=false")
    whole = gdiff("sample", "-m", *TINY, *words)
    assert whole.code == 0, whole.err
    assert not Path("whole/report.html").exists()
    for name in "012":
        same = [Path(f, name, "samples.npz").read_bytes() for f in ("s", "whole")]
        assert same[0] == same[1]


def test_paths_of_a_continued_sweep_begin_where_it_was_begun(tmp_path, monkeypatch):
    import numpy as np

    np.save("x.npy", np.random.default_rng(0).normal(size=(50, 2)))
    words = ("dataset=array", "dataset.path=x.npy", "~dataset.num_points", "seed=0,1")
    words = [word for word in (*TINY, *words) if "num_points" not in word]
    assert gdiff("sample", "-m", *words, "hydra.sweep.dir=s").code == 0
    for name in ("config.yaml", "samples.npz"):
        (tmp_path / "s/1" / name).unlink()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    result = gdiff("sample", "-q", "--resume", tmp_path / "s")
    assert result.code == 0, result.err
    assert (tmp_path / "s/1/samples.npz").is_file()


def test_a_sweep_is_not_evaluated_as_a_run(cut_off):
    result = gdiff("evaluate", "s")
    message = "error: s is the folder of a sweep: give that of one of its runs\n"
    assert (result.code, result.err) == (2, message)


@pytest.mark.parametrize(
    "words, message",
    [
        (("seed=5",), "s is not a sweep with seed=5: leave it out"),
        (("-m",), "--resume knows what was begun: leave out -m"),
        (("hydra/launcher=nope",), "no such option"),
    ],
)
def test_a_sweep_is_continued_as_it_began(cut_off, words, message):
    assert message in refused("-q", "--resume", "s", *words)


def test_the_folder_of_a_sweep_starts_nothing_and_writes_nowhere_else(cut_off):
    record = Path("s/multirun.yaml")
    text = record.read_text()
    word = "hydra.job.env_set.X=1"
    for place in ("hydra.sweep.dir=s\n", "num_samples=4\n"):
        assert place in text
        record.write_text(text.replace(place, f"{word}\n", 1))
        assert f"s was begun with {word}: say so again" in refused("-q", "--resume", "s")
    for damaged in ("", "[1]", "{", "hydra: {overrides: 5}", "\0"):
        record.write_text(damaged)
        assert "multirun.yaml is not the record of a sweep" in refused("-q", "--resume", "s")


@pytest.mark.parametrize("name", ["run.json", "metrics.json"])
def test_a_damaged_run_does_not_cost_the_others_of_a_sweep(cut_off, name):
    damaged = Path("s/0", name)
    damaged.write_text("[")
    result = gdiff("sample", "-q", "--resume", "s")
    assert result.code == 2
    first, last = result.err.splitlines()
    assert first.startswith("error: run 0: ")
    assert f"{name} cannot be read" in first
    assert last == "error: 1 of 3 runs failed: 0"
    assert [row["status"] for row in table()] == ["failed", "complete", "complete"]
    assert "cannot be read" in table()[0]["error"]
    damaged.unlink()
    assert gdiff("sample", "-q", "--resume", "s").code == 0
    assert [row["status"] for row in table()] == ["complete"] * 3


def test_a_run_with_other_settings_in_the_folder_of_a_sweep_is_left_alone(cut_off):
    config = Path("s/2/config.yaml")
    config.parent.mkdir(exist_ok=True)
    other = Path("s/1/config.yaml").read_text().replace("num_samples: 4", "num_samples: 5")
    config.write_text(other)
    (config.parent / "run.json").write_text('{"status": "running"}')
    result = gdiff("sample", "-q", "--resume", "s")
    assert result.code == 2
    assert "run 2: " in result.err
    assert "s/2 holds a run with another num_samples" in result.err
    assert config.read_text() == other
    assert json.loads((config.parent / "run.json").read_text()) == {"status": "running"}


def test_a_complete_run_with_other_settings_does_not_pass_for_one_of_the_sweep(cut_off):
    config = Path("s/0/config.yaml")
    config.write_text(config.read_text().replace("to_zero: true", "to_zero: false"))
    result = gdiff("sample", "-q", "--resume", "s")
    assert result.code == 2
    assert "s/0 holds a run with another schedule.to_zero" in result.err
    assert result.err.splitlines()[-1] == "error: 1 of 3 runs failed: 0"


@pytest.mark.parametrize(
    "subdir, message",
    [
        ("n-${num_samples}", "gives runs 0 and 1 the same folder, n-4"),
        ("x/../${seed}", "leads out of the sweep's folder"),
        ("../${hydra.job.num}", "leads out of the sweep's folder"),
        ("/tmp/${seed}", "leads out of the sweep's folder"),
    ],
)
def test_runs_that_would_share_a_folder_are_refused_before_any_has_run(subdir, message):
    words = ("seed=0,1", f"hydra.sweep.subdir='{subdir}'")
    assert message in refused("-m", *TINY, *words)
    assert not os.listdir()


def test_runs_inside_one_another_are_refused():
    words = ("objective=a,a/b", "hydra.sweep.subdir='${objective}'")
    assert "puts run 1 into the folder of another" in refused("-m", *TINY, *words)


@pytest.mark.parametrize(
    "word, message",
    [
        ("seed=range(0,0)", "the sweep has no runs"),
        ("hydra.sweeper.max_batch_size=0", "hydra.sweeper.max_batch_size=0 must be at least 1"),
        ("hydra.sweeper.max_batch_size='${seed}'", "hydra.sweeper.max_batch_size=0 must be"),
        ("hydra.sweeper.max_batch_size='${none}'", "Interpolation key 'none' not found"),
        ("hydra.sweeper=null", "hydra.sweeper=null starts no runs"),
        ("hydra.launcher=null", "hydra.launcher=null starts no runs"),
        ("hydra.sweep.subdir=null", "hydra.sweep.subdir"),
    ],
)
def test_a_sweep_that_cannot_be_is_refused_before_anything_is_made(word, message):
    assert message in refused("-m", *TINY, word)
    assert not os.listdir()


def test_an_interval_of_whole_numbers_is_a_range():
    message = "schedule.steps is whole: schedule.steps=range(4,12)"
    assert message in refused("-m", *TINY, "schedule.steps=interval(4,12)")
    assert not os.listdir()


def test_a_sweeper_that_gives_up_on_a_failed_run_is_one_line(monkeypatch):
    multirun = config.Composer.multirun

    def give_up(*arguments):
        multirun(*arguments)
        raise ValueError("Values were told.")

    monkeypatch.setattr(config.Composer, "multirun", give_up)
    words = ("seed=0", "dataset.classes=[99]", "hydra.sweep.dir=s")
    last = gdiff("sample", "-m", *TINY, *words).err.splitlines()[-1]
    assert last == "error: the sweeper ended, since runs failed: 0"


def test_the_optimum_of_a_sweeper_is_printed(monkeypatch):
    multirun = config.Composer.multirun

    def optimise(*arguments):
        found = multirun(*arguments)
        text = "name: optuna\nbest_params: {schedule.steps: 4}\nbest_value: 0.5\n"
        Path("s/optimization_results.yaml").write_text(text)
        return found

    monkeypatch.setattr(config.Composer, "multirun", optimise)
    words = [word for word in TINY if word != "-q"]
    result = gdiff("sample", "-m", *words, "seed=0", "hydra.sweep.dir=s")
    assert "best: schedule.steps=4, 0.5" in result.out.splitlines()


def test_a_page_that_cannot_be_made_does_not_cost_the_sweep(monkeypatch):
    monkeypatch.setattr("gdiff.report.page.html", lambda *_: 1 / 0)
    words = ("seed=0,1", "hydra.sweep.dir=s")
    result = gdiff("sample", "-m", *TINY, *words)
    assert (result.code, result.last) == (0, "s/sweep.csv")
    assert result.err == "warning: report.html could not be made: division by zero\n"


def test_runs_are_told_apart_by_their_settings_too():
    words = ("seed=3,4", "hydra.sweep.dir=s", "hydra.sweep.subdir='seed-${seed}'")
    result = gdiff("sample", "-m", *TINY, *words)
    assert result.code == 0, result.err
    assert [row["run"] for row in table()] == ["seed-3", "seed-4"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_what_joblib_started_ends_with_the_command_and_the_sweep_goes_on():
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    words = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "hydra.sweep.dir=s")
    long = [word.replace("steps=3", "steps=20000") for word in TINY]
    command = start("sample", "-m", *long, "seed=0,1", *words, "batch_size=1")
    deadline = time.time() + 120
    while len(list(Path("s").glob("*/run.json"))) < 2:
        assert time.time() < deadline
        time.sleep(0.2)
    children = workers_of(command.pid)
    assert children
    command.send_signal(signal.SIGKILL)
    command.wait()
    deadline = time.time() + 10
    while any(is_alive(pid) for pid in children):
        assert time.time() < deadline
        time.sleep(0.2)
    for path in Path("s").glob("*/config.yaml"):
        path.write_text(path.read_text().replace("steps: 20000", "steps: 3"))
        path.with_name("run.json").unlink()
    record = Path("s/multirun.yaml")
    record.write_text(record.read_text().replace("steps=20000", "steps=3"))
    command = start("sample", "-q", "--resume", "s")
    _, err = command.communicate(timeout=240)
    assert command.returncode == 0, err
    assert [row["status"] for row in table()] == ["complete", "complete"]


def workers_of(pid):
    """Processes that a process has started, and that compute."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
            words = (entry / "cmdline").read_bytes()
        except (OSError, IndexError):
            continue
        if parent == str(pid) and b"resource_tracker" not in words:
            found.append(int(entry.name))
    return found


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_links_in_the_folder_of_a_sweep_are_not_written_through(cut_off, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    thesis = elsewhere / "thesis.txt"
    thesis.write_text("dear")
    cases = {
        "s/2": elsewhere,
        "s/1/gdiff.log": thesis,
        "s/multirun.yaml": thesis,
        "s/.lock": thesis,
    }
    for place, target in cases.items():
        path, before = Path(place), Path(place).exists() and Path(place).read_text()
        path.unlink(missing_ok=True)
        path.symlink_to(target)
        assert "is a link and not a" in refused("-q", "--resume", "s")
        assert (thesis.read_text(), list(elsewhere.iterdir())) == ("dear", [thesis])
        path.unlink()
        if before:
            path.write_text(before)
