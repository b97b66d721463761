"""A training run in its folder: steps, and what is left of them for others to use."""

import math
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gdiff import __version__, figures
from gdiff.budget.noised import at_levels, draw
from gdiff.dataset import Dataset
from gdiff.dataset.placed import Placed
from gdiff.errors import UserError, require
from gdiff.experiment import Experiment
from gdiff.memory import remedied
from gdiff.metrics import MetricsSpec
from gdiff.network import files
from gdiff.network.denoising import Denoising
from gdiff.parallel.mesh import BATCH
from gdiff.prepared import Prepared
from gdiff.prior.gaussian import Gaussian
from gdiff.prior.standard import Standard
from gdiff.progress import Progress, track
from gdiff.runtime import environment
from gdiff.sampler.methods.ddim import DDIM
from gdiff.schedule.edm import EDM
from gdiff.score.exact import Exact
from gdiff.store.outputs import TRAINING, RunFolder, read_json, write_csv
from gdiff.train import checkpoint
from gdiff.train.data import TrainingData
from gdiff.train.spec import Training
from gdiff.train.step import State, Trainer

LOSSES, PICTURE, SAMPLES = "loss.csv", "loss.png", "samples.png"
_STRIDE = 20  # steps between two looks at the loss
# Seconds between checkpoints: at least so many, and so many times what one takes.
_SECONDS, _TIMES = 20.0, 50.0
# Noise levels of loss.csv, the points noised to each, between two numbers by their coordinates,
# and the range where it is not bounded.
_LEVELS, _POINTS, _MOST_POINTS, _COORDINATES = 32, 256, 4096, 2**14
_LOWEST, _HIGHEST = 0.002, 160.0
_JUDGED = 8  # batches by which a network is judged on the way
_SAMPLES, _SAMPLE_STEPS, _FIRST_LEVEL = 64, 20, 80.0
# Numbers of steps that no training comes to: of the noise by which networks are judged.
_OF_JUDGES = 2**30


@remedied("the training")
def run(training: Training, folder: RunFolder) -> dict[str, Any]:
    """Train a network, or go on from the last checkpoint, in a run folder.

    The result is that of an uninterrupted run, but for rounding on other devices.

    Returns:
        The record, as in train.json.

    Raises:
        UserError: the data cannot be had or are not those that the run began with, the network is
            not made for them, or the loss is no number any more.
    """
    record = read_json(folder.path / TRAINING)
    if record.get("status") == "complete" and (folder.path / files.NETWORK).is_file():
        return record
    mesh, spec = training.runtime.start(), training.train
    require(
        spec.batch_size % mesh.shape[BATCH] == 0,
        f"train.batch_size={spec.batch_size} cannot be shared by {mesh.shape[BATCH]} devices: use "
        f"{-(-spec.batch_size // mesh.shape[BATCH]) * mesh.shape[BATCH]}, or runtime.mesh=batch:1",
    )
    with jax.enable_x64(False):
        data = TrainingData.of(training.dataset, spec.held_out, training.seed)
        return _Run(training, folder, data, mesh, record).main()


class _Run:
    """What the parts of a run share."""

    def __init__(
        self,
        training: Training,
        folder: RunFolder,
        data: TrainingData,
        mesh: jax.sharding.Mesh,
        before: dict[str, Any],
    ) -> None:
        self.training, self.folder, self.data, self.mesh = training, folder, data, mesh
        self.spec, self.sigma_max = training.train, training.sigma_max
        fingerprint = data.dataset.fingerprint()
        require(
            before.get("dataset", {}).get("fingerprint", fingerprint) == fingerprint,
            f"the data set {data.dataset.name} has changed since this training began: start anew",
        )
        files.kind_of(training.network)  # before anything is trained in vain
        mean, std = data.moments
        denoiser = files.empty(training.network, data.dataset.event_shape, training.seed)
        denoiser = Denoising(denoiser.network, jnp.float32(mean), jnp.float32(std))
        self.trainer = Trainer(denoiser, self.spec, training.seed, self.sigma_max)
        self.state = checkpoint.read(folder.path, State.start(self.trainer.numbers))
        self.record = self._record(before)
        self._loss = self.trainer.loss_on(mesh)
        self._saved, self._pause = time.monotonic(), _SECONDS

    @property
    def done(self) -> int:
        """Steps that have been taken."""
        return int(self.state.count)

    @property
    def denoiser(self) -> Denoising:
        """The network, averaged over steps."""
        return self.trainer.with_numbers(self.state.average)

    def main(self) -> dict[str, Any]:
        """All steps that are left, then the files of the result."""
        self._write_record()
        steps, step = self.spec.steps, self.trainer.on(self.mesh)
        looks = {math.ceil(steps * k / self.spec.looks) for k in range(1, self.spec.looks + 1)}
        with track(f"training on {self.data.dataset.name}", steps, "steps") as progress:
            progress.reach(self.done, skipped=True)
            while self.done < steps:
                stop = min(self.done + _STRIDE, *(look for look in looks if look > self.done))
                self._advance(step, stop, progress)
                if self.done in looks:
                    self._look()
                    self._save()
                elif time.monotonic() - self._saved > self._pause:
                    self._save()
        self._finish()
        return self.record

    def _advance(self, step: Callable[..., Any], stop: int, progress: Progress) -> None:
        """Steps up to number `stop`, whose mean loss must be a number."""
        begin, losses, state = time.monotonic(), [], self.state
        for number in range(self.done, stop):
            state, loss = step(state, self.data.batch(number, self.spec.batch_size))
            losses.append(loss)
        loss = float(np.mean(jax.device_get(losses)))
        if not math.isfinite(loss):
            last = self.record["step"]
            kept = f"; the network of step {last} is kept" if last else ""
            raise UserError(
                f"the loss is {loss} after {stop} steps: start anew with train.learning_rate="
                f"{self.spec.learning_rate / 4:g}{kept}"
            )
        self.state = state
        self.record["seconds"] += time.monotonic() - begin
        progress.reach(stop, f"loss {loss:.3f}")

    def _save(self) -> None:
        """Keep where the run is, and the network for others."""
        begin = time.monotonic()
        require(
            bool(jnp.all(jnp.isfinite(self.state.numbers))),
            f"the parameters are no numbers after {self.done} steps: start anew with "
            f"train.learning_rate={self.spec.learning_rate / 4:g}",
        )
        checkpoint.write(self.folder.path, self.state)
        dataset = self.data.dataset
        facts = files.Facts(
            dataset.event_shape, self.sigma_max, dataset.name, dataset.fingerprint(), self.done
        )
        path = self.folder.path / files.NETWORK
        files.write(path, self.training.network, self.denoiser, facts)
        self.record["step"] = self.done
        self._write_record()
        self._saved = time.monotonic()
        self._pause = max(_SECONDS, _TIMES * (self._saved - begin))

    def _look(self) -> None:
        """Judge the network and draw samples."""
        found = {name: self._judged(points) for name, points in self.data.judges.items()}
        self.record["history"].append({"step": self.done, **found})
        self.folder.write_bytes(SAMPLES, figures.picture(self._samples(), self.data.dataset))

    def _judged(self, points: Dataset) -> float:
        """The weighted loss of points, the same ones and the same noise each time."""
        size = self.spec.batch_size
        index = np.resize(np.arange(len(points)), _JUDGED * size).reshape(_JUDGED, size)
        batches = (points.rows(rows).astype(np.float32, copy=False) for rows in index)
        losses = [self._loss(self.state.average, x, _OF_JUDGES + k) for k, x in enumerate(batches)]
        return float(np.mean(jax.device_get(losses)))

    def _samples(self) -> np.ndarray:
        """Of the network, by a few steps of DDIM."""
        top = self.sigma_max
        experiment = Experiment(
            dataset=self.training.dataset,
            process=self.training.process,
            score=Exact(),
            schedule=EDM(steps=_SAMPLE_STEPS, sigma_max=_FIRST_LEVEL if top is None else top),
            prior=Standard() if top is None else Gaussian(),
            sampler=DDIM(),
            metrics=MetricsSpec(enabled=False),
            runtime=self.training.runtime,
            num_samples=_SAMPLES,
            seed=self.training.seed,
        )
        prepared = Prepared(experiment)
        prepared.mesh, prepared.dataset = self.mesh, self.data.dataset
        prepared.denoiser = self.denoiser
        return prepared.samples()

    def _finish(self) -> None:
        """The loss by noise level, its picture, and the end of the record."""
        losses = self._losses()
        write_csv(self.folder.path / LOSSES, list(losses[0]), losses)
        picture = figures.training_figure(losses, self.record["history"], *self._scales)
        self.folder.write_bytes(PICTURE, picture)
        self.record["status"] = "complete"
        self._write_record()
        (self.folder.path / checkpoint.CHECKPOINT).unlink(missing_ok=True)

    @property
    def _scales(self) -> tuple[int, float]:
        """Coordinates of a point, and the standard deviation of one."""
        return self.data.dataset.dim, self.data.moments[1]

    def _losses(self) -> list[dict[str, float]]:
        """Rows of loss.csv, from the largest noise level on.

        `loss` is that of points held out, where there are some, with its standard error.
        """
        count = int(np.clip(_COORDINATES // self.data.dataset.dim, _POINTS, _MOST_POINTS))
        sigma = np.geomspace(self.sigma_max or _HIGHEST, _LOWEST, _LEVELS)
        loss = jax.tree_util.Partial(_squared_error, self.denoiser)
        rows = [{"sigma": float(f"{level:.6g}")} for level in sigma]
        sigma = np.array([row["sigma"] for row in rows])
        for name, points in reversed(self.data.judges.items()):
            drawn = draw(points, count, self.training.seed)
            placed = Placed(points, self.mesh)
            found = at_levels(loss, placed, drawn, sigma, f"loss by noise level, {name}")
            error = found.std(axis=0, ddof=1) / len(found) ** 0.5
            for row, mean, spread in zip(rows, found.mean(axis=0), error, strict=True):
                if "loss" not in row:
                    row |= {"loss": float(mean), "standard_error": float(spread)}
                row[name] = float(mean)
        return rows

    def _record(self, before: dict[str, Any]) -> dict[str, Any]:
        """The start of train.json."""
        dataset, test = self.data.dataset, self.data.test
        packages = ("jax", "jaxlib", "numpy", "equinox", "optax")
        done, history = self.done, before.get("history", [])
        return {
            "status": "running",
            "step": done,
            "seconds": before.get("seconds", 0.0) if done else 0.0,
            "parameters": int(self.state.numbers.size),
            "sigma_max": self.sigma_max,
            "dataset": {
                "name": dataset.name,
                "points": len(self.data.rows),
                "held_out": 0 if test is None else len(test),
                "event_shape": list(dataset.event_shape),
                "fingerprint": dataset.fingerprint(),
            },
            "history": [entry for entry in history if entry["step"] <= done],
            "versions": {"gdiff": __version__, "python": sys.version.split()[0]}
            | {name: version(name) for name in packages},
            "environment": environment(),
            "devices": [str(device) for device in self.mesh.devices.flat],
            "mesh": dict(self.mesh.shape),
        }

    def _write_record(self) -> None:
        self.folder.write_json(TRAINING, self.record)


def _squared_error(denoiser: Denoising, x: jax.Array, z: jax.Array, sigma: jax.Array) -> jax.Array:
    return jnp.sum((x - denoiser(z, sigma).mean).reshape(len(x), -1) ** 2, axis=1)
