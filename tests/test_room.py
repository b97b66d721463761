"""Sizes that are beyond memory: refused before anything begins, or told where it ran out."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest
from commands import gdiff
from PIL import Image

from gdiff import config, memory
from gdiff.bench import harness
from gdiff.clock import Clock
from gdiff.dataset import synthetic
from gdiff.dataset.digits import Digits
from gdiff.dataset.folder import Folder
from gdiff.errors import UserError
from gdiff.prepared import Prepared


def sample(*words):
    return gdiff("sample", "-q", "runtime.mesh=batch:1", *words, "hydra.run.dir=run")


@pytest.mark.parametrize(
    "words, key",
    [
        (["schedule.steps=99999999999"], "schedule.steps=99999999999"),
        (["schedule=ddpm", "schedule.steps=99999999999"], "schedule.steps=99999999999"),
        (["dataset=moons", "dataset.num_points=10000000000000"], "dataset.num_points=1"),
        (["num_samples=1000000000000"], "num_samples=1000000000000"),
        (["num_samples=1000000000000", "batch_size=900000000000"], "batch_size=9"),
        (["schedule=las", "schedule.loss_samples=900000000000"], "schedule.loss_samples=9"),
    ],
)
def test_a_size_beyond_memory_is_refused_with_its_key_and_bytes(tmp_path, monkeypatch, words, key):
    monkeypatch.chdir(tmp_path)
    result = sample(*words)
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
    assert result.err.startswith(f"error: {key}")
    assert " needs " in result.err
    assert "iB of memory, and there are " in result.err
    assert "lower it" in result.err


@pytest.mark.parametrize("words", [[], ["score=full,golden"], ["scale"]])
def test_queries_of_a_benchmark_beyond_memory_are_refused(words):
    result = gdiff("bench", *words, "dataset=two_points", "--queries", 10**12)
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert result.err.startswith("error: --queries=1000000000000 needs ")


def test_where_memory_runs_out_in_a_benchmark_queries_are_to_be_lowered():
    def measure(*_):
        raise jax.errors.JaxRuntimeError("INTERNAL: Out of memory allocating 99 bytes")

    with pytest.raises(UserError, match=r"memory ran out in benchmark.*: lower --queries or"):
        harness.present(SimpleNamespace(measure=measure), None, 4, 1)


def test_images_beyond_memory_and_disk_are_refused(tmp_path, monkeypatch):
    for i in range(6):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{i}.png")
    for resolution in (10_000_000, 2_000):
        with pytest.raises(UserError, match=rf"^dataset.resolution={resolution} needs"):
            Folder(path=tmp_path, resolution=resolution).load()
        monkeypatch.setattr(memory, "of_disk", lambda _: 1000)
        monkeypatch.setattr(memory, "of_host", lambda: 4 * 3 * 2_000**2)  # for one of them


def test_a_synthetic_file_larger_than_the_disk_is_not_begun(tmp_path):
    for points, resolution, key in ((10**12, 64, "--points"), (10, 10**6, "--resolution")):
        with pytest.raises(UserError, match=rf"^{key}=.* needs .*iB of"):
            synthetic.write(Digits().load(), tmp_path / "x.npy", points, resolution)
    assert not list(tmp_path.iterdir())


def test_a_batch_whose_program_is_too_large_is_refused_before_it_runs(monkeypatch):
    with config.composer() as composer:
        words = ["dataset=two_points", "schedule.steps=3", "runtime.mesh=batch:1"]
        experiment = composer.experiment([*words, "num_samples=5"])
    prepared = Prepared(experiment)
    _ = prepared.batches
    monkeypatch.setattr(memory, "of_device", lambda: 100)
    with pytest.raises(UserError, match=r"^batch_size=5 needs .* of memory, and there are 100 byt"):
        prepared.batches.draw(np.arange(5), (), lambda *_: None)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 149. GiB for an array"),
        jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 99 bytes\n\n"),
    ],
)
@pytest.mark.parametrize("phase, key", [("sampling", "batch_size"), ("picture", "num_samples")])
def test_where_memory_runs_out_all_the_same_the_key_to_lower_is_named(error, phase, key):
    with pytest.raises(UserError) as caught, Clock().phase("outer"), Clock().phase(phase):
        raise error
    message = str(caught.value)
    assert phase in message
    assert key in message
    assert "alloc" in message
    assert "\n" not in message


def test_other_errors_stay_what_they_are():
    for error in (jax.errors.JaxRuntimeError("INTERNAL: no"), ValueError("allocated")):
        with pytest.raises(type(error)), Clock().phase("sampling"):
            raise error


def test_bytes_in_words():
    assert [memory.in_words(x) for x in (100, 2048, 160 * 99999999999)] == [
        *("100 bytes", "2 KiB", "14.6 TiB"),
    ]
