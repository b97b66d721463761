"""The engine for blocks of more than one row: sweeps, driven from the host."""

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Key

from gdiff.denoiser import as_denoiser, headed, noise_floor
from gdiff.parallel import processes
from gdiff.sampler.blocks import Blocks, Driving
from gdiff.sampler.drivers import picard
from gdiff.sampler.drivers.account import Account
from gdiff.sampler.drivers.picard import Block, Fixed, Iterate, News, Setting
from gdiff.sampler.drivers.rows import Carry, on_device
from gdiff.sampler.drivers.surrogate import SEGMENT

log = logging.getLogger(__name__)

_SHORTEST = 8
# Of the rows of the data that are weighed at a state, the part that is kept of every posterior.
_KEPT = 4
# How far apart, in log σ, rows may be at which the first sweep asks.
_APART = 0.2
# Numbers in one array of states: more samples than that go one group after the other.
_LARGEST_ARRAY = 2**26


class ParallelEngine:
    """Runs one method with one denoiser, block by block; see `picard`.

    Args:
        denoiser: maps (z [b, *event], sigma [b]) to a Posterior, or to the mean alone.
        blocks: the method's table on the grid of the run, and how it is cut.
        driving: how blocks are run; any sampler.
        mesh: the devices; the states of a block are split over its axis `batch`. None for one.
        guess: denoiser that sweeps start from; without one they start from the state before.

    Attributes:
        steps: the table.
        is_compiled: whether `compile` was called.
        account: of the last batch, by block: `sweeps` [b, blocks], `residual` [b, blocks] largest
            change of a state that was accepted for changing little, `unconverged` [b, blocks]
            whether a sample went on step by step; `evaluations` [b] in all, and `clip_rate` [b]
            for methods with a bounded part; `surrogate_seconds` [b], a sample's share of the time
            between the evaluations of surrogate sweeps.
    """

    splits_samples = False

    def __init__(
        self,
        denoiser: Callable[..., object],
        blocks: Blocks,
        driving: Driving,
        mesh: Mesh | None = None,
        guess: Callable[..., object] | None = None,
    ) -> None:
        self.steps = blocks.steps
        self._denoiser = as_denoiser(denoiser, mesh)
        driving = driving.settled(has_heads=headed(self._denoiser) is not None)
        is_surrogate = driving.sweep == "surrogate"
        keeps_score = driving.split == "score" and not is_surrogate
        if keeps_score:  # the weights of outputs become weights of states too
            missing = max(0, self.steps.b.shape[1] - self.steps.a.shape[1])
            self.steps = replace(self.steps, a=np.pad(self.steps.a, ((0, 0), (0, missing))))
        self.is_compiled = False
        self.account: Account = {}
        self._bounds = list(pairwise((0, *blocks.ends)))
        self._driving = driving
        self._floor = 0.0 if guess is None else noise_floor(guess)
        self._guess = None if guess is None else as_denoiser(guess, mesh)
        # The Wiener filter's answers have no bound: where few images weigh, sweeps would diverge.
        self._far = self._guess if is_surrogate and driving.start == "mixture" else None
        self._setting = Setting(keeps_score, mesh)
        if is_surrogate:
            pool = max(driving.head, 2 * SEGMENT)
            self._setting = Setting(False, mesh, -(-pool // _KEPT), pool)
        self._surrogate_seconds = 0.0
        # Padded to a power of two, so that lengths share programs; the padding is not evaluated.
        longest = max(stop - start for start, stop in self._bounds)
        self._length = max(_SHORTEST, 1 << (longest - 1).bit_length())

    def compile(self, z: Float[Array, "b *event"], keys: Key[Array, " b"]) -> None:
        """Compile for batches like `z`, by running no row of one."""
        group = self._groups(z)[0]
        self._run(0, self._start(z, group), keys[group], is_empty=True)
        self.is_compiled = True

    def sample(
        self,
        z: Float[Array, "b *event"],
        keys: Key[Array, " b"],
        *,
        report: Callable[..., None] | None = None,
        stops: frozenset[int] = frozenset(),
    ) -> Float[Array, "b *event"]:
        """Run all steps on a batch.

        Args:
            z: [b, *event] draws at the first noise level.
            keys: [b] keys of the samples' noise.
            report: called with (steps done, z) after every block, and for `stops` within it; z is
                at the level of the grid with that number. After every sweep, with (steps done,
                None, where the run is).
            stops: numbers of steps for which `report` must be called.

        Raises:
            FloatingPointError: a value is not finite, even step by step.
        """
        ends, groups = self.steps.ends, self._groups(z)
        carries = [self._start(z, group) for group in groups]
        accounts, self._surrogate_seconds = [], 0.0
        for block, (start, stop) in enumerate(self._bounds):
            inside = [k for k in sorted(stops) if start < ends[k] < stop]
            passed, found = [], []
            for i, group in enumerate(groups):
                iterate, carries[i], account = self._run(block, carries[i], keys[group], report)
                passed.append(iterate.x[ends[inside] - start].swapaxes(0, 1))
                found.append(account)
            accounts.append(jax.tree.map(lambda *x: processes.gathered(_joined(x, groups)), *found))
            if report is not None:
                for k, x in zip(inside, _joined(passed, groups).swapaxes(0, 1), strict=True):
                    report(k, x.reshape(z.shape))
                done = int(np.searchsorted(ends, stop))
                if ends[done] == stop:
                    report(done, _joined([carry.z for carry in carries], groups))
        self.account = {key: np.stack([x[key] for x in accounts], axis=1) for key in accounts[0]}
        self.account["evaluations"] = self.account["evaluations"].sum(axis=1)
        self.account["surrogate_seconds"] = np.full(len(z), self._surrogate_seconds / len(z))
        if self.steps.clip is not None:
            clipped = processes.gathered(_joined([carry.clipped for carry in carries], groups))
            self.account["clip_rate"] = clipped / max(self.steps.corrections, 1)
        return _joined([carry.z for carry in carries], groups)

    def _run(
        self,
        number: int,
        carry: Carry,
        keys: Array,
        report: Callable[..., None] | None = None,
        *,
        is_empty: bool = False,
    ) -> tuple[Iterate, Carry, dict[str, Array]]:
        """One block of one group of samples; or, to compile, of its rows none."""
        start, stop = self._bounds[number]
        count, total = 0 if is_empty else stop - start, len(self._bounds)
        block, setting = self._block(start, start + count), self._setting
        drawn = keys if self.steps.is_stochastic else None
        iterate = picard.begin(setting, self._guess, block, carry, drawn)
        judge = _Judge(self._driving, f"block {number + 1} of {total}", block, len(carry.z))
        while judge.sweeps == 0 or judge.base.min() < count:
            event = carry.z.shape[1:]
            asked = self._explored(start, start + count, is_first=judge.sweeps == 0)
            fixed = Fixed(
                *(setting, self._denoiser, block, judge.tolerance(), jnp.asarray(asked), event),
                far=self._far,
            )
            iterate, news = self._swept(fixed, iterate)
            if judge.sees(news) or is_empty:
                iterate = _one_by_one((judge.gave_up, judge.is_broken), iterate)
            if report is not None:
                row = start + int(judge.base.min())
                done = int(np.searchsorted(self.steps.ends, row, side="right")) - 1
                report(done, None, f"block {number + 1}/{total}, sweep {judge.sweeps}")
        judge.report()
        account = {
            "sweeps": iterate.sweeps,
            "evaluations": iterate.evaluations,
            "residual": iterate.residual,
            "unconverged": judge.gave_up,
        }
        return iterate, picard.finish(setting, block, iterate, carry), account

    def _explored(self, start: int, stop: int, *, is_first: bool) -> np.ndarray:
        """Rows of a block [r] at which a sweep asks, unless they have converged.

        All but in the first of surrogate sweeps, which only leads to the states of the next one.
        """
        asked = np.ones(self._length, bool)
        if not is_first or not self._setting.head or self._driving.tolerance is None:
            return asked
        level, last = np.log(self.steps.sigma[start:stop]), 0
        for row in range(1, stop - start):
            asked[row] = row % SEGMENT == 0 or abs(level[row] - level[last]) > _APART
            last = row if asked[row] else last
        asked[1 : stop - start] &= self.steps.sigma[start + 1 : stop] >= self._floor
        return asked

    def _swept(self, fixed: Fixed, iterate: Iterate) -> tuple[Iterate, News]:
        """After one sweep."""
        if not fixed.setting.head:
            return picard.sweep(fixed, iterate)
        iterate = jax.block_until_ready(picard.evaluate(fixed, iterate))
        begin = time.perf_counter()
        found = jax.block_until_ready(picard.follow(fixed, iterate))
        self._surrogate_seconds += time.perf_counter() - begin
        return found

    def _block(self, start: int, stop: int) -> Block:
        """Rows of a block; all blocks have the same shapes."""
        sigma = self.steps.sigma[start:stop]
        scale = np.ones(self._length)
        scale[: stop - start] = np.sqrt(1 + np.append(sigma[1:], sigma[-1:]) ** 2)
        rows = on_device(jax.tree.map(lambda x: x[start:stop], self.steps), self._length)
        return Block(rows, jnp.int32(stop - start), jnp.asarray(scale, rows.a.dtype))

    def _start(self, z: Array, group: slice) -> Carry:
        """A group of samples before the first row, in full on every device."""
        z, mesh = z[group], self._setting.mesh
        if mesh is not None:
            z = jax.device_put(z, NamedSharding(mesh, PartitionSpec()))
        return Carry.before(self.steps, z)

    def _groups(self, z: Array) -> list[slice]:
        """Samples that fit into memory together: ranges of one length, the last may overlap."""
        b, d, setting = len(z), math.prod(z.shape[1:]), self._setting
        each = max(self._length * max(d, setting.head), setting.pool * d)
        count = -(-b // max(1, _LARGEST_ARRAY // each))
        size = -(-b // count)
        starts = [min(i * size, b - size) for i in range(count)]
        return [slice(start, start + size) for start in starts]


class _Judge:
    """Decides, after every sweep of a block, which samples go on step by step.

    Attributes:
        sweeps: how many there were.
        base: [b] rows that have converged.
        gave_up: [b] samples that go on step by step.
        is_broken: [b] those whose block begins anew, for a value that is not finite.
    """

    def __init__(self, driving: Driving, name: str, block: Block, b: int) -> None:
        self.sweeps = 0
        self.base = np.zeros(b, int)
        self.gave_up, self.is_broken, self._late = np.zeros((3, b), bool)
        self._driving, self._name, self._block = driving, name, block

    def tolerance(self) -> Float[Array, ""]:
        """Of the next sweep; -1 accepts all states."""
        tolerance, limit = self._driving.tolerance, self._driving.max_sweeps
        if tolerance is None:
            tolerance = 0.0 if (self.sweeps + 1) % limit else -1.0
        return jnp.asarray(tolerance, self._block.scale.dtype)

    def sees(self, news: News) -> bool:
        """Take in what a sweep tells; whether other samples go on step by step now.

        Raises:
            FloatingPointError: a value is not finite although its sample went step by step.
        """
        self.sweeps += 1
        self.base, taken, first = map(processes.gathered, news)
        count = int(self._block.count)
        self.is_broken = first < count
        if self.is_broken.any():
            sigma = float(self._block.rows.sigma[first.min()])
            where = f"sweep {self.sweeps} of {self._name} (sigma = {sigma:.4g})"
            if (self.is_broken & self.gave_up).any():
                raise FloatingPointError(f"a sample is not finite after {where}")
            log.warning("%s: a value is not finite; going through the block step by step", where)
            self.base = np.where(self.is_broken, 0, self.base)
        limit = self._driving.max_sweeps if self._driving.tolerance is not None else None
        is_late = (self.base < count) & (taken >= (limit or math.inf)) & ~self.gave_up
        self._late = self._late | is_late
        self.gave_up = self.gave_up | is_late | self.is_broken
        return bool((is_late | self.is_broken).any())

    def report(self) -> None:
        """Tell of samples that did not converge in time."""
        if self._late.any():
            log.warning(
                "%s: %d of %d samples had not converged after %d sweeps; they went on step by step",
                *(self._name, self._late.sum(), len(self._late), self._driving.max_sweeps),
            )


@eqx.filter_jit(donate="all-except-first")
def _one_by_one(chosen: tuple[Array, Array], iterate: Iterate) -> Iterate:
    """With one row at a time for some samples [b], and for some of them from the start [b]."""
    gave_up, anew = chosen
    return iterate._replace(gave_up=gave_up, base=jnp.where(anew, 0, iterate.base))


def _joined(parts: Sequence[Array], groups: Sequence[slice]) -> Array:
    """Samples of all groups in order, those of two groups once."""
    if len(parts) == 1:
        return jnp.asarray(parts[0])
    last = groups[-2].stop - groups[-1].start
    return jnp.concatenate([*parts[:-1], parts[-1][last:]])
