"""The engine that runs every method: a loop over the rows of its table of coefficients."""

import time
from collections.abc import Callable
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int, Key

from gdiff.denoiser import Denoiser
from gdiff.parallel import processes
from gdiff.sampler.drivers.rows import State, advanced, combined, noise_of, on_device
from gdiff.sampler.steps import Steps

# Per sample, by name: [b, ...].
Account = dict[str, np.ndarray]

# Longest time without a look at the results: for progress, interrupts and bad values.
_SEGMENT_SECONDS = 0.5


@eqx.filter_jit(donate="all-except-first")
def _advance(
    fixed: tuple[Denoiser, Steps, Key[Array, " b"]],
    state: State,
    start: Int[Array, ""],
    stop: Int[Array, ""],
    *,
    is_stochastic: bool,
) -> tuple[State, Array]:
    """Rows start … stop - 1, and whether all of z is finite after them.

    The bounds are values, not shapes: one program runs any stretch of any table that is padded
    to the same length.
    """
    denoiser, table, keys = fixed

    def body(k: Array, state: State) -> State:
        row = jax.tree.map(lambda column: column[k], table)
        z = state.z
        noise = noise_of(row, keys, z) if is_stochastic else []
        point = z if row.before is None else z + combined(row.before, noise)
        mean = denoiser(point, jnp.full(z.shape[0], row.sigma)).mean
        return advanced(row, state, mean, combined(row.c, noise) if noise else None)

    state = jax.lax.fori_loop(start, stop, body, state)
    return state, jnp.isfinite(state.z).all()


def _segment_of(seconds: float) -> int:
    """How many steps of so many seconds to do before the next look."""
    return max(1, int(_SEGMENT_SECONDS / max(seconds, 1e-6)))


def start_of(steps: Steps, z: Float[Array, "b *event"]) -> State:
    """The state before the first row, laid out over the devices as z is."""
    split = z.sharding.spec if isinstance(z.sharding, NamedSharding) else None

    def zeros(shape: tuple[int, ...], dtype: jnp.dtype, spec: PartitionSpec) -> Array:
        x = jnp.zeros(shape, dtype)
        return x if split is None else jax.device_put(x, NamedSharding(z.sharding.mesh, spec))

    def history(columns: Array) -> Array:
        depth = columns.shape[1] - 1
        # The compiler returns an empty history unsplit; another layout would compile again.
        spec = PartitionSpec(None, *split) if split and depth else PartitionSpec()
        return zeros((depth, *z.shape), z.dtype, spec)

    clipped = None
    if steps.clip is not None:
        clipped = zeros(z.shape[:1], jnp.int32, PartitionSpec(*(split or ())[:1]))
    return State(jnp.copy(z), history(steps.a), history(steps.b), clipped)


class Engine:
    """Runs one method with one denoiser on batches of the same shape; compiled once.

    Args:
        denoiser: maps (z [b, *event], sigma [b]) to a Posterior.
        steps: the method's table on the grid of the run.

    Attributes:
        steps: as given.
        is_compiled: whether `compile` was called.
        account: of the last batch; `clip_rate` [b] is the part of the steps with a bounded part at
            which a sample was clipped, for methods that have one.
    """

    splits_samples = True

    def __init__(self, denoiser: Denoiser, steps: Steps) -> None:
        self.steps = steps
        self.account: Account = {}
        self._denoiser = denoiser
        # Padded to a power of two, so that lengths share programs.
        self._table = on_device(steps, max(16, 1 << (len(steps.sigma) - 1).bit_length()))
        self._ends = steps.ends
        self._is_stochastic = steps.is_stochastic
        self._segment = 1
        self.is_compiled = False

    def compile(self, z: Float[Array, "b *event"], keys: Key[Array, " b"]) -> None:
        """Compile for batches like `z`, by running no step of one."""
        jax.block_until_ready(self._run(start_of(self.steps, z), keys, 0, 0))
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
        state = start_of(self.steps, z)
        total = self.steps.count
        done = 0
        while done < total:
            stop = min([total, done + self._segment, *(s for s in stops if s > done)])
            begin = time.perf_counter()
            state, is_finite = self._run(state, keys, done, stop)
            if not is_finite:
                raise FloatingPointError(
                    f"a sample is not finite after step {stop} of {total} "
                    f"(sigma = {self.steps.sigma[self._ends[stop] - 1]:.4g})"
                )
            seconds = (time.perf_counter() - begin) / (stop - done)
            # The clocks of several processes differ, and their steps must not.
            self._segment = processes.broadcast(partial(_segment_of, seconds))
            done = stop
            if report is not None:
                report(done, state.z)
        if state.clipped is not None:
            clipped = processes.gathered(state.clipped)
            self.account = {"clip_rate": clipped / max(self.steps.corrections, 1)}
        return state.z

    def _run(self, state: State, keys: Array, start: int, stop: int) -> tuple[State, Array]:
        """Steps start … stop - 1 of the grid."""
        return _advance(
            (self._denoiser, self._table, keys),
            state,
            jnp.int32(self._ends[start]),
            jnp.int32(self._ends[stop]),
            is_stochastic=self._is_stochastic,
        )
