"""Training runs: what they leave, that they go on, and what is wrong with a command."""

import json

import jax
import numpy as np
import pytest
from commands import gdiff

from gdiff import config
from gdiff.dataset.toy import Moons
from gdiff.errors import UserError
from gdiff.network import files
from gdiff.network.mlp import MLP
from gdiff.process.vp import VPLinear
from gdiff.schedule.losses import LossCurve
from gdiff.score.network import Network
from gdiff.train import run as runs
from gdiff.train.data import TrainingData
from gdiff.train.spec import Training

JOB = (
    *("dataset=moons", "dataset.num_points=300", "network=mlp", "network.width=16"),
    *("network.depth=1", "train.steps=40", "train.batch_size=32", "train.looks=2"),
    *("train.warmup=5", "runtime.mesh=batch:1"),
)
SAMPLE = (
    *("score=network", "dataset=moons", "dataset.num_points=300", "schedule.steps=4"),
    *("num_samples=6", "metrics=none"),
)


def trained(folder, *words):
    result = gdiff("train", "-q", *JOB, *words, f"hydra.run.dir={folder}")
    assert result.code == 0, result.err
    return folder


def numbers(folder):
    return jax.tree.leaves(files.read(folder, "score.path")[0])


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("train") / "net")


def refused(*words):
    """The one line by which a command is refused."""
    result = gdiff(*words)
    assert result.code == 2, result.err
    lines = result.err.splitlines()
    assert lines[-1].startswith("error: ")
    assert [line for line in lines if line.startswith("error: ")] == lines[-1:]
    return lines[-1]


def test_a_training_leaves_a_network_and_its_losses(net):
    names = {path.name for path in net.iterdir()}
    assert {"config.yaml", "network.eqx", "loss.csv", "loss.png", "samples.png"} <= names
    assert "checkpoint.npz" not in names
    record = json.loads((net / "train.json").read_text())
    assert (record["status"], record["step"]) == ("complete", 40)
    assert [entry["step"] for entry in record["history"]] == [20, 40]
    assert record["history"][-1]["held_out"] < record["history"][0]["held_out"] < 1
    curve = LossCurve.read(net / "loss.csv")
    assert (curve.sigma[0], curve.sigma[-1]) == (160, 0.002)
    # At most noise nothing is known but the mean; at the least, all but the noise.
    std = float(files.read(net, "score.path")[0].std)
    assert curve.loss[0] == pytest.approx(2 * std**2, rel=0.15)
    assert curve.loss[-1] == pytest.approx(2 * 0.002**2, rel=0.1)


def test_samples_of_a_network_are_the_same_for_any_batch_and_mesh(net, tmp_path):
    found = []
    for batch, mesh in ((6, "batch:1"), (4, "data:2/batch:2")):
        path = tmp_path / str(batch)
        setting = (f"batch_size={batch}", f"runtime.mesh={mesh}", f"hydra.run.dir={path}")
        result = gdiff("sample", "-q", *SAMPLE, f"score.path={net}", *setting)
        assert result.code == 0, result.err
        found.append(np.load(path / "samples.npz")["samples"])
    np.testing.assert_allclose(found[0], found[1], atol=1e-5)


def test_a_training_that_was_killed_goes_on_to_the_same_network(net, tmp_path, monkeypatch):
    advance, path = runs._Run._advance, tmp_path / "net"

    def interrupted(self, step, stop, progress):
        if self.done == 32:
            raise KeyboardInterrupt
        advance(self, step, stop, progress)

    monkeypatch.setattr(runs, "_STRIDE", 3)
    monkeypatch.setattr(runs, "_SECONDS", 0.0)
    monkeypatch.setattr(runs, "_TIMES", 0.0)
    monkeypatch.setattr(runs._Run, "_advance", interrupted)
    stopped = gdiff("train", "-q", *JOB, f"hydra.run.dir={path}")
    assert stopped.code == 130
    assert stopped.err.endswith(f"continue with: gdiff train --resume {path}\n")
    assert json.loads((path / "train.json").read_text())["step"] == 32
    monkeypatch.setattr(runs._Run, "_advance", advance)
    result = gdiff("train", "--resume", path)
    assert result.code == 0, result.err
    for a, b in zip(numbers(net), numbers(path), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)
    histories = [json.loads((p / "train.json").read_text())["history"] for p in (net, path)]
    assert histories[0] == histories[1]


def test_a_training_is_no_run_of_samples(net):
    result = gdiff("runs", net.parent)
    assert "net" not in result.out.split()


def test_a_loss_that_is_no_number_ends_a_training(tmp_path):
    path = tmp_path / "net"
    words = (*JOB, "train.learning_rate=1e30", "train.warmup=0", f"hydra.run.dir={path}")
    line = refused("train", *words)
    assert "start anew with train.learning_rate=2.5e+29" in line
    assert not path.exists()


def test_the_last_good_network_outlives_a_loss_that_is_no_number(net, tmp_path, monkeypatch):
    batch, path = TrainingData.batch, tmp_path / "net"

    def spoiled(self, number, size):
        return batch(self, number, size) * (np.nan if number == 30 else 1)

    monkeypatch.setattr(TrainingData, "batch", spoiled)
    line = refused("train", *JOB, f"hydra.run.dir={path}")
    assert line.startswith("error: the loss is nan after 40 steps")
    assert line.endswith("; the network of step 20 is kept")
    half, facts = files.read(path, "score.path")
    assert facts.step == 20
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(half))
    monkeypatch.setattr(TrainingData, "batch", batch)
    assert gdiff("train", "-q", "--resume", path).code == 0
    for a, b in zip(numbers(net), numbers(path), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)


def test_what_does_not_go_together_is_told_in_one_line(net, tmp_path):
    new = f"hydra.run.dir={tmp_path / 'new'}"
    sample = ("sample", f"score.path={net}", "score=network", new)
    moons = ("dataset=moons", "dataset.num_points=300")
    assert "those of digits are [8, 8, 1]" in refused(*sample)
    assert "use condition=null" in refused(*sample, *moons, "condition=each")
    assert "give the folder of a run of gdiff train" in refused("sample", "score=network", new)
    assert "of a run of gdiff train: give one of gdiff sample" in refused("sample", "--resume", net)
    assert "of a run of gdiff train: give one of gdiff sample" in refused("evaluate", net)
    train = ("train", *JOB, new)
    assert "use network=mlp" in refused("train", "dataset=moons", new)
    assert "there is no key 'steps'" in refused(*train, "steps=3")
    assert "no key 'sampler'" in refused(*train, "sampler=ddim")
    assert "leave out one of them" in refused(*train, "train.horizon=.5", "train.sigma_max=3")
    assert "use 34, or runtime.mesh" in refused(
        *train, "train.batch_size=33", "runtime.mesh=batch:2"
    )
    assert "single precision" in refused(*train, "runtime.x64=true")
    assert "belongs to the training" in refused("train", "--resume", net, "train.steps=90")
    assert "there is no key 'network'" in refused("sample", "network=mlp")
    assert not (tmp_path / "new").exists()


def test_a_network_of_a_short_horizon_is_asked_within_it(tmp_path):
    with config.composer(kind=Training) as composer:
        sigma = composer.experiment([*JOB, "train.horizon=0.5"]).sigma_max
    facts = files.Facts((2,), sigma, "moons", "0", 1)
    spec = MLP(width=4, depth=1)
    files.write(tmp_path / files.NETWORK, spec, files.empty(spec, (2,)), facts)
    score, data = Network(path=tmp_path), Moons(num_points=9).load()
    assert VPLinear().sigma(0.5) == sigma
    score.fit(data, [sigma, 0.1])
    with pytest.raises(UserError, match=rf"begins at 80: use schedule\.sigma_max={sigma}"):
        score.fit(data, [80.0])
