"""A golden scan for few rows: the heaviest are opened, and all others left out.

Where a few rows share the posterior, all that the coarse scan is asked is which these may be. They
are opened in the order of what they may weigh at most, until all that are left, taken for so heavy
and all on one side, are a part of what was found that does not matter. Neither do they count then:
there is no tail to be summed.
"""

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from gdiff.denoiser import Posterior
from gdiff.kernels.leading import leading, without
from gdiff.kernels.parts import in_parts
from gdiff.kernels.softmax import Leaders
from gdiff.parallel.mesh import DATA
from gdiff.score.golden import bounds
from gdiff.score.golden.opening import Sums, at_once, head_of, log_excess, with_rows
from gdiff.score.golden.sums import TINY, row_weights

if TYPE_CHECKING:
    from gdiff.score.golden.scan import GoldenScan

# Rows of a device that are opened for a query at most, and so many at a time.
MOST, _AT_ONCE = 128, 8


class _Found(NamedTuple):
    """What is opened for queries: sums; how many rows of this device [b]; log mass not opened [b].

    The last is an upper bound for all devices, as an affinity over σ².
    """

    sums: Sums
    count: Array
    left: Array


def scan(
    golden: "GoldenScan", ranked: int, aim: Array, z: Float[Array, "b d"], sigma: Float[Array, " b"]
) -> tuple[Posterior, Float[Array, " b"], Bool[Array, " b"]]:
    """As `GoldenScan.scan`; the estimate of the error is rather a bound on what is expected."""
    rows, query = golden.full.rows, golden.query(z, sigma)
    variance, norms = query.variance, golden.index.norms[:, 1]
    coarse = golden.coarse(query, ranked)
    excess = log_excess(golden.index.norms[:, 1 + ranked], variance, rows.number)
    upper = jax.lax.optimization_barrier(coarse + variance * excess)
    best = leading(upper, MOST)
    last = best.affinities[:, -1]
    # A row that is opened counts as one here.
    others = jnp.sum(row_weights(jnp.minimum(upper, last), last, variance), axis=0)
    others = jnp.maximum(others - best.affinities.shape[1], 0)
    others = jnp.where(jnp.isfinite(last), last / variance + jnp.log(others), -jnp.inf)
    logits = jnp.concatenate([best.affinities / variance[:, None], others[:, None]], axis=1)
    left = jax.lax.cumlogsumexp(logits, axis=1, reverse=True)

    square = jax.lax.psum(jnp.sum(norms), DATA) / rows.number
    run = partial(_search, golden, square)
    aim = jnp.broadcast_to(aim, sigma.shape)
    found = in_parts(run, at_once(rows, query), query.z, variance, aim, best.rows, left)

    head = head_of(rows, norms, golden.mean, query, found.sums, golden.tolerance)
    mean = head.first / jnp.maximum(head.mass, TINY)[:, None]
    odds = jnp.exp(found.left - head.peak / variance - jnp.log(head.mass))
    # Both means lie within the data.
    away = jnp.sqrt(square + jnp.sum(mean**2, axis=1))
    estimate = jnp.minimum(odds * away, 2 * rows.radius * rows.scale)

    is_open = jnp.arange(best.rows.shape[1]) < found.count[:, None]
    rest = without(coarse, Leaders(jnp.where(is_open, 0, -jnp.inf), best.rows))
    bound = bounds.bound(golden.index, golden.basis, query, rest, head, mean, ranked)
    posterior = Posterior(
        mean=golden.restored(mean),
        trace_cov=head.spread / jnp.maximum(head.mass, TINY) / rows.scale**2,
        error_bound=bound / rows.scale + golden.rounding(z, sigma, norms.dtype),
        subset_size=jax.lax.psum(found.count, DATA),
    )
    return posterior, estimate / rows.scale, head.crowded


def _search(
    golden: "GoldenScan",
    square: Array,
    z: Float[Array, "b d"],
    variance: Float[Array, " b"],
    aim: Float[Array, " b"],
    row: Array,
    left: Float[Array, "b places"],
) -> _Found:
    """Opens rows in their order until what is left is allowed.

    Args:
        golden: the scan; square: mean of ‖y‖² about its mean, as stored.
        z, variance: of queries, as stored; aim: relative error that is allowed.
        row: [b, k] in the order in which they are opened.
        left: [b, k + 1] log mass of all rows of this device from each place on.
    """
    rows, norms = golden.full.rows, golden.index.norms[:, 1]
    k = row.shape[1]
    shift = golden.mean - rows.shift

    def left_at(count: Array) -> Array:
        own = jnp.take_along_axis(left, count[:, None], axis=1)[:, 0]
        highest = jax.lax.pmax(own, DATA)
        safe = jnp.where(jnp.isfinite(highest), highest, 0)
        return safe + jnp.log(jax.lax.psum(jnp.exp(own - safe), DATA))

    def more(state: tuple[Array, Array, _Found]) -> tuple[Array, Array, _Found]:
        start, needs, found = state
        place = start + jnp.arange(_AT_ONCE)
        exists = (place < k) & needs[:, None]
        picked = jnp.take(row, place, axis=1, mode="clip")
        sums = with_rows(rows, norms, golden.mean, z, variance, found.sums, picked, exists)
        count = found.count + jnp.sum(exists, axis=1)
        rest = left_at(count)
        peak = jax.lax.pmax(sums.moments.peak, DATA)
        _, mass, first, _ = sums.moments.rescaled(peak, variance)
        mass, first = jax.lax.psum((mass, first), DATA)
        mean = first / jnp.maximum(mass, TINY)[:, None]
        away = jnp.sqrt(square + jnp.sum(mean**2, axis=1))
        allowed = aim * jnp.linalg.norm(mean + shift, axis=1) / away
        odds = rest - peak / variance - jnp.log(mass)
        # So written that NaN needs more.
        needs &= ~(odds <= jnp.log(allowed))
        return start + _AT_ONCE, needs, _Found(sums, count, rest)

    def goes_on(state: tuple[Array, Array, _Found]) -> Array:
        return (state[0] < k) & jnp.any(state[1])

    nothing = jnp.zeros(len(z), jnp.int32)
    none = _Found(Sums.empty(*z.shape, z.dtype), nothing, left[:, 0])
    start = (jnp.int32(0), jnp.ones(len(z), bool), none)
    return jax.lax.while_loop(goes_on, more, start)[2]
