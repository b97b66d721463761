"""The engine that runs every method: a loop over the rows of its table of coefficients."""

import time
from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int, Key

from gdiff import rng
from gdiff.denoiser import Denoiser
from gdiff.sampler.steps import Clip, Steps

# Longest time without a look at the results: for progress, interrupts and bad values.
_SEGMENT_SECONDS = 0.5


class State(NamedTuple):
    """Where a batch of trajectories is.

    Attributes:
        z: [b, *event].
        states: [A - 1, b, *event] the previous z, latest first.
        outputs: [B - 1, b, *event] the previous denoiser outputs, latest first.
        clipped: [b] how often a sample was clipped; None for a method without a bounded part.
    """

    z: Float[Array, "b *event"]
    states: Float[Array, "h b *event"]
    outputs: Float[Array, "h b *event"]
    clipped: Int[Array, " b"] | None


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
        z, clipped = state.z, state.clipped
        noise = []
        if is_stochastic:
            draws = [rng.at_step(keys, row.step, n) for n in range(table.c.shape[1])]
            noise = [rng.normal(draw, z) for draw in draws]
        point = z if row.before is None else z + _combined(row.before, noise)
        mean = denoiser(point, jnp.full(z.shape[0], row.sigma)).mean
        states = jnp.concatenate([z[None], state.states])
        outputs = jnp.concatenate([mean[None], state.outputs])
        z = _combined(row.a, states) + _combined(row.b, outputs)
        if row.clip is not None:
            excess, is_clipped = _excess(row.clip, states, outputs)
            z, clipped = z - excess, clipped + is_clipped
        if is_stochastic:
            z = z + _combined(row.c, noise)
        return State(z, states[:-1], outputs[:-1], clipped)

    state = jax.lax.fori_loop(start, stop, body, state)
    return state, jnp.isfinite(state.z).all()


def _combined(weights: Array, values: Array | list[Array]) -> Array:
    """Σ_i weights_i values_i: no product of matrices, which accelerators round to fewer bits."""
    return sum(weights[i] * values[i] for i in range(len(values)))


def _excess(clip: Clip, states: Array, outputs: Array) -> tuple[Array, Array]:
    """What a sample's bounded part is too long by, and whether it is too long: [b]."""
    part = _combined(clip.a, states) + _combined(clip.b, outputs)
    bound = _combined(clip.bound_a, states) + _combined(clip.bound_b, outputs)
    axes = tuple(range(1, part.ndim))
    length, limit = (jnp.sqrt(jnp.sum(x**2, axis=axes, keepdims=True)) for x in (part, bound))
    is_long = length > limit
    surplus = jnp.where(is_long, 1 - limit / jnp.where(is_long, length, 1), 0)
    return surplus * part, is_long.reshape(-1)


def _on_device(steps: Steps) -> Steps:
    """The table in the working types, padded to a power of two so that lengths share programs."""
    count = len(steps.sigma)
    length = max(16, 1 << (count - 1).bit_length())

    def padded(x: np.ndarray) -> Array:
        x = np.pad(x, [(0, length - count)] + [(0, 0)] * (x.ndim - 1))
        return jnp.asarray(x, jnp.int32 if x.dtype.kind == "i" else jnp.result_type(float))

    return jax.tree.map(padded, steps)


class Engine:
    """Runs one method with one denoiser on batches of the same shape; compiled once.

    Args:
        denoiser: maps (z [b, *event], sigma [b]) to a Posterior.
        steps: the method's table on the grid of the run.

    Attributes:
        steps: as given.
        is_compiled: whether `compile` was called.
        clip_rate: [b] at which part of the steps with a bounded part each sample of the last
            batch was clipped; None for a method without one.
    """

    def __init__(self, denoiser: Denoiser, steps: Steps) -> None:
        self.steps = steps
        self.clip_rate: Float[Array, " b"] | None = None
        self._denoiser = denoiser
        self._table = _on_device(steps)
        self._ends = steps.ends
        self._is_stochastic = bool(np.any(steps.c)) or steps.before is not None
        self._segment = 1
        self.is_compiled = False

    def compile(self, z: Float[Array, "b *event"], keys: Key[Array, " b"]) -> None:
        """Compile for batches like `z`, by running no step of one."""
        jax.block_until_ready(self._run(self._start(z), keys, 0, 0))
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
        state = self._start(z)
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
            self._segment = max(1, int(_SEGMENT_SECONDS / max(seconds, 1e-6)))
            done = stop
            if report is not None:
                report(done, state.z)
        if state.clipped is not None:
            self.clip_rate = state.clipped / max(self.steps.corrections, 1)
        return state.z

    def _start(self, z: Array) -> State:
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
        if self.steps.clip is not None:
            clipped = zeros(z.shape[:1], jnp.int32, PartitionSpec(*(split or ())[:1]))
        return State(jnp.copy(z), history(self.steps.a), history(self.steps.b), clipped)

    def _run(self, state: State, keys: Array, start: int, stop: int) -> tuple[State, Array]:
        """Steps start … stop - 1 of the grid."""
        return _advance(
            (self._denoiser, self._table, keys),
            state,
            jnp.int32(self._ends[start]),
            jnp.int32(self._ends[stop]),
            is_stochastic=self._is_stochastic,
        )
