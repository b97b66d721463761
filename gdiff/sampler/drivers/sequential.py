"""The engine that runs every method one step after the other."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, Float, Int, Key

from gdiff import memory
from gdiff.denoiser import Denoiser, as_denoiser
from gdiff.parallel import processes
from gdiff.parallel.mesh import BATCH, batch_sharding
from gdiff.sampler.drivers.account import Account
from gdiff.sampler.drivers.rows import Carry, noise_of, on_device
from gdiff.sampler.steps import Steps

# Longest time without a look at the results: for progress, interrupts and bad values.
_SEGMENT_SECONDS = 0.5


@eqx.filter_jit(donate="all-except-first")
def _advance(
    fixed: tuple[Denoiser, Steps, Key[Array, " b"]],
    carry: Carry,
    start: Int[Array, ""],
    stop: Int[Array, ""],
    *,
    is_stochastic: bool,
) -> tuple[Carry, Array]:
    """Rows start … stop - 1, and whether all of z is finite after them.

    The bounds are values, not shapes: one program runs any stretch of any table that is padded
    to the same length.
    """
    denoiser, table, keys = fixed

    def body(k: Array, carry: Carry) -> Carry:
        row = jax.tree.map(lambda column: column[k], table)
        z = carry.z
        noise, shift = noise_of(row, keys, z) if is_stochastic else (None, None)
        point = z if shift is None else z + shift
        return carry.advanced(row, denoiser(point, jnp.full(len(z), row.sigma)).mean, noise)

    carry = jax.lax.fori_loop(start, stop, body, carry)
    return carry, jnp.isfinite(carry.z).all()


@eqx.filter_jit
def _placed(arrays: tuple[Array, ...], sharding: NamedSharding) -> tuple[Array, ...]:
    """By a program: arrays of several processes cannot be put anywhere from outside of one."""
    return jax.lax.with_sharding_constraint(arrays, sharding)


def _segment_of(seconds: float) -> int:
    """How many steps of so many seconds to do before the next look."""
    return max(1, int(_SEGMENT_SECONDS / max(seconds, 1e-6)))


class Engine:
    """Runs one method with one denoiser on batches; compiled once for all of the same shape.

    Args:
        denoiser: maps (z [b, *event], sigma [b]) to a Posterior, or to the mean alone.
        steps: the method's table on the grid of the run.
        mesh: the devices, whose axis `batch` shares the samples; None leaves them where they are.

    Attributes:
        steps: as given.
        is_compiled: whether `compile` was called.
        account: of the last batch; `clip_rate` [b] is the part of the steps with a bounded part at
            which a sample was clipped, for methods that have one.
    """

    splits_samples = True

    def __init__(
        self, denoiser: Callable[..., object], steps: Steps, mesh: Mesh | None = None
    ) -> None:
        self.steps = steps
        self.account: Account = {}
        self.is_compiled = False
        self._denoiser, self._mesh = as_denoiser(denoiser, mesh), mesh
        # Padded to a power of two, so that lengths share programs.
        self._table = on_device(steps, max(16, 1 << (len(steps.sigma) - 1).bit_length()))
        self._segment = 1

    def compile(self, z: Float[Array, "b *event"], keys: Key[Array, " b"]) -> None:
        """Compile for batches like `z`, by running no step of one.

        Raises:
            UserError: the program needs more memory than there is.
        """
        z, keys = self._spread(z, keys)
        carry = Carry.before(self.steps, z)
        # The program is shared with what runs it.
        lowered = _advance.lower(*self._span(carry, keys, 0, 0), **self._options)
        need = memory.of_program(lowered.compile().compiled)
        memory.require_room(need, f"batch_size={len(z)}", memory.of_device())
        jax.block_until_ready(self._run(carry, keys, 0, 0))
        self.is_compiled = True

    def sample(
        self,
        z: Float[Array, "b *event"],
        keys: Key[Array, " b"],
        *,
        report: Callable[[int, Array], None] | None = None,
        stops: frozenset[int] = frozenset(),
    ) -> Float[Array, "b *event"]:
        """Run all steps on a batch.

        Args:
            z: [b, *event] draws at the first noise level.
            keys: [b] keys of the samples' noise.
            report: called with (steps done, z) about twice a second, and at `stops`; z is at the
                level of the grid with that number.
            stops: numbers of steps after which `report` must be called.

        Raises:
            FloatingPointError: a value is not finite.
        """
        b, total = len(z), self.steps.count
        z, keys = self._spread(z, keys)
        carry, done = Carry.before(self.steps, z), 0
        while done < total:
            stop = min([total, done + self._segment, *(s for s in stops if s > done)])
            begin = time.perf_counter()
            carry, is_finite = self._run(carry, keys, done, stop)
            if not is_finite:
                raise FloatingPointError(
                    f"a sample is not finite after step {stop} of {total} "
                    f"(sigma = {self.steps.sigma[self.steps.ends[stop] - 1]:.4g})"
                )
            seconds = (time.perf_counter() - begin) / (stop - done)
            # The clocks of several processes differ, and their steps must not.
            self._segment = processes.broadcast(partial(_segment_of, seconds))
            done = stop
            if report is not None:
                report(done, _first(b, carry.z))
        if carry.clipped is not None:
            clipped = processes.gathered(carry.clipped)[:b]
            self.account = {"clip_rate": clipped / max(self.steps.corrections, 1)}
        return _first(b, carry.z)

    def _run(self, carry: Carry, keys: Array, start: int, stop: int) -> Any:
        """Steps start … stop - 1 of the grid."""
        return _advance(*self._span(carry, keys, start, stop), **self._options)

    def _span(self, carry: Carry, keys: Array, start: int, stop: int) -> tuple:
        """What the program takes for these steps."""
        ends = (jnp.int32(self.steps.ends[k]) for k in (start, stop))
        return (self._denoiser, self._table, keys), carry, *ends

    @property
    def _options(self) -> dict[str, bool]:
        return {"is_stochastic": self.steps.is_stochastic}

    def _spread(self, *arrays: Array) -> tuple[Array, ...]:
        """Arrays [b, …] split over the devices, with samples repeated where they are too few."""
        if self._mesh is None:
            return arrays
        b = len(arrays[0])
        if missing := -b % self._mesh.shape[BATCH]:
            arrays = [x[np.resize(np.arange(b), b + missing)] for x in arrays]
        return _placed(tuple(arrays), batch_sharding(self._mesh))


def _first(count: int, x: Array) -> Array:
    return x if len(x) == count else x[:count]
