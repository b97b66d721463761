"""Runs whose grid follows the data, and their account in nats."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from commands import gdiff, sampled

from gdiff import config
from gdiff.artefacts.budget import Budget
from gdiff.budget.terms import METRICS
from gdiff.trajectory import Batches

JOB = (
    *("dataset=moons", "dataset.num_points=60", "num_samples=6", "batch_size=2"),
    *("runtime.mesh=batch:1", "schedule.loss_samples=16", "metrics.score_error=never"),
)


pytestmark = pytest.mark.usefixtures("in_empty_folder", "silent")


sample = partial(sampled, JOB)


def read(folder, name="run.json"):
    return json.loads(Path(folder, name).read_text())


def test_a_run_leaves_its_account_in_nats():
    folder = sample("run", "sampler=ancestral", "schedule.steps=8")
    budget, metrics = read(folder, "budget.json"), read(folder, "metrics.json")
    assert (folder / "budget.png").stat().st_size > 10_000
    assert {name: metrics[name] for name in METRICS} == {
        name: budget[name.removeprefix("kl_")]["nats"] for name in METRICS
    }
    assert budget["dimensions"] == 2
    assert read(folder)["seconds"]["budget"] > 0
    (folder / "budget.json").unlink()
    assert gdiff("sample", "-q", "--resume", folder).code == 0
    assert read(folder, "budget.json") == budget


def test_an_account_is_kept_by_itself_where_all_of_it_applies():
    def is_wanted(*words):
        with config.composer() as found:
            return Budget().is_wanted(found.experiment(list(words)))

    assert is_wanted("sampler=ancestral")
    assert is_wanted("sampler.eta=1")
    assert not is_wanted("sampler=ddim")
    assert is_wanted("sampler=ddim", "metrics.budget=true")
    assert is_wanted("sampler=ddim", "objective=kl_initialization")
    assert not is_wanted("sampler=ancestral", "metrics=none")
    assert not is_wanted("sampler=ancestral", "dataset=mnist", "condition=each")


def test_without_the_account_nothing_of_it_is_there_and_it_can_be_had_later():
    folder = sample("run", "metrics.budget=false", "schedule.steps=3")
    assert not list(folder.glob("budget*"))
    assert not set(METRICS) & read(folder, "metrics.json").keys()
    assert gdiff("evaluate", folder, "metrics.budget=true").code == 0
    assert (folder / "budget.json").is_file()
    assert "kl_initialization" in read(folder, "metrics.json")


def test_the_loss_adaptive_grid_for_nats_costs_least():
    words = ("schedule=las_nats,edm,logsnr", "sampler=ancestral", "schedule.steps=8")
    words += ("schedule.loss_samples=null",)
    result = gdiff("sample", "-q", "-m", *JOB, *words, "hydra.sweep.dir=s")
    assert result.code == 0, result.err
    nats = [read(f"s/{k}", "metrics.json")["kl_discretization"] for k in range(3)]
    assert 2 * nats[0] < min(nats[1:])


def test_an_interrupted_run_goes_on_with_its_grid(monkeypatch):
    words = ("schedule=las", "schedule.steps=6", "metrics=none")
    whole = sample("whole", *words)
    draw = Batches.draw

    class CrashError(BaseException):
        pass

    def fragile(self, index, *args):
        if index[0] > 2:
            raise CrashError
        return draw(self, index, *args)

    monkeypatch.setattr(Batches, "draw", fragile)
    with pytest.raises(CrashError):
        sample("run", *words)
    monkeypatch.setattr(Batches, "draw", draw)
    # Even if the loss would now come out otherwise.
    monkeypatch.setattr("gdiff.prepared.measure", None)
    assert gdiff("sample", "-q", "--resume", "run").code == 0
    assert read("run")["sigma"] == read("whole")["sigma"]
    assert Path("run/samples.npz").read_bytes() == (whole / "samples.npz").read_bytes()


@pytest.mark.parametrize(
    "schedule", ["logsnr", "las", "ddpm", pytest.param("piadm", marks=pytest.mark.slow)]
)
def test_an_automatic_horizon_is_short_and_recorded(schedule):
    words = [f"schedule={schedule}", "schedule.horizon=auto", "prior=gaussian"]
    words += ["process=ddpm", "metrics.budget=true"] + ["schedule.steps=5"] * (schedule != "piadm")
    blocks = ["sampler.block_size=schedule"] if schedule == "piadm" else []
    folder = sample("run", *words, *blocks)
    sigma = read(folder)["sigma"]
    assert 0.1 < sigma[0] < 20
    assert np.all(np.diff(sigma) < 0)
    assert read(folder, "metrics.json")["kl_initialization"] <= 0.1


def test_a_horizon_is_a_time_of_the_process():
    folder = sample("run", "schedule.horizon=2", "process=ou", "schedule.steps=3", "metrics=none")
    assert read(folder)["sigma"][0] == pytest.approx(np.sqrt(np.expm1(2.0)))


def test_samples_do_not_depend_on_the_devices_for_an_adaptive_grid():
    words = ("schedule=las", "schedule.steps=6", "metrics=none", "runtime.x64=true")
    one = sample("one", *words)
    four = sample("four", *words, "runtime.mesh=data:2/batch:2")
    assert read(one)["sigma"] == read(four)["sigma"]
    a, b = (np.load(folder / "samples.npz")["samples"] for folder in (one, four))
    np.testing.assert_allclose(a, b, atol=1e-9)


def test_a_sweep_may_minimise_the_total():
    words = ("objective=kl_total", "sampler=ancestral", "schedule.steps=3")
    assert gdiff("sample", "-q", *JOB, *words, "hydra.run.dir=run").code == 0
    result = gdiff("sample", "-q", *JOB, "objective=kl_total", "metrics.budget=false")
    assert (result.code, "objective=" in result.err) == (2, True)


def test_a_run_on_the_optimal_grid_goes_on_without_finding_it_again(monkeypatch):
    words = ("schedule=optimal", "schedule.steps=3", "schedule.sigma_min=auto", "metrics=none")
    whole = sample("run", *words)
    levels = read(whole)["sigma"]
    assert levels[-2] > 0.002
    (whole / "samples.npz").unlink()
    monkeypatch.setattr("gdiff.schedule.optimal.Optimal.found", None)
    assert gdiff("sample", "-q", "--resume", "run").code == 0
    assert read("run")["sigma"] == levels


def test_a_folder_from_before_has_the_grid_for_nats():
    folder = sample("run", "schedule=las_nats", "schedule.steps=4", "metrics=none")
    text = (folder / "config.yaml").read_text()
    assert "measure: snr" in text
    (folder / "config.yaml").write_text(text.replace("  measure: snr\n", ""))
    assert config.load(folder).schedule.measure == "snr"
    levels = read(folder)["sigma"]
    assert gdiff("sample", "-q", "--resume", "run").code == 0
    assert read("run")["sigma"] == levels
