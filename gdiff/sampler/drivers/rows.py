"""One row of a table on the device: its noise, and the state that it leads to."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, Int, Key

from gdiff import rng
from gdiff.sampler.steps import Clip, Steps


class Carry(NamedTuple):
    """What a loop over rows carries along for a batch.

    Attributes:
        z: [b, *event] the state.
        states: [A - 1, b, *event] the previous states, latest first.
        outputs: [B - 1, b, *event] the previous denoiser outputs, latest first.
        clipped: [b] how often a sample was clipped; None for a method without a bounded part.
    """

    z: Float[Array, "b *event"]
    states: Float[Array, "h b *event"]
    outputs: Float[Array, "h b *event"]
    clipped: Int[Array, " b"] | None

    @classmethod
    def before(cls, steps: Steps, z: Float[Array, "b *event"]) -> "Carry":
        """Before the first row, laid out over the devices as z is."""
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
        return cls(jnp.copy(z), history(steps.a), history(steps.b), clipped)

    def advanced(self, row: Steps, mean: Float[Array, "b *event"], noise: Array | None) -> "Carry":
        """After a row.

        Args:
            row: of the table.
            mean: the denoiser's output.
            noise: [b, *event] weighted; None if there is none.
        """
        states = jnp.concatenate([self.z[None], self.states])
        outputs = jnp.concatenate([mean[None], self.outputs])
        z, clipped = combined(row.a, states) + combined(row.b, outputs), self.clipped
        if row.clip is not None:
            surplus, is_clipped = excess(row.clip, states, outputs)
            z, clipped = z - surplus, clipped + is_clipped
        if noise is not None:
            z = z + noise
        return Carry(z, states[:-1], outputs[:-1], clipped)


def on_device(steps: Steps, length: int) -> Steps:
    """The table in the working types, padded with zeros to this many rows."""

    def padded(x: np.ndarray) -> Array:
        x = np.pad(x, [(0, length - len(x))] + [(0, 0)] * (x.ndim - 1))
        return jnp.asarray(x, jnp.int32 if x.dtype.kind == "i" else jnp.result_type(float))

    return jax.tree.map(padded, steps)


def noise_of(
    row: Steps, keys: Key[Array, " b"], like: Float[Array, "b *event"]
) -> tuple[Array, Array | None]:
    """What a row adds to the state, and what to the point of evaluation: [b, *event] each."""
    noise = [rng.normal(rng.at_step(keys, row.noise - ago, n), like) for ago, n in row.columns]
    return combined(row.c, noise), None if row.before is None else combined(row.before, noise)


def combined(weights: Array, values: Array | Sequence[Array]) -> Array:
    """Σ_i weights_i values_i, over as many as there are of both.

    No product of matrices, which accelerators round to fewer bits.
    """
    return sum(weights[i] * values[i] for i in range(min(len(weights), len(values))))


def excess(
    clip: Clip, states: Float[Array, "h b *event"], outputs: Float[Array, "g b *event"]
) -> tuple[Float[Array, "b *event"], Bool[Array, " b"]]:
    """What a sample's bounded part is too long by, and whether it is too long."""
    part = combined(clip.a, states) + combined(clip.b, outputs)
    bound = combined(clip.bound_a, states) + combined(clip.bound_b, outputs)
    axes = tuple(range(1, part.ndim))
    length, limit = (jnp.sqrt(jnp.sum(x**2, axis=axes, keepdims=True)) for x in (part, bound))
    is_long = length > limit
    surplus = jnp.where(is_long, 1 - limit / jnp.where(is_long, length, 1), 0)
    return surplus * part, is_long.reshape(-1)
