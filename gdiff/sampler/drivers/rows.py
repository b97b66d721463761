"""One row of a table on the device: its noise, and the state that it leads to."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from gdiff import rng
from gdiff.sampler.steps import Clip, Steps


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


def on_device(steps: Steps, length: int) -> Steps:
    """The table in the working types, padded with zeros to this many rows."""

    def padded(x: np.ndarray) -> Array:
        x = np.pad(x, [(0, length - len(x))] + [(0, 0)] * (x.ndim - 1))
        return jnp.asarray(x, jnp.int32 if x.dtype.kind == "i" else jnp.result_type(float))

    return jax.tree.map(padded, steps)


def noise_of(row: Steps, keys: Key[Array, " b"], like: Float[Array, "b *event"]) -> list[Array]:
    """The standard normal vectors of a row, in the order of its columns."""
    return [rng.normal(rng.at_step(keys, row.noise - ago, n), like) for ago, n in row.columns]


def combined(weights: Array, values: Array | Sequence[Array]) -> Array:
    """Σ_i weights_i values_i: no product of matrices, which accelerators round to fewer bits."""
    return sum(weights[i] * values[i] for i in range(len(values)))


def excess(
    clip: Clip, states: Float[Array, "h b *event"], outputs: Float[Array, "h b *event"]
) -> tuple[Float[Array, "b *event"], Bool[Array, " b"]]:
    """What a sample's bounded part is too long by, and whether it is too long."""
    part = combined(clip.a, states) + combined(clip.b, outputs)
    bound = combined(clip.bound_a, states) + combined(clip.bound_b, outputs)
    axes = tuple(range(1, part.ndim))
    length, limit = (jnp.sqrt(jnp.sum(x**2, axis=axes, keepdims=True)) for x in (part, bound))
    is_long = length > limit
    surplus = jnp.where(is_long, 1 - limit / jnp.where(is_long, length, 1), 0)
    return surplus * part, is_long.reshape(-1)


def advanced(
    row: Steps, state: State, mean: Float[Array, "b *event"], added: Array | None
) -> State:
    """The state after a row.

    Args:
        row: of the table.
        state: before it.
        mean: the denoiser's output.
        added: [b, *event] the noise, weighted; None if there is none.
    """
    states = jnp.concatenate([state.z[None], state.states])
    outputs = jnp.concatenate([mean[None], state.outputs])
    z, clipped = combined(row.a, states) + combined(row.b, outputs), state.clipped
    if row.clip is not None:
        surplus, is_clipped = excess(row.clip, states, outputs)
        z, clipped = z - surplus, clipped + is_clipped
    if added is not None:
        z = z + added
    return State(z, states[:-1], outputs[:-1], clipped)
