"""What may be another when a run is continued, and what may not."""

import json
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from commands import gdiff

from gdiff import config
from gdiff.errors import UserError
from gdiff.run import run
from gdiff.store.outputs import RunFolder

# Three chunks, of 4, 4 and 2 samples.
JOB = (
    *("dataset.subset=30", "num_samples=10", "batch_size=4", "schedule.steps=3"),
    *("sampler=ancestral", "metrics=none", "runtime.mesh=batch:1", "runtime.x64=true"),
)


pytestmark = pytest.mark.usefixtures("in_empty_folder", "undrawn")


class Crash(BaseException):
    """The end of the world, as far as the run can tell."""


@pytest.fixture
def begun(monkeypatch):
    """Starts a run, cut off after so many chunks."""

    def begin(chunks):
        write, numbers = RunFolder.write_chunk, count()

        def fragile(self, number, **arrays):
            if next(numbers) == chunks:
                raise Crash
            write(self, number, **arrays)

        with monkeypatch.context() as patch:
            patch.setattr(RunFolder, "write_chunk", fragile)
            with pytest.raises(Crash):
                gdiff("sample", "-q", *JOB, "hydra.run.dir=run")
        return Path("run")

    return begin


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert gdiff("sample", "-q", *JOB, f"hydra.run.dir={folder}").code == 0
    with np.load(folder / "samples.npz") as samples:
        return dict(samples)


def resumed(folder, *words):
    with config.composer() as composer:
        return composer.resumed(folder, words)


def finish(folder, *words):
    """Continue a run; its samples, and how many chunks they were in."""
    with RunFolder.open(folder) as opened:
        run(resumed(folder, *words), opened)
    with np.load(folder / "samples.npz") as samples:
        return dict(samples), json.loads((folder / "run.json").read_text())["chunks"]


@pytest.mark.parametrize(
    "size, expected",
    [
        (3, 3),
        pytest.param(1, 7, marks=pytest.mark.slow),
        pytest.param(100, 2, marks=pytest.mark.slow),
    ],
)
def test_samples_are_the_same_with_another_batch_size_from_here_on(begun, whole, size, expected):
    found, chunks = finish(begun(1), f"batch_size={size}")
    assert chunks == expected
    assert np.array_equal(found["index"], np.arange(10))
    np.testing.assert_allclose(found["samples"], whole["samples"], atol=1e-10)


def test_chunks_that_no_longer_fit_are_made_again(begun, whole):
    folder = begun(2)
    (folder / "chunks" / "000000.npz").write_bytes(b"damaged")
    found, chunks = finish(folder, "batch_size=3")
    assert chunks == 4
    assert np.array_equal(found["index"], np.arange(10))
    np.testing.assert_allclose(found["samples"], whole["samples"], atol=1e-10)


def test_a_chunk_in_the_middle_is_made_again_alone(begun, whole, monkeypatch):
    folder, written = begun(2), []
    (folder / "chunks" / "000000.npz").unlink()
    write = RunFolder.write_chunk

    def spy(self, number, **arrays):
        written.append(number)
        write(self, number, **arrays)

    monkeypatch.setattr(RunFolder, "write_chunk", spy)
    found, _ = finish(folder)
    assert written == [0, 2]
    assert np.array_equal(found["samples"], whole["samples"])


@pytest.mark.parametrize(
    "words",
    [
        ("batch_size=7",),
        ("score.rows=host",),
        ("runtime.mesh=data:2/batch:1",),
        ("runtime.distributed=true",),
        (
            *("runtime.distributed=true", "runtime.coordinator=host:1234"),
            *("runtime.process_id=1", "runtime.num_processes=2"),
        ),
    ],
    ids=lambda words: words[-1],
)
def test_who_works_on_a_run_and_how_much_at_a_time_may_change(words):
    Path("run").mkdir()
    with config.composer() as composer:
        text = config.to_yaml(composer.experiment(JOB))
        Path("run/config.yaml").write_text(text)
        alone = composer.resumed(Path("run"), words)
        assert composer.resumed(Path("run"), [*JOB, *words]) == alone
    assert config.to_yaml(alone) != text


@pytest.mark.parametrize(
    "words, named",
    [
        (["seed=1"], "seed"),
        (["seed=1", "batch_size=7", "num_samples=11"], "num_samples, seed"),
        (["score=wiener"], "score"),
        (["sampler=ddim", "sampler.eta=0.5"], "sampler"),
        (["schedule.steps=4", "runtime.x64=false"], "runtime.x64, schedule.steps"),
        (["experiment=cifar10_ddim10", "dataset=digits", "seed=1"], ".*process, .*schedule, seed"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_other_changes_are_refused_by_name(words, named):
    Path("run").mkdir()
    with config.composer() as composer:
        Path("run/config.yaml").write_text(config.to_yaml(composer.experiment(JOB)))
        for given in (words, [*JOB, *words]):
            with pytest.raises(UserError, match=f"^run was begun with another {named}: leave"):
                composer.resumed(Path("run"), given)


def test_what_the_run_began_with_may_be_said_again_in_part():
    Path("run").mkdir()
    with config.composer() as composer:
        experiment = composer.experiment(JOB)
        Path("run/config.yaml").write_text(config.to_yaml(experiment))
        for words in (["seed=0"], ["sampler=ancestral", "num_samples=10"], ["hydra.run.dir=run"]):
            assert composer.resumed(Path("run"), words) == experiment
        with pytest.raises(UserError, match=r"there is no key 'sampler\.eta'"):
            composer.resumed(Path("run"), [*JOB, "sampler.eta=0.5"])


SCHEDULES = sorted(path.stem for path in (config.config_dir() / "schedule").glob("*.yaml"))


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("horizon", ["null", "auto"])
def test_the_noise_levels_that_a_run_may_have_are_known_without_its_data(name, horizon):
    process = ["process=ddpm"] if name.startswith("ddpm") else []
    words = [f"schedule={name}", f"schedule.horizon={horizon}", *process]
    words += ["schedule.levels=[80,40,20,5,1]"] * (name == "levels")
    with config.composer() as composer:
        experiment = composer.experiment(words)
    spec, process = experiment.schedule, experiment.process
    if horizon == "auto":
        spec = spec.reaching(9.0, process)
    levels = spec.grid(process)
    assert experiment.may_have(levels)
    assert experiment.may_have(levels * (1 + 1e-9))
    # A list may begin at any of its levels.
    assert experiment.may_have(levels[1:]) == (name == "levels" and horizon == "auto")
    assert not experiment.may_have(np.append(levels[:-1], [levels[-1] + 1e-4, levels[-1]]))
    if horizon == "null":
        assert not experiment.may_have(levels * 1.1)
    inner = levels.copy()
    inner[1] *= 0.99
    assert experiment.may_have(inner) == (spec.needs_losses or spec.needs_forecast)
