"""How far the golden scan may be off, for certain."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gdiff.parallel.mesh import DATA
from gdiff.score.golden.sums import TINY, Head, Index, Query, row_weights

_matmul = partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


def bound(
    index: Index,
    basis: Float[Array, "d r"],
    query: Query,
    rest: Float[Array, "n b"],
    head: Head,
    mean: Float[Array, "b d"],
    ranked: int,
) -> Float[Array, " b"]:
    """A distance from the exact mean that is never exceeded but by rounding, in stored units: [b].

    By Cauchy and Schwarz no row of the tail has a larger affinity than its coarse one plus
    ‖z_⊥‖ ‖y_⊥‖ - ½‖y_⊥‖². Summed up, that bounds the mass outside of the head, whose mean lies
    somewhere within the radius R of the data: ‖D̃ - D‖ ≤ ‖D̃ - D_head‖ + τ (R + ‖D_head‖), all
    about the mean of the data, as `mean` is. Nor can the distance be larger than ‖D̃‖ + R.

    Args:
        index, basis, query, head, ranked: of the scan.
        rest: coarse affinities of the tail, -inf for the rows of the head.
        mean: that the scan has found.
    """
    variance, norms = query.variance, index.norms[:, 1]
    radius = jnp.sqrt(jax.lax.pmax(jnp.max(norms), DATA))
    end = index.ends[ranked - 1]
    across = query.z - _matmul(query.coordinates[:, :end], basis[:, :end].T)
    across = jnp.linalg.norm(across, axis=1)
    # Differences of large numbers: no less than what rounding may have taken away, in the index's
    # own precision.
    epsilon = jnp.finfo(norms.dtype).eps
    beyond = (index.norms[:, 1 + ranked] + 20 * epsilon * norms)[:, None]
    upper = rest + (across * jnp.sqrt(beyond) - 0.5 * beyond)
    peak = jax.lax.pmax(jnp.max(upper, axis=0), DATA)
    tail_mass = jax.lax.psum(jnp.sum(row_weights(upper, peak, variance), axis=0), DATA)
    length = jnp.linalg.norm(query.z, axis=1)
    rounding = 50 * epsilon * radius * (length + radius)
    odds = (peak - head.peak + rounding) / variance + jnp.log(tail_mass / head.mass)
    own = head.first / jnp.maximum(head.mass, TINY)[:, None]
    outside = jax.nn.sigmoid(odds) * (radius + jnp.linalg.norm(own, axis=1))
    by_head = jnp.linalg.norm(mean - own, axis=1) + outside
    at_most = jnp.linalg.norm(mean, axis=1) + radius
    return jnp.where(head.mass > 0, jnp.minimum(at_most, by_head), at_most)
