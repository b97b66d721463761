"""Runs that were cut off, at any moment and in any way, end with the same bytes of samples."""

import contextlib
import json
import random
import re
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from commands import gdiff, start

from gdiff import config
from gdiff.run import run
from gdiff.sampler.drivers.sequential import Engine
from gdiff.store.outputs import RunFolder

# Twenty chunks of about a tenth of a second.
JOB = (
    *("dataset.subset=100", "num_samples=80", "batch_size=4", "schedule.steps=2000"),
    *("sampler=ancestral", "metrics=none", "picture_samples=4", "runtime.mesh=batch:1"),
)
# Three chunks of no time at all.
SHORT = (*JOB, "num_samples=10", "schedule.steps=3", "trajectory=true")


pytestmark = pytest.mark.usefixtures("in_empty_folder", "silent")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The bytes of samples.npz of an uninterrupted run, by its job."""
    known = {}

    def of(job):
        if job not in known:
            folder = tmp_path_factory.mktemp("whole") / "run"
            assert gdiff("sample", "-q", *job, f"hydra.run.dir={folder}").code == 0
            known[job] = (folder / "samples.npz").read_bytes()
        return known[job]

    return of


def resume(folder, *words):
    result = gdiff("sample", "-q", "--resume", folder, *words)
    assert result.code == 0, result.err
    return result


def wait_for(condition, process):
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.005)


def interrupt(process):
    """Ctrl-C, once more if it gets lost: stdout, and stderr of what came of it.

    Python only prints what is raised in a callback of its garbage collector, and goes on; JAX has
    such a callback.
    """
    process.send_signal(signal.SIGINT)
    line = process.stderr.readline()
    if line.startswith("Exception ignored in"):
        while line and not line.startswith("KeyboardInterrupt"):
            line = process.stderr.readline()
        return interrupt(process)
    out, err = process.communicate()
    return out, line + err


def chunks(folder):
    return sorted((Path(folder) / "chunks").glob("*.npz"))


def check_complete(folder, samples):
    folder = Path(folder)
    assert (folder / "samples.npz").read_bytes() == samples
    assert json.loads((folder / "run.json").read_text())["status"] == "complete"
    leftovers = [p.name for p in folder.rglob("*") if p.suffix in (".partial", ".lock")]
    assert leftovers == []
    assert not (folder / "chunks").exists()


def test_a_run_at_work_is_left_alone_and_once_killed_ends_with_the_same_bytes(whole):
    process = start("sample", "-q", *JOB, "hydra.run.dir=run")
    wait_for(lambda: chunks("run"), process)
    busy = gdiff("sample", "--resume", "run")
    assert busy.code == 2
    assert busy.err == "error: another process is at work in run: wait for it\n"
    time.sleep(random.uniform(0, 0.3))
    process.kill()
    process.wait()
    assert 0 < len(chunks("run")) < 20
    log = Path("run/gdiff.log").read_text()
    resume("run")
    check_complete("run", whole(JOB))
    assert Path("run/gdiff.log").read_text().startswith(log)


@pytest.mark.slow
def test_a_run_killed_again_and_again_ends_with_the_same_bytes(whole):
    """Kills at random moments, from the start of the process to the end of the run."""
    process = start("sample", "-q", *JOB, "trajectory=true", "hydra.run.dir=run")
    kills = 0
    while True:
        with contextlib.suppress(Exception):
            process.wait(random.uniform(0.5, 5.0))
        if process.poll() == 0:
            break
        process.kill()
        process.wait()
        kills += 1
        has_begun = Path("run/config.yaml").is_file()
        words = ("--resume", "run") if has_begun else (*JOB, "trajectory=true", "hydra.run.dir=run")
        process = start("sample", "-q", *words)
    assert kills > 0
    check_complete("run", whole((*JOB, "trajectory=true")))
    assert Path("run/trajectory.gif").is_file()


class Crash(BaseException):
    """The end of the world, as far as the process can tell."""


def test_a_run_cut_off_before_any_of_its_writes_ends_with_the_same_bytes(whole, monkeypatch):
    with config.composer() as composer:
        experiment = composer.experiment(SHORT)
    replace, samples, path = Path.replace, whole(SHORT), Path("run")
    for write in range(100):
        left = write

        def fragile(self, target):
            nonlocal left
            if left == 0:
                raise Crash
            left -= 1
            return replace(self, target)

        monkeypatch.setattr(Path, "replace", fragile)
        with (
            contextlib.suppress(Crash),
            RunFolder.create(path, config.to_yaml(experiment)) as folder,
        ):
            run(experiment, folder)
        monkeypatch.setattr(Path, "replace", replace)
        if left:
            break
        if (path / "config.yaml").is_file():
            with RunFolder.open(path) as folder:
                run(config.load(path), folder)
            check_complete(path, samples)
        shutil.rmtree(path)
    assert 9 < write < 20


def interrupted(folder, chunk_count):
    """A run that was cut off after some chunks."""
    with pytest.MonkeyPatch.context() as patch:
        replace = Path.replace

        def fragile(self, target):
            if len(chunks(folder)) == chunk_count:
                raise Crash
            return replace(self, target)

        patch.setattr(Path, "replace", fragile)
        with contextlib.suppress(Crash):
            gdiff("sample", "-q", *SHORT, f"hydra.run.dir={folder}")
    assert len(chunks(folder)) == chunk_count


@pytest.mark.parametrize("keep", [0, 50, 400])
def test_a_damaged_chunk_is_made_again(whole, keep):
    interrupted("run", 2)
    path = chunks("run")[0]
    path.write_bytes(path.read_bytes()[:keep])
    resume("run")
    check_complete("run", whole(SHORT))


def short_index(arrays):
    return arrays | {"index": arrays["index"][:2]}


def other_samples(arrays):
    return arrays | {"index": arrays["index"][::-1]}


def no_seconds(arrays):
    return {name: array for name, array in arrays.items() if name != "seconds"}


def other_event(arrays):
    return arrays | {"samples": arrays["samples"][..., :1]}


def empty(arrays):
    return {name: array[:0] if array.ndim else array for name, array in arrays.items()}


@pytest.mark.parametrize("damage", [short_index, other_samples, no_seconds, other_event, empty])
def test_a_chunk_with_wrong_members_is_made_again(whole, damage):
    interrupted("run", 2)
    path = chunks("run")[0]
    np.savez(path, **damage(dict(np.load(path))))
    resume("run")
    check_complete("run", whole(SHORT))


def change_record(folder, **changes):
    path = Path(folder, "run.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def refused(*words):
    result = gdiff(*words)
    assert (result.code, result.out) == (2, "")
    assert re.fullmatch(r"error: [^\n]+\n", result.err), result.err
    return result.err


@pytest.mark.parametrize("levels", [[80.0, 0.0], [80.0, 1.0, 0.5, 0.0], [8.0, 0.3, 0.002, 0.0]])
def test_noise_levels_that_the_schedule_does_not_give_are_refused(levels):
    interrupted("run", 1)
    change_record("run", sigma=levels)
    err = refused("sample", "--resume", "run")
    assert "noise levels in run/run.json are not those of the schedule in run/config.yaml" in err
    assert len(chunks("run")) == 1


def test_a_record_that_is_damaged_is_named_and_can_be_removed(whole):
    interrupted("run", 2)
    Path("run/run.json").write_text("[]")
    assert "run/run.json cannot be read" in refused("sample", "--resume", "run")
    assert "run/run.json cannot be read" in refused("evaluate", "run")
    Path("run/run.json").unlink()
    resume("run")
    check_complete("run", whole(SHORT))


def test_finished_samples_that_are_damaged_are_named_and_can_be_removed(whole):
    assert gdiff("sample", "-q", *SHORT, "hydra.run.dir=run").code == 0
    path = Path("run/samples.npz")
    np.savez(path, samples=np.load(path)["samples"][1:])
    for words in (("sample", "--resume", "run"), ("evaluate", "run", "metrics.enabled=true")):
        assert "run/samples.npz is damaged (samples is float32 [9, " in refused(*words)
    path.unlink()
    resume("run")
    check_complete("run", whole(SHORT))


def test_without_its_record_a_run_is_not_evaluated():
    assert gdiff("sample", "-q", *SHORT, "hydra.run.dir=run").code == 0
    Path("run/run.json").unlink()
    assert "has no whole run.json" in refused("evaluate", "run")


REPEATS = "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 10))


@pytest.mark.parametrize(
    "text, reason",
    [
        ("[" * 100_000, "nested too deep"),
        ("a:\n" + "".join(f"{' ' * k}b:\n" for k in range(1, 40)), "nested too deep"),
        ("a0: &a0 [x, x]\n" + REPEATS, "parts that stand for others"),
        ("[]", "is not a configuration"),
        ("a: !!python/object/apply:os.system ['false']", "is not a configuration"),
    ],
)
def test_a_configuration_that_is_damaged_is_named(text, reason):
    Path("run").mkdir()
    Path("run/config.yaml").write_text(text)
    for words in (("sample", "--resume", "run"), ("evaluate", "run")):
        assert re.search(f"run/config.yaml .*{reason}", refused(*words))


def test_finished_chunks_are_not_made_again(monkeypatch):
    interrupted("run", 2)
    batches, sample = [], Engine.sample

    def spy(self, *args, **options):
        batches.append(1)
        return sample(self, *args, **options)

    monkeypatch.setattr(Engine, "sample", spy)
    resume("run")
    assert len(batches) == 1


def test_an_interrupt_prints_how_to_continue(whole):
    process = start("sample", "-q", *JOB, "hydra.run.dir=the run")
    wait_for(lambda: chunks("the run"), process)
    out, err = interrupt(process)
    assert process.returncode == 130, err
    assert err == "interrupted; continue with: gdiff sample --resume 'the run'\n"
    assert out == ""
    resume("the run")
    check_complete("the run", whole(JOB))


def test_what_came_before_an_interruption_stays_on_record(monkeypatch):
    interrupted("run", 2)
    before = json.loads(Path("run/run.json").read_text())["seconds"]
    assert {"dataset", "fit", "fit prior", "sampling"} <= before.keys()
    # As if that had taken long.
    record = json.loads(Path("run/run.json").read_text())
    record["seconds"] = dict.fromkeys(before, 1000.0)
    record["peak_memory_bytes"] = {"host": 2**50}
    Path("run/run.json").write_text(json.dumps(record))
    resume("run")
    record = json.loads(Path("run/run.json").read_text())
    assert all(1000 < record["seconds"][name] < 1100 for name in before)
    assert record["peak_memory_bytes"]["host"] == 2**50


def test_a_finished_run_resumes_at_once_and_stays_as_it_is(whole, monkeypatch):
    assert gdiff("sample", "-q", *SHORT, "hydra.run.dir=run").code == 0

    def times():
        return {p: p.stat().st_mtime_ns for p in Path("run").rglob("*") if p.name != "gdiff.log"}

    before = times()
    monkeypatch.setattr("gdiff.dataset.base.DatasetSpec.load", None)
    assert resume("run").last == "run"
    after = times()
    assert {p: t for p, t in after.items() if p.is_file()} == {
        p: t for p, t in before.items() if p.is_file()
    }


@pytest.mark.parametrize("name", ["samples.npz", "metrics.json", "grid.png"])
def test_a_finished_run_that_lost_a_file_gets_it_back(whole, name):
    assert gdiff("sample", "-q", *SHORT, "hydra.run.dir=run").code == 0
    Path("run", name).unlink()
    resume("run")
    assert Path("run", name).is_file()
    check_complete("run", whole(SHORT))


def test_a_run_killed_before_it_began_can_be_started_again(whole):
    Path("run/.hydra").mkdir(parents=True)
    for name in (".hydra/config.yaml", "gdiff.log", ".lock"):
        Path("run", name).write_text("")
    assert gdiff("sample", "-q", *SHORT, "hydra.run.dir=run").code == 0
    check_complete("run", whole(SHORT))


def test_the_same_overrides_are_accepted_and_others_refused(whole):
    interrupted("run", 1)
    result = gdiff("sample", "--resume", "run", *SHORT, "seed=1", "sampler.eta=0.5")
    assert (result.code, result.out) == (2, "")
    result = gdiff("sample", "--resume", "run", *SHORT, "seed=1", "batch_size=5")
    assert result.code == 2
    assert re.fullmatch(r"error: run was begun with another seed: leave .*\n", result.err)
    assert len(chunks("run")) == 1
    resume("run", *SHORT)
    check_complete("run", whole(SHORT))


def test_data_that_changed_meanwhile_are_refused():
    rng = np.random.default_rng(0)
    np.save("x.npy", rng.normal(size=(20, 2)))
    words = ("dataset=array", "dataset.path=x.npy", "dataset.subset=null", "hydra.run.dir=run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gdiff.prepared.driver", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            gdiff("sample", "-q", *SHORT, *words)
    np.save("x.npy", rng.normal(size=(20, 2)))
    result = gdiff("sample", "--resume", "run")
    assert result.code == 2
    assert "the data set x has changed since this run began" in result.err


def test_a_failed_run_of_a_sweep_resumes_once_its_data_are_there():
    words = ("dataset=array", "dataset.path=x.npy", "dataset.subset=null", "hydra.sweep.dir=s")
    assert gdiff("sample", "-q", "-m", *SHORT, "trajectory=false", *words).code == 2
    np.save("x.npy", np.random.default_rng(0).normal(size=(20, 2)))
    resume("s/0")
    record = json.loads(Path("s/0/run.json").read_text())
    assert record["status"] == "complete"
    assert "error" not in record
