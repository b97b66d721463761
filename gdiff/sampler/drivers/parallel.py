"""The engine for blocks of more than one row: Picard sweeps, driven from the host."""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Key

from gdiff.denoiser import Denoiser
from gdiff.parallel import processes
from gdiff.sampler.base import Plan, SamplerSpec
from gdiff.sampler.drivers import picard
from gdiff.sampler.drivers.picard import Block, Iterate, News, Setting
from gdiff.sampler.drivers.rows import State, on_device
from gdiff.sampler.drivers.sequential import Account, start_of

Tell = Callable[[int, int], None]

log = logging.getLogger(__name__)

_SHORTEST = 8
# Numbers in one array of states: more samples than that go one group after the other.
_LARGEST_ARRAY = 2**26


class ParallelEngine:
    """Runs one method with one denoiser, block by block; see `picard`.

    Args:
        denoiser: maps (z [b, *event], sigma [b]) to a Posterior.
        plan: the method's table on the grid of the run, and its blocks.
        sampler: how blocks are run.
        mesh: the devices; the states of a block are split over its axis `batch`.
        guess: denoiser for `sampler.start=wiener`; else None.

    Attributes:
        steps: the table.
        is_compiled: whether `compile` was called.
        account: of the last batch, by block: `sweeps` [b, blocks], `residual` [b, blocks] largest
            change of a state that was accepted for changing little, `unconverged` [b, blocks]
            whether a sample went on step by step; `evaluations` [b] in all, and `clip_rate` [b]
            for methods with a bounded part.
    """

    splits_samples = False

    def __init__(
        self,
        denoiser: Denoiser,
        plan: Plan,
        sampler: SamplerSpec,
        mesh: Mesh,
        guess: Denoiser | None = None,
    ) -> None:
        self.steps = plan.steps
        if sampler.split == "score":  # the weights of outputs become weights of states too
            missing = max(0, self.steps.b.shape[1] - self.steps.a.shape[1])
            self.steps = replace(self.steps, a=np.pad(self.steps.a, ((0, 0), (0, missing))))
        self.is_compiled = False
        self.account: Account = {}
        self._bounds = list(pairwise((0, *plan.ends)))
        self._denoiser, self._sampler, self._mesh = denoiser, sampler, mesh
        self._guess = guess
        self._setting = Setting(
            keeps_score=sampler.split == "score",
            is_stochastic=self.steps.is_stochastic,
            mesh=mesh,
        )
        # Padded to a power of two, so that lengths share programs; the padding is not evaluated.
        longest = max(stop - start for start, stop in self._bounds)
        self._length = max(_SHORTEST, 1 << (longest - 1).bit_length())

    def compile(self, z: Float[Array, "b *event"], keys: Key[Array, " b"]) -> None:
        """Compile for batches like `z`, by running no row of one."""
        group = self._groups(z)[0]
        self._run(0, 0, self._start(z, group), keys[group])
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
        groups = self._groups(z)
        states = [self._start(z, group) for group in groups]
        accounts = []
        for block, (start, stop) in enumerate(self._bounds):
            inside = [k for k in sorted(stops) if start < self.steps.ends[k] < stop]
            passed, found = [], []
            for i, group in enumerate(groups):
                tell = partial(self._tell, report, block)
                iterate, states[i], account = self._run(start, stop, states[i], keys[group], tell)
                rows = self.steps.ends[inside] - start
                passed.append(iterate.x[rows].swapaxes(0, 1))
                found.append(account)
            found = jax.tree.map(lambda *x: processes.gathered(_gathered(x, groups)), *found)
            accounts.append(found)
            if report is not None:
                for k, x in zip(inside, _gathered(passed, groups).swapaxes(0, 1), strict=True):
                    report(k, x.reshape(z.shape))
                done = int(np.searchsorted(self.steps.ends, stop))
                if self.steps.ends[done] == stop:
                    report(done, _gathered([state.z for state in states], groups))
        self.account = {key: np.stack([x[key] for x in accounts], axis=1) for key in accounts[0]}
        self.account["evaluations"] = self.account["evaluations"].sum(axis=1)
        if self.steps.clip is not None:
            clipped = processes.gathered(_gathered([state.clipped for state in states], groups))
            self.account["clip_rate"] = clipped / max(self.steps.corrections, 1)
        return _gathered([state.z for state in states], groups)

    def _run(
        self, start: int, stop: int, state: State, keys: Array, tell: Tell | None = None
    ) -> tuple[Iterate, State, Account]:
        """One block, of rows start … stop - 1, of one group of samples; of no rows, it compiles."""
        block = self._block(start, stop)
        iterate = picard.begin(self._setting, self._guess, block, state, keys)
        event, count = state.z.shape[1:], stop - start
        judge = _Judge(self._sampler, self._named(start, stop), block, len(state.z))
        while judge.sweeps == 0 or judge.base.min() < count:
            fixed = (self._setting, self._denoiser, block, judge.tolerance(), event)
            iterate, news = picard.sweep(fixed, iterate)
            if judge.sees(news) or count == 0:
                iterate = _one_by_one((judge.gave_up, judge.is_broken), iterate)
            if tell is not None:
                tell(start + int(judge.base.min()), judge.sweeps)
        judge.report()
        account = {
            "sweeps": iterate.sweeps,
            "evaluations": iterate.evaluations,
            "residual": iterate.residual,
            "unconverged": judge.gave_up,
        }
        return iterate, picard.finish(self._setting, block, iterate, state), account

    def _block(self, start: int, stop: int) -> Block:
        """Rows of a block; all blocks have the same shapes."""
        count, sigma = stop - start, self.steps.sigma[start:stop]
        after = np.append(sigma[1:], sigma[-1:])
        scale = np.ones(self._length)
        scale[:count] = np.sqrt(1 + after**2)
        rows = on_device(jax.tree.map(lambda x: x[start:stop], self.steps), self._length)
        return Block(rows, jnp.int32(count), jnp.asarray(scale, rows.a.dtype))

    def _named(self, start: int, stop: int) -> str:
        block = self._bounds.index((start, stop)) if stop else 0
        return f"block {block + 1} of {len(self._bounds)}"

    def _tell(self, report: Callable | None, block: int, row: int, sweep: int) -> None:
        if report is not None:
            done = int(np.searchsorted(self.steps.ends, row, side="right")) - 1
            report(done, None, f"block {block + 1}/{len(self._bounds)}, sweep {sweep}")

    def _start(self, z: Array, group: slice) -> State:
        """A group of samples before the first row, in full on every device."""
        everywhere = NamedSharding(self._mesh, PartitionSpec())
        return start_of(self.steps, jax.device_put(z[group], everywhere))

    def _groups(self, z: Array) -> list[slice]:
        """Samples that fit into memory together: ranges of one length, the last may overlap."""
        b, d = len(z), math.prod(z.shape[1:])
        count = -(-b // max(1, _LARGEST_ARRAY // (self._length * d)))
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

    def __init__(self, sampler: SamplerSpec, name: str, block: Block, b: int) -> None:
        self.sweeps = 0
        self.base = np.zeros(b, int)
        self.gave_up, self.is_broken = np.zeros(b, bool), np.zeros(b, bool)
        self._sampler, self._name, self._block = sampler, name, block
        self._late = np.zeros(b, bool)

    def tolerance(self) -> Float[Array, ""]:
        """Of the next sweep; -1 accepts all states."""
        tolerance, limit = self._sampler.tolerance, self._sampler.max_sweeps
        if tolerance is None:
            tolerance = 0.0 if (self.sweeps + 1) % limit else -1.0
        return jnp.asarray(tolerance, self._block.scale.dtype)

    def sees(self, news: News) -> bool:
        """Take in the news of a sweep; whether other samples go on step by step now.

        Raises:
            FloatingPointError: a value is not finite although its sample went step by step.
        """
        self.sweeps += 1
        self.base, taken, first = map(processes.gathered, news)
        count = int(self._block.count)
        self.is_broken = first < count
        if self.is_broken.any():
            row = int(first[self.is_broken].min())
            where = f"sweep {self.sweeps} of {self._name} (sigma = {self._sigma(row):.4g})"
            if (self.is_broken & self.gave_up).any():
                raise FloatingPointError(f"a sample is not finite after {where}")
            log.warning("%s: a value is not finite; going through the block step by step", where)
            self.base = np.where(self.is_broken, 0, self.base)
        is_late = np.zeros_like(self._late)
        if self._sampler.tolerance is not None and self._sampler.max_sweeps is not None:
            is_late = (self.base < count) & (taken >= self._sampler.max_sweeps) & ~self.gave_up
        self._late |= is_late
        self.gave_up = self.gave_up | is_late | self.is_broken
        return bool((is_late | self.is_broken).any())

    def report(self) -> None:
        """Tell of samples that did not converge in time."""
        if self._late.any():
            log.warning(
                "%s: %d of %d samples had not converged after %d sweeps; they went on step by step",
                *(self._name, self._late.sum(), len(self._late), self._sampler.max_sweeps),
            )

    def _sigma(self, row: int) -> float:
        return float(self._block.rows.sigma[row])


@eqx.filter_jit(donate="all-except-first")
def _one_by_one(chosen: tuple[Array, Array], iterate: Iterate) -> Iterate:
    """With one row at a time for some samples [b], and for some of them from the start [b]."""
    gave_up, anew = chosen
    return iterate._replace(gave_up=gave_up, base=jnp.where(anew, 0, iterate.base))


def _gathered(parts: Sequence[Array], groups: Sequence[slice]) -> Array:
    """Samples of all groups in order, those of two groups once."""
    if len(parts) == 1:
        return jnp.asarray(parts[0])
    last = groups[-2].stop - groups[-1].start
    return jnp.concatenate([*parts[:-1], parts[-1][last:]])
