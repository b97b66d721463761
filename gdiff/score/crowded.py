"""Queries for which more rows compete than the leaders of a scan: these are weighed exactly.

Affinities in working precision are wrong by a rounding error that exceeds σ² by far at low noise.
Where more rows than the leaders are that close to the best one, a second scan weighs all of them by
distances in twice the working precision.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from gdiff.denoiser import Posterior
from gdiff.kernels import compensated
from gdiff.kernels.distances import competing
from gdiff.kernels.fold import Chunk, Fold, Rows, fold
from gdiff.kernels.parts import again
from gdiff.kernels.softmax import Moments, merge, moments_of
from gdiff.parallel.mesh import DATA

_HIGHEST = jax.lax.Precision.HIGHEST
# So many crowded queries are weighed apart from the others.
_FEW_CROWDED = 4
# Mass outside the leaders below which float32 cannot tell it from zero.
NEGLIGIBLE = 1e-6


def rounding_of(z: Float[Array, "b d"], rows: Rows) -> Float[Array, " b"]:
    """How wrong affinities of centred z may be, as stored: a bound, some twenty times what is."""
    epsilon, radius = jnp.finfo(z.dtype).eps / 2, rows.radius * rows.scale
    return 5 * epsilon * (radius * jnp.linalg.norm(z, axis=1) + 0.5 * radius**2)


def is_crowded(
    affinities: Float[Array, "b k"],
    rounding: Float[Array, " b"],
    variance: Float[Array, " b"],
    n: int,
    nats: float = 1e-2,
) -> Bool[Array, " b"]:
    """Whether the last leader may be a rounding error away from mattering, on any device.

    Args:
        affinities: of the leaders, best first, in working precision; variance: [b]; both as stored.
        rounding: of the affinities.
        n: rows of which these are the leaders.
        nats: to be wrong by up to that much does not matter: .01, of which a twentieth is met with,
            leave D right to 1e-4 even among equal rows.
    """
    behind = affinities[:, 0] - affinities[:, -1]
    is_full = jnp.isfinite(affinities[:, -1])
    crowded = is_full & (behind < reach(rounding, variance, n)) & (rounding > nats * variance)
    return jax.lax.pmax(crowded.astype(jnp.int32), DATA) > 0


def floor_of(
    crowded: Bool[Array, " b"],
    peak: Float[Array, " b"],
    rounding: Float[Array, " b"],
    variance: Float[Array, " b"],
    n: int,
) -> Float[Array, " b"]:
    """The affinity from which one of n rows competes with that of the peak, where it is crowded."""
    return jnp.where(crowded, peak - reach(rounding, variance, n), jnp.inf)


def reach(rounding: Array, variance: Array, n: int) -> Array:
    """How far behind the best affinity all of n rows together weigh nothing, as stored."""
    return float(np.log(n) - np.log(NEGLIGIBLE)) * variance + rounding


class Contest(NamedTuple):
    """Queries whose competing rows are weighed by exact distances.

    Attributes:
        z: pair of [b, d]; nearest: pair of [b], its squared distance from the nearest leader.
        origin: [b, d] that leader, as stored.
        floor: [b] affinity in working precision from which a row competes.
        variance: [b] as stored.
    """

    z: compensated.Pair
    nearest: compensated.Pair
    origin: Array
    floor: Float[Array, " b"]
    variance: Float[Array, " b"]


class _Competing(Fold):
    """Moments of rows that compete, about the centre; `second` about the nearest leader."""

    def start(self, rows: Rows, z: Array, query: Contest) -> Moments:
        return Moments.empty(*z.shape, z.dtype)

    def step(self, rows: Rows, state: Moments, chunk: Chunk, z: Array, query: Contest) -> Moments:
        y = chunk.stored.astype(z.dtype) - rows.centre
        affinities = jnp.matmul(z, y.T, precision=_HIGHEST) - chunk.half_norms
        competes = chunk.counts & (affinities >= query.floor[:, None])
        affinities, away = competing(
            affinities, competes, query.z, query.nearest, query.origin, chunk.stored
        )
        peak = jax.lax.stop_gradient(state.peak)
        some = moments_of(affinities, query.variance, y, away, _HIGHEST, floor=peak)
        return merge(state, some, query.variance)

    def finish(self, rows: Rows, state: Moments, z: Array, query: Contest) -> Moments:
        peak = jax.lax.pmax(jax.lax.stop_gradient(state.peak), DATA)
        return Moments(peak, *jax.lax.psum(state.rescaled(peak, query.variance)[1:], DATA))


def settled(
    rows: Rows,
    size: int,
    crowded: Bool[Array, " b"],
    posterior: Posterior,
    z: Array,
    query: Contest,
    sigma: Array,
) -> Posterior:
    """The posterior, over the rows that compete where it is crowded.

    The time goes with queries times rows that compete for any of them: where few queries are
    crowded, only these are asked.

    Args:
        rows: of all devices; size: how many are read at a time.
        crowded: which queries.
        posterior: what is known of all.
        z: [b, d], centred; query: the same queries; sigma: [b] in model coordinates.
    """

    answered = partial(_posterior_of, rows, size)

    def anew(count: int) -> Posterior:
        return again(answered, crowded, count, posterior, z, query, sigma)[1]

    few = min(_FEW_CROWDED, len(z))
    is_few = jnp.sum(crowded) <= few
    return jax.lax.cond(is_few, partial(anew, few), partial(anew, len(z)))


def _posterior_of(rows: Rows, size: int, z: Array, query: Contest, sigma: Array) -> Posterior:
    """Posterior over the rows that compete; z [b, d] is centred."""
    moments = fold(rows, _Competing(), z, query, size=size)
    some = moments.mass > 0
    mass = jnp.where(some, moments.mass, 1)
    mean = moments.first / mass[:, None]
    origin = query.origin.astype(z.dtype) - rows.centre
    spread = jnp.sum((mean - origin) ** 2, axis=1)
    trace = jnp.maximum(moments.second / mass - spread, 0)
    half = 0.5 * jnp.sum(z**2, axis=1)
    behind = jnp.where(some, moments.peak, 0) - (half - jax.lax.stop_gradient(half))
    nearest = 0.5 * (query.nearest.high + query.nearest.low)
    log_sum = jnp.log(mass) + (behind - jax.lax.stop_gradient(nearest)) / query.variance
    return in_model(rows, mean, trace, log_sum, sigma)


def in_model(rows: Rows, mean: Array, trace: Array, log_sum: Array, sigma: Array) -> Posterior:
    """From centred, stored units to model coordinates; log_sum = log Σ exp(-‖z - y‖²/2σ²)."""
    d = mean.shape[1]
    return Posterior(
        mean=(mean + (rows.centre - rows.shift)) / rows.scale,
        trace_cov=trace / rows.scale**2,
        log_density=log_sum - jnp.log(rows.number) - 0.5 * d * jnp.log(2 * jnp.pi * sigma**2),
    )
