"""Distances to twice the working precision, and the weights that rows have by them.

Where sigma is small, affinities in working precision are noise: these are for the rows that compete
there.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from gdiff.kernels import compensated

_LANES = 256
# Numbers in one [pairs, lanes] array of rows that compete: few enough to stay in cache.
_AT_ONCE = 2**17


def squared_distances(z: compensated.Pair, y: Array) -> compensated.Pair:
    """‖z - y‖² by direct differences, to twice the working precision.

    The expansion ‖z‖² - 2 z·y + ‖y‖² loses all digits where σ is small and two rows are almost
    equally far from z; this does not.

    Args:
        z: pair of [b, d].
        y: [b, k, d], or [1, k, d] for all of z, of any type whose values the working precision
            holds exactly.

    Returns:
        Pair of [b, k].
    """
    b, (_, k, d) = len(z.high), y.shape
    dtype = z.high.dtype
    # Blocks of the last axis in turn keep the many intermediates in cache: four times faster
    # than whole arrays on CPU.
    lanes = min(d, _LANES)
    blocks = -(-d // lanes)
    padding = blocks * lanes - d

    def split(x: Array) -> Array:
        x = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, padding)])
        return jnp.moveaxis(x.reshape(*x.shape[:-1], blocks, lanes), -2, 0)

    def body(sums: compensated.Pair, block: tuple[Array, Array, Array]) -> tuple:
        z_high, z_low, rows = block
        difference = compensated.two_sum(z_high[:, None], -rows.astype(dtype))
        low = difference.low + z_low[:, None]
        square = compensated.two_product(difference.high, difference.high)
        square = compensated.Pair(square.high, square.low + 2 * difference.high * low)
        return compensated.add(sums, square), None

    zeros = jnp.zeros((b, k, lanes), dtype)
    blocks_of = (split(z.high), split(z.low), split(y))
    sums, _ = jax.lax.scan(body, compensated.Pair(zeros, zeros), blocks_of)
    return compensated.total(sums)


def excess_distances(
    z: compensated.Pair, y: Array, used: Array, axis: str
) -> tuple[Float[Array, "b k"], compensated.Pair]:
    """‖z - y‖² less the least of them, and that: exact where differences of them matter.

    Args:
        z: pair of [b, d].
        y: [b, k, d]; used: [b, k] which of them count.
        axis: of the mesh, over whose devices the least is taken.
    """
    distance = squared_distances(z, y)

    def least(x: Array) -> Array:
        x = jnp.min(jnp.where(used, x, jnp.inf), axis=1)
        return jax.lax.pmin(jax.lax.stop_gradient(x), axis)

    nearest = least(distance.high)
    excess = (distance.high - nearest[:, None]) + distance.low
    # Far from the data the low parts alone are many times sigma².
    rest = least(excess)
    return excess - rest[:, None], compensated.Pair(nearest, rest)


def exceeding(distance: compensated.Pair, nearest: compensated.Pair) -> Float[Array, "b k"]:
    """Distances [b, k] less those [b] that `excess_distances` gave."""
    return (distance.high - nearest.high[:, None]) + distance.low - nearest.low[:, None]


def competing(
    affinities: Float[Array, "b n"],
    competes: Bool[Array, "b n"],
    z: compensated.Pair,
    nearest: compensated.Pair,
    origin: Array,
    y: Float[Array, "n d"],
) -> tuple[Float[Array, "b n"], Float[Array, "b n"]]:
    """½(nearest - ‖z - y‖²) where `competes`, -inf elsewhere; and ‖y - origin‖², 0 elsewhere.

    The time that it takes goes with the number of pairs that compete.

    Args:
        affinities: the former but for rounding and a number for each query; with its derivatives.
        competes: which of them are asked for.
        z: pair of [b, d]; nearest: pair of [b]; y: [n, d] as for `squared_distances`.
        origin: [b, d] of the type of y, without derivatives.
    """
    n, count, dtype = affinities.shape[1], affinities.size, affinities.dtype
    size = min(count, max(8, _AT_ONCE // min(y.shape[1], _LANES)))
    z, nearest, y = jax.lax.stop_gradient((z, nearest, y))

    def some(state: tuple[Array, ...]) -> tuple[Array, ...]:
        pending, exact, away = state
        pairs = jnp.nonzero(pending, size=size, fill_value=count)[0]
        query, row = jnp.divmod(jnp.minimum(pairs, count - 1), n)
        own = y[row]
        own_z, own_nearest, own_origin = jax.tree.map(lambda x: x[query], (z, nearest, origin))
        excess = exceeding(squared_distances(own_z, own[:, None]), own_nearest)[:, 0]
        exact = exact.at[pairs].set(-excess / 2, mode="drop")
        far = own.astype(dtype) - own_origin.astype(dtype)
        away = away.at[pairs].set(jnp.sum(far**2, axis=1), mode="drop")
        return pending.at[pairs].set(False, mode="drop"), exact, away

    zeros = jnp.zeros(count, dtype)
    start = (competes.ravel(), zeros, zeros)
    _, exact, away = jax.lax.while_loop(lambda state: jnp.any(state[0]), some, start)
    exact, away = (x.reshape(affinities.shape) for x in (exact, away))
    affinities = jnp.where(competes, affinities, 0)
    exact += affinities - jax.lax.stop_gradient(affinities)
    return jnp.where(competes, exact, -jnp.inf), jnp.where(competes, away, 0)


class Shares(NamedTuple):
    """How rows that compete divide their common mass, by exact distances.

    Attributes:
        weights: [b, k] of this device's rows; they sum to 1 over all devices of the axis.
        log_sum: [b] log Σ exp(-‖z - y‖² / 2σ²) over all of these rows.
        nearest: pair of [b], ‖z - y‖² of the nearest row.
    """

    weights: Float[Array, "b k"]
    log_sum: Float[Array, " b"]
    nearest: compensated.Pair


def exact_shares(
    z: compensated.Pair, y: Array, used: Array, variance: Float[Array, " b"], axis: str
) -> Shares:
    """Shares of the rows y [b, k, d] that are `used` [b, k], over the devices of a mesh axis."""
    excess, nearest = excess_distances(z, y, used, axis)
    weights = jnp.where(used, jnp.exp(-excess / (2 * variance[:, None])), 0)
    mass = jax.lax.psum(jnp.sum(weights, axis=1), axis)
    shares = weights / jnp.maximum(mass, jnp.finfo(mass.dtype).tiny)[:, None]
    log_sum = jnp.log(mass) - (nearest.high + nearest.low) / (2 * variance)
    return Shares(shares, log_sum, nearest)


def heaviest(weights: Float[Array, "b k"], y: Array, axis: str) -> Array:
    """Of y [b, k, d] the row [b, d] that weighs most on the devices of a mesh axis; a constant."""
    weights, y = jax.lax.stop_gradient((weights, y))
    best = jnp.max(weights, axis=1)
    here = jax.lax.axis_index(axis)
    has_best = best == jax.lax.pmax(best, axis)
    first = jax.lax.pmin(jnp.where(has_best, here, jax.lax.axis_size(axis)), axis)
    own = jnp.take_along_axis(y, jnp.argmax(weights, axis=1)[:, None, None], axis=1)[:, 0]
    return jax.lax.psum(jnp.where((first == here)[:, None], own, 0), axis)
