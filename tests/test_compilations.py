"""What is compiled in a sweep."""

import jax
import numpy as np
import pytest

from gdiff import config
from gdiff.run import run
from gdiff.store.outputs import RunFolder

SWEEP = (
    ["seed=1"],
    ["seed=2", "schedule.steps=7"],
    ["sampler.tolerance=0.1", "schedule.steps=6"],
    ["seed=3", "schedule.sigma_max=40", "sampler.eta=0.5"],
)
# A size that no other test has, since programs are shared by all tests of a process.
COMMON = ["num_samples=7", "batch_size=7", "schedule.steps=5", "metrics=none", "dataset.subset=97"]


@pytest.fixture
def programs():
    """Names of what XLA compiles during the test."""
    seen = []

    def listen(event, duration, fun_name="", **_):
        if event == "/jax/core/compile/backend_compile_duration":
            seen.append(fun_name.removeprefix("jit(").removesuffix(")"))

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield seen
    jax.monitoring.unregister_event_duration_listener(listen)


@pytest.mark.parametrize("score", ["full", "patch_ls", "wiener"])
def test_classes_share_programs(score, programs, tmp_path):
    x = np.random.default_rng(0).standard_normal((37, 5, 5, 1), np.float32)
    np.savez(tmp_path / "data.npz", x=x, y=np.arange(37) % 4)
    words = ["dataset=array", f"dataset.path={tmp_path}/data.npz", f"score={score}"]
    with config.composer() as composer:
        experiment = composer.experiment([*COMMON[:-1], *words, "condition=each"])
    with RunFolder.create(tmp_path / "run", config.to_yaml(experiment)) as folder:
        run(experiment, folder)
    assert programs.count("_advance") == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "words,names",
    [
        ([], {"_advance"}),
        (["sampler.block_size=all", "score=wiener"], {"begin", "sweep", "_one_by_one", "finish"}),
    ],
    ids=["sequential", "parallel"],
)
def test_a_sweep_compiles_the_sampler_at_most_twice(words, names, programs, tmp_path):
    with config.composer() as composer:
        for number, changes in enumerate(SWEEP):
            experiment = composer.experiment([*COMMON, *words, *changes])
            path = tmp_path / str(number)
            with RunFolder.create(path, config.to_yaml(experiment)) as folder:
                run(experiment, folder)
    counts = [programs.count(name) for name in names]
    assert 1 <= min(counts) <= max(counts) <= 2, programs
