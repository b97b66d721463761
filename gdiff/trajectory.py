"""Batches of samples on their way from the prior, and what is kept of their states."""

import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from gdiff import rng
from gdiff.clock import Clock
from gdiff.denoiser import Denoiser, Posterior
from gdiff.errors import UserError
from gdiff.parallel import processes
from gdiff.parallel.mesh import BATCH, batch_sharding
from gdiff.prior.base import Prior
from gdiff.sampler.drivers.parallel import ParallelEngine
from gdiff.sampler.drivers.sequential import Account, Engine
from gdiff.store.files import DamagedError, Member, read_arrays


class States:
    """Collects the states of the first samples of a batch after chosen numbers of steps.

    Args:
        stops: increasing numbers of steps; 0 is the draw from the prior.
        count: how many samples; a batch may be padded with repeated ones.
    """

    def __init__(self, stops: Sequence[int], count: int) -> None:
        self.stops = [int(stop) for stop in stops]
        self.count = count
        self._found: dict[int, np.ndarray] = {}

    def add(self, done: int, z: Array) -> None:
        """Keep z after `done` steps, if that is one of the stops."""
        if done in self.stops:
            self._found[done] = processes.gathered(z[: self.count])

    def part(self, places: np.ndarray) -> "States":
        """An empty collector of the same stops, for those samples of a batch at `places` [k]."""
        count = int(np.sum(places < self.count))
        return States(self.stops if count else (), count)

    def take(self, part: "States", places: np.ndarray) -> None:
        """What a part of the batch, with its samples at increasing `places`, has collected."""
        for stop, found in part._found.items():
            if stop not in self._found:
                self._found[stop] = np.empty((self.count, *found.shape[1:]), found.dtype)
            self._found[stop][places[: part.count]] = found

    def stacked(self) -> np.ndarray:
        """The states at all stops: [stops, count, *event]."""
        return np.stack([self._found[stop] for stop in self.stops])


class Queries(NamedTuple):
    """Noisy points at which to ask a denoiser.

    Attributes:
        z: [levels, q, *event].
        sigma: [levels] noise levels.
    """

    z: np.ndarray
    sigma: np.ndarray

    def to_bytes(self) -> bytes:
        """Content of an npz file."""
        buffer = io.BytesIO()
        np.savez(buffer, **self._asdict())
        return buffer.getvalue()

    @classmethod
    def read(cls, path: Path, sigma: np.ndarray, shape: tuple[int, ...]) -> "Queries | None":
        """What `to_bytes` gave; None where the file is missing, damaged or of another run.

        Args:
            path: of the file.
            sigma: [levels] noise levels that it must have.
            shape: of a query.

        Raises:
            UserError: it is not a plain file.
        """
        members = {
            "z": Member(np.floating, (len(sigma), "q", *shape)),
            "sigma": Member(np.floating, (len(sigma),)),
        }
        try:
            found = cls(**read_arrays(path, members))
        except (FileNotFoundError, DamagedError):
            return None
        return found if np.allclose(found.sigma, sigma) else None

    def ask(self, denoiser: Denoiser, mesh: Mesh) -> Posterior:
        """Mean, bounds and size of the subset, level by level as in a run: [levels, q, ...]."""
        answers = []
        for z, sigma in zip(self.z, self.sigma, strict=True):
            everywhere = jax.device_put(z, NamedSharding(mesh, PartitionSpec()))
            answer = _ask(denoiser, everywhere, np.asarray(sigma, z.dtype))
            answers.append(jax.tree.map(processes.gathered, answer))
        return jax.tree.map(lambda *levels: np.stack(levels), *answers)


@eqx.filter_jit
def _ask(denoiser: Denoiser, z: Array, sigma: Array) -> Posterior:
    return denoiser(z, jnp.full(z.shape[0], sigma))._replace(trace_cov=None, log_density=None)


@dataclass(frozen=True)
class Batches:
    """Draws samples by their numbers.

    Attributes:
        engine: the method and the denoiser; compiled for the first batch.
        prior: what trajectories start from.
        mesh: the devices.
        size: samples in a whole batch; smaller ones are padded.
        seed: of the run.
        clock: to which the phases are added.
    """

    engine: Engine | ParallelEngine
    prior: Prior
    mesh: Mesh
    size: int
    seed: int
    clock: Clock

    def draw(
        self, index: np.ndarray, states: Sequence[States], report: Callable[[int, str], None]
    ) -> tuple[np.ndarray, Account]:
        """Run one batch to its end.

        Args:
            index: [k] numbers of its samples, k ≤ size.
            states: collect the states on the way.
            report: told now and then how many steps are done, and where a parallel run is.

        Returns:
            Samples [k, *event], and the engine's account of them with `seconds` [], which all
            steps took.

        Raises:
            UserError: a value is not finite.
        """
        padded, sharding = np.resize(index, self.size), NamedSharding(self.mesh, PartitionSpec())
        if self.engine.splits_samples:
            share = -(-self.size // self.mesh.shape[BATCH])
            padded = np.resize(index, share * self.mesh.shape[BATCH])
            sharding = batch_sharding(self.mesh)
        placed = jax.device_put(padded.astype(np.int32), sharding)
        with self.clock.phase("prior"):
            z, keys = _start(self.prior, np.uint32(self.seed), placed, placed.sharding)
        if not self.engine.is_compiled:
            with self.clock.phase("compile"):
                self.engine.compile(z, keys)

        def reached(done: int, z: Array | None, note: str = "") -> None:
            report(done, note)
            for each in states if z is not None else ():
                each.add(done, z)

        reached(0, z)
        stops = frozenset(stop for each in states for stop in each.stops)
        try:
            with self.clock.phase("sampling", shown=False) as watch:
                z = self.engine.sample(z, keys, report=reached, stops=stops)
                samples = processes.gathered(z)
        except FloatingPointError as error:
            raise UserError(
                f"{error}: bring schedule.sigma_max and schedule.sigma_min closer to the data's "
                "scale, or use runtime.x64=true"
            ) from error
        account = {name: values[: len(index)] for name, values in self.engine.account.items()}
        return samples[: len(index)], account | {"seconds": np.array(watch.seconds)}


@dataclass(frozen=True)
class ByClass:
    """Draws samples by their numbers, class by class; as `Batches` do otherwise.

    Attributes:
        parts: of the numbers of samples [k]: what draws those of a class, and where in [k] they
            are, class after class.
    """

    parts: Callable[[np.ndarray], Iterable[tuple[Batches, np.ndarray]]]

    def draw(
        self, index: np.ndarray, states: Sequence[States], report: Callable[[int, str], None]
    ) -> tuple[np.ndarray, Account]:
        """Run one batch to its end, as `Batches.draw`."""
        drawn, begun = {"seconds": np.zeros(())}, 0
        for batches, places in self.parts(index):
            for own in np.split(places, range(batches.size, len(places), batches.size)):
                steps, share = batches.engine.steps.count, len(own) / len(index)
                told = partial(_report_part, report, begun / len(index) * steps, share)
                parts = [each.part(own) for each in states]
                samples, account = batches.draw(index[own], parts, told)
                for whole, part in zip(states, parts, strict=True):
                    whole.take(part, own)
                drawn["seconds"] += account.pop("seconds")
                for name, values in {"samples": samples, **account}.items():
                    if name not in drawn:
                        drawn[name] = np.empty((len(index), *values.shape[1:]), values.dtype)
                    drawn[name][own] = values
                begun += len(own)
        return drawn.pop("samples"), drawn


def _report_part(
    report: Callable[[int, str], None], before: float, share: float, done: int, note: str
) -> None:
    """So many steps of a share of a batch are done; before it the others did so many of it all."""
    report(round(before + share * done), note)


@eqx.filter_jit
def _start(prior: Prior, seed: Array, index: Array, sharding: NamedSharding) -> tuple[Array, Array]:
    """z_T and the keys of the steps' noise for samples `index` [b]."""
    z = prior.sample(rng.sample_keys(seed, rng.Role.PRIOR, index))
    keys = rng.sample_keys(seed, rng.Role.STEP, index)
    return jax.lax.with_sharding_constraint((z, keys), sharding)
