"""Same seed, same samples: whatever the batches, the devices and the processes."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest
from commands import start

from gdiff import config
from gdiff.run import run
from gdiff.runtime import Runtime
from gdiff.store.outputs import RunFolder

# Each batch size and each number of devices once: programs for many devices compile slowly.
SETTINGS = ((64, "batch:1"), (1, "batch:2"), (7, "data:2/batch:2"))
LAYOUTS = ("batch:1", "batch:2", "batch:4", "data:2", "data:4", "data:2/batch:2")
JOB = ("dataset.subset=300", "schedule.steps=8", "metrics=none", "picture_samples=1")


@pytest.fixture(autouse=True)
def _arithmetic_restored():
    before = jax.config.jax_enable_x64
    yield
    jax.config.update("jax_enable_x64", before)


@pytest.fixture
def sample(tmp_path):
    """A function from overrides, batch size, layout and arithmetic to the bytes and the samples."""
    numbers = itertools.count()

    def of(overrides, batch_size, mesh, *, x64):
        with config.composer() as composer:
            experiment = composer.experiment((*JOB, *overrides))
        experiment = dataclasses.replace(
            experiment, batch_size=batch_size, runtime=Runtime(mesh=mesh, x64=x64)
        )
        path = tmp_path / str(next(numbers))
        with RunFolder.create(path, config.to_yaml(experiment)) as folder:
            run(experiment, folder)
        return (path / "samples.npz").read_bytes(), RunFolder(path).samples()

    return of


def deviations(samples, reference):
    """[n] largest deviation of every sample."""
    return abs(samples - reference).reshape(len(samples), -1).max(1)


def check_double(sample, overrides, settings):
    _, reference = sample(overrides, *settings[0], x64=True)
    assert reference.dtype == np.float64
    for setting in settings[1:]:
        worst = deviations(sample(overrides, *setting, x64=True)[1], reference).max()
        assert worst < 1e-10, f"{overrides} {setting}: {worst:.2g}"


def check_single(sample, overrides, settings):
    """To 1e-3 on 99 % of samples: rounding decides where two data points compete."""
    results = [sample(overrides, *setting, x64=False)[1] for setting in settings]
    assert results[0].dtype == np.float32
    rates = {
        setting: float(np.mean(deviations(result, results[0]) > 1e-3))
        for setting, result in zip(settings[1:], results[1:], strict=True)
    }
    assert max(rates.values()) <= 0.01, f"samples that differ by more than 1e-3: {rates}"


def test_double_precision_gives_the_same_samples_in_every_setting(sample):
    check_double(sample, ("sampler=ancestral", "num_samples=20"), SETTINGS)


@pytest.mark.slow
def test_single_precision_gives_almost_all_samples_in_every_setting(sample):
    check_single(sample, ("sampler=ddim", "num_samples=128"), SETTINGS[::2])


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["ddim", "ancestral", "dpmpp_2m"])
@pytest.mark.parametrize("check", [check_double, check_single])
def test_every_batch_size_and_every_layout(sample, check, sampler):
    settings = [(64, layout) for layout in LAYOUTS] + [
        (1, "batch:1"),
        (7, "batch:1"),
        (1, "data:4"),
    ]
    check(sample, (f"sampler={sampler}", "num_samples=200", "schedule.steps=20"), settings)


def test_the_same_setting_gives_the_same_bits(sample):
    job = ("sampler=ancestral", "num_samples=20")
    first, _ = sample(job, *SETTINGS[-1], x64=True)
    second, _ = sample(job, *SETTINGS[-1], x64=True)
    assert first == second


@pytest.mark.slow
@pytest.mark.parametrize("mesh", ["batch:1", "batch:4", "data:4"])
def test_the_same_setting_gives_the_same_bits_after_compiling_anew(sample, mesh):
    job = ("sampler=ancestral", "num_samples=20")
    first, _ = sample(job, 7, mesh, x64=False)
    jax.clear_caches()
    second, _ = sample(job, 7, mesh, x64=False)
    assert first == second


def test_a_sample_does_not_depend_on_how_many_there_are(sample):
    few, many = (
        sample(("sampler=ancestral", f"num_samples={n}"), *SETTINGS[-1], x64=True)[1]
        for n in (8, 20)
    )
    assert deviations(few, many[:8]).max() < 1e-10


def test_another_seed_gives_other_samples(sample):
    one, two = (
        sample(("sampler=ancestral", "num_samples=20", seed), *SETTINGS[-1], x64=True)[1]
        for seed in ("seed=1", "seed=2")
    )
    assert np.median(deviations(one, two)) > 0.1


@pytest.mark.slow
@pytest.mark.parametrize("x64", [False, True])
def test_processes_with_1_2_and_8_devices_give_the_same_samples(tmp_path, x64):
    words = (*JOB, "num_samples=128", "sampler=ancestral", f"runtime.x64={x64}")
    processes = {
        devices: start(
            "sample", "-q", *words, f"hydra.run.dir={tmp_path / str(devices)}", devices=devices
        )
        for devices in (1, 2, 8)
    }
    for process in processes.values():
        _, err = process.communicate()
        assert process.returncode == 0, err
    results = {devices: RunFolder(tmp_path / str(devices)).samples() for devices in processes}
    for devices, result in results.items():
        rate = np.mean(deviations(result, results[1]) > (1e-10 if x64 else 1e-3))
        assert rate <= (0 if x64 else 0.01), f"{devices} devices: {rate:.1%} of samples differ"
