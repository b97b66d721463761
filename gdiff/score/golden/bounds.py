"""How far the golden scan may be off: for certain, and where its coarse ranking misleads."""

import math
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gdiff.kernels.leading import without
from gdiff.kernels.softmax import Leaders
from gdiff.parallel.mesh import DATA
from gdiff.score.golden.sums import TINY, Head, Index, Query, Tail, row_weights
from gdiff.score.golden.work import Work

# Standard deviations by which the affinity of a row may exceed what the coarse scan sees.
_UNLUCKY = 3.0
# The mean square of the unseen coordinates of a row, in units of σ², from which on its coarse
# affinity says little about it.
_MISLEADING = 4.0

_matmul = partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


def overlooked(
    index: Index,
    query: Query,
    rest: Float[Array, "n b"],
    head: Head,
    tail: Tail,
    work: Work,
) -> Float[Array, " b"]:
    """An error that rows may make whose coarse affinity is misleading, in stored units: [b].

    At low noise a single row decides, and its place in the coarse ranking is uncertain by
    ⟨z_⊥, y_⊥⟩. Where z is longer there than noise would make it, that may be all of ‖z_⊥‖ ‖y_⊥‖, as
    for a z near y or between y and other rows; by noise it is `_UNLUCKY` σ ‖y_⊥‖ at most, but for
    bad luck. The mass of the tail is estimated with affinities that are larger by both. Where the
    coarse scan sees nearly all, at high noise, the tail is averaged, not overlooked.
    """
    variance, end = query.variance, index.ends[work.ranked - 1]
    hidden = tail.beyond[:, work.ranked - 1] / jnp.maximum(tail.mass, TINY) / variance

    def estimated() -> Array:
        hidden_dims = query.z.shape[1] - end
        seen = jnp.sum(query.coordinates[:, :end] ** 2, axis=1)
        across = jnp.maximum(jnp.sum(query.z**2, axis=1) - seen, 0)
        # The squared length of noise, and by how much it varies.
        noise = hidden_dims + math.sqrt(2 * hidden_dims)
        signal = jnp.sqrt(jnp.maximum(across - variance * noise, 0))
        deviation = signal + _UNLUCKY * jnp.sqrt(variance)
        beyond = index.norms[:, 1 + work.ranked][:, None]
        upper = rest + (jnp.sqrt(beyond) * deviation - 0.5 * beyond)
        peak = jax.lax.pmax(jnp.max(upper, axis=0), DATA)
        mass = jax.lax.psum(jnp.sum(row_weights(upper, peak, variance), axis=0), DATA)
        head_mass = jnp.maximum(head.mass, TINY)
        odds = (peak - head.peak) / variance + jnp.log(mass / head_mass)
        own = head.first / head_mass[:, None]
        away = jnp.sqrt(tail.second / jnp.maximum(tail.mass, TINY)) + jnp.linalg.norm(own, axis=1)
        return jnp.where(hidden > _MISLEADING, jax.nn.sigmoid(odds) * away, 0)

    return jax.lax.cond(jnp.any(hidden > _MISLEADING), estimated, lambda: jnp.zeros_like(hidden))


def bound(
    index: Index,
    basis: Float[Array, "d r"],
    query: Query,
    coarse: Float[Array, "n b"],
    leaders: Leaders,
    head: Head,
    mean: Float[Array, "b d"],
    work: Work,
) -> Float[Array, " b"]:
    """A distance from the exact mean that is never exceeded but by rounding, in stored units: [b].

    By Cauchy and Schwarz no row of the tail has a larger affinity than its coarse one plus
    ‖z_⊥‖ ‖y_⊥‖ - ½‖y_⊥‖². Summed up, that bounds the mass outside of the head, whose mean lies
    somewhere within the radius R of the data: ‖D̃ - D‖ ≤ ‖D̃ - D_head‖ + τ (R + ‖D_head‖), all
    about the mean of the data, as `mean` is. Nor can the distance be larger than ‖D̃‖ + R.
    """
    variance, norms = query.variance, index.norms[:, 1]
    radius = jnp.sqrt(jax.lax.pmax(jnp.max(norms), DATA))
    bound = jnp.linalg.norm(mean, axis=1) + radius
    if work.head:
        end = index.ends[work.ranked - 1]
        across = query.z - _matmul(query.coordinates[:, :end], basis[:, :end].T)
        across = jnp.linalg.norm(across, axis=1)
        # Differences of large numbers: no less than what rounding may have taken away, in the
        # index's own precision.
        epsilon = jnp.finfo(norms.dtype).eps
        beyond = (index.norms[:, 1 + work.ranked] + 20 * epsilon * norms)[:, None]
        upper = without(coarse, leaders) + (across * jnp.sqrt(beyond) - 0.5 * beyond)
        peak = jax.lax.pmax(jnp.max(upper, axis=0), DATA)
        tail_mass = jax.lax.psum(jnp.sum(row_weights(upper, peak, variance), axis=0), DATA)
        length = jnp.linalg.norm(query.z, axis=1)
        rounding = 50 * epsilon * radius * (length + radius)
        odds = (peak - head.peak + rounding) / variance + jnp.log(tail_mass / head.mass)
        own = head.first / head.mass[:, None]
        outside = jax.nn.sigmoid(odds) * (radius + jnp.linalg.norm(own, axis=1))
        bound = jnp.minimum(bound, jnp.linalg.norm(mean - own, axis=1) + outside)
    return bound
