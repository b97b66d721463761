"""Which rows a golden scan opens, and the exact sums over these: its head.

The error that a row makes while it counts by its coordinates alone is known in mean square (see
`gdiff.score.golden.scan`). Rows are opened from the worst on, until those that are left add up to
no more than is allowed: so every query opens as many as it needs.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from gdiff.kernels.distances import exact_shares
from gdiff.kernels.fold import Rows
from gdiff.kernels.marked import Marked
from gdiff.kernels.parts import in_parts
from gdiff.kernels.softmax import Leaders, Moments, merge, weights_of
from gdiff.parallel.mesh import DATA
from gdiff.score.crowded import is_crowded, reach, rounding_of
from gdiff.score.exact import is_delicate
from gdiff.score.golden.sums import TINY, Head, Query

# The threshold of risks is found by so many halvings of where it may lie.
_HALVINGS = 5
# Rows that are opened at a time: few enough to stay in cache.
_AT_ONCE = 32
# Those of the head whose weights are computed to twice the working precision.
_CLOSEST = 8
# Part of the tolerance that logits in working precision may cost.
_LOGIT_SHARE = 0.01
# Mass beside that of the heaviest row, or of the closest ones, which cannot be told from zero.
_NEGLIGIBLE = 1e-6
_einsum = partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)


def log_variation(
    beyond: Float[Array, " n"], variance: Float[Array, " b"], number: int | Array
) -> Float[Array, "n b"]:
    """log E (e^u - 1)², of rows with squared norms `beyond` outside of the coarse scan.

    With v = beyond / σ², u is normal of variance v and mean -½v, and the expectation about e^v - 1,
    which we write v e^v / (1 + v). It comes from u that are 2 √v standard deviations from their
    mean: of n rows none is expected beyond c = √(2 log n), and larger ones do not count here, which
    makes the exponent 2 c √v - v - ½c². Beyond v = c² we let it grow with c √v, as if the mean of u
    were no less than there: so it is for rows whose mean z is near, as for those between two.
    """
    v = beyond[:, None] / variance
    square = 2 * jnp.log(jnp.asarray(number, v.dtype))
    return jnp.log(v / (1 + v)) + 2 * _growth(v, jnp.sqrt(square * v), square)


def log_excess(
    beyond: Float[Array, " n"], variance: Float[Array, " b"], number: int | Array
) -> Float[Array, "n b"]:
    """log of a factor that rows may weigh more than by the coarse scan: no less than 1.

    That is the root of E (e^u - 1)², as in `log_variation`, where it is larger; without logarithms.
    """
    # Nothing here is computed for every row and query that depends on one of both.
    root = jnp.sqrt(beyond)[:, None] * (1 / jnp.sqrt(variance))
    square = 2 * jnp.log(jnp.asarray(number, root.dtype))
    return _growth(root * root, jnp.sqrt(square) * root, square)


def _growth(v: Float[Array, "n b"], product: Float[Array, "n b"], square: Array) -> Array:
    """½v, truncated as `log_variation` says; `product` is c √v and `square` c²."""
    truncated = product - jnp.minimum(v, square) / 2 - square / 4
    return jnp.where(4 * v <= square, v / 2, truncated)


def opened(
    log_risk: Float[Array, "n b"],
    log_allowed: Float[Array, " b"],
    number: int | Array,
    most: int,
) -> Bool[Array, "n b"]:
    """The rows with the largest risks, so many that those of all others add up to what is allowed.

    None is opened, where more than `most` of all `number` rows would have to be.
    """
    # Infinite ones are to be opened anyway. Computed once: what each halving reads is little.
    risk = jax.lax.optimization_barrier(jnp.exp(log_risk))
    allowed = jnp.exp(log_allowed)

    def is_enough(threshold: Array) -> Array:
        left = jnp.sum(jnp.where(risk < threshold, risk, 0), axis=0)
        return jax.lax.psum(left, DATA) <= allowed

    # At the lower end all rows together are allowed, beyond the upper one not a single one is.
    high = log_allowed
    low = high - jnp.log(jnp.asarray(number, high.dtype))
    needs = ~(jax.lax.psum(jnp.sum(risk, axis=0), DATA) <= allowed)

    def halved(low: Array, high: Array) -> Array:
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            enough = is_enough(jnp.exp(middle))
            low, high = jnp.where(enough, middle, low), jnp.where(enough, high, middle)
        return low

    low = jax.lax.cond(jnp.any(needs), halved, lambda low, _: low, low, high)
    is_open = (risk >= jnp.exp(low)) & needs
    count = jax.lax.psum(jnp.sum(is_open, axis=0), DATA)
    return jax.lax.optimization_barrier(is_open & (count <= most))


class Sums(NamedTuple):
    """Of opened rows of this device: moments about the mean, and which of them are closest."""

    moments: Moments
    best: Leaders

    @classmethod
    def empty(cls, b: int, d: int, dtype: jnp.dtype) -> "Sums":
        """Of no rows."""
        return cls(Moments.empty(b, d, dtype), Leaders.empty(b, _CLOSEST, dtype))

    def merged(self, other: "Sums", variance: Float[Array, " b"]) -> "Sums":
        """Those of both."""
        affinities, rows = (
            jnp.concatenate(pair, axis=1) for pair in zip(self.best, other.best, strict=True)
        )
        affinities, place = jax.lax.top_k(affinities, _CLOSEST)
        best = Leaders(affinities, jnp.take_along_axis(rows, place, axis=1))
        return Sums(merge(self.moments, other.moments, variance), best)


def summed(
    rows: Rows,
    norms: Float[Array, " n"],
    mean: Float[Array, " d"],
    query: Query,
    is_open: Bool[Array, "n b"],
) -> Sums:
    """Over the rows that are opened, by their exact affinities.

    Args:
        rows: of the data set; norms: squared, about the mean; mean: in stored units.
        query: the queries; is_open: for each of them.
    """
    run = partial(_summed, rows, norms, mean)
    return in_parts(run, at_once(rows, query), query.z, query.variance, Marked.of(is_open))


def at_once(rows: Rows, query: Query) -> int:
    """Queries for which rows are opened together: one on CPU, where each stops at its last row."""
    return 1 if rows.mesh.devices.flat[0].platform == "cpu" else len(query.z)


def head_of(
    rows: Rows,
    norms: Float[Array, " n"],
    mean: Float[Array, " d"],
    query: Query,
    sums: Sums,
    tolerance: Float[Array, ""],
) -> Head:
    """The head of all devices, the closest of its rows weighed by exact distances."""
    moments, best = sums
    peak = jax.lax.pmax(moments.peak, DATA)
    moments = moments.rescaled(peak, query.variance)
    mass = jax.lax.psum(moments.mass, DATA)
    approximate = weights_of(best.affinities, peak, query.variance)
    held = jax.lax.psum(jnp.sum(approximate, axis=1), DATA)
    rest_mass = mass - held
    divisor = jnp.maximum(mass, TINY)
    rounding = rounding_of(query.z, rows)

    def spread_of(mass_of: Array, first: Array, second: Array, mean: Array, away: Array) -> Array:
        """About `mean`, of rows that have these sums here; 0 where rounding is all of it.

        So it is if the mass `away` from the mean is negligible.
        """
        spread = jax.lax.psum(second - 2 * jnp.sum(first * mean, axis=1), DATA)
        spread += mass_of * jnp.sum(mean**2, axis=1)
        return jnp.where(away > _NEGLIGIBLE * mass, jnp.maximum(spread, 0), 0)

    def plain() -> tuple[Array, Array, Array]:
        first = jax.lax.psum(moments.first, DATA)
        own_mean = first / divisor[:, None]
        # The heaviest row has a weight of 1.
        spread = spread_of(mass, moments.first, moments.second, own_mean, mass - 1)
        return first, spread, jnp.zeros(len(mass), bool)

    def settled() -> tuple[Array, Array, Array]:
        """The closest rows divide their mass by exact distances, if they suffice."""
        stored = rows.local(best.rows)
        used = jnp.isfinite(best.affinities)
        shares = exact_shares(query.exact, stored, used, query.variance, DATA)
        weights = jnp.where(used, shares.weights * held[:, None], 0)
        top = stored.astype(query.z.dtype) - mean
        rest = moments.first - _einsum("bk,bkd->bd", approximate, top)
        squares = _squares(norms, best.rows, top)
        rest_second = moments.second - jnp.sum(approximate * squares, axis=1)
        first = jax.lax.psum(rest + _einsum("bk,bkd->bd", weights, top), DATA)
        own_mean = first / divisor[:, None]
        away = jnp.sum((top - own_mean[:, None]) ** 2, axis=2)
        spread = jax.lax.psum(jnp.sum(weights * away, axis=1), DATA)
        spread += spread_of(rest_mass, rest, rest_second, own_mean, rest_mass)
        crowded = is_crowded(best.affinities, rounding, query.variance, rows.n)
        return first, spread, crowded

    delicate = is_delicate(rows, query.sigma, _LOGIT_SHARE * tolerance)
    # A row that no other comes near has all of the mass, whatever rounding does to it.
    near = best.affinities >= (peak - reach(rounding, query.variance, rows.n))[:, None]
    contested = jax.lax.psum(jnp.sum(near, axis=1), DATA) > 1
    first, spread, crowded = jax.lax.cond(jnp.any(delicate & contested), settled, plain)
    return Head(peak, mass, first, spread, crowded)


def _squares(norms: Array, row: Array, y: Array) -> Array:
    """‖y‖² of rows: from the index, or anew where it is in another precision."""
    return norms[row] if norms.dtype == y.dtype else jnp.sum(y**2, axis=2)


def _summed(
    rows: Rows,
    norms: Float[Array, " n"],
    mean: Float[Array, " d"],
    z: Float[Array, "b d"],
    variance: Float[Array, " b"],
    marked: Marked,
) -> Sums:
    """Over marked rows."""

    def some(state: tuple[Array, Sums]) -> tuple[Array, Sums]:
        done, sums = state
        row, exists = marked.rows(done + jnp.arange(_AT_ONCE))
        return done + _AT_ONCE, with_rows(rows, norms, mean, z, variance, sums, row, exists)

    last = jnp.max(marked.count)
    none = Sums.empty(*z.shape, z.dtype)
    return jax.lax.while_loop(lambda state: state[0] < last, some, (jnp.int32(0), none))[1]


def with_rows(
    rows: Rows,
    norms: Float[Array, " n"],
    mean: Float[Array, " d"],
    z: Float[Array, "b d"],
    variance: Float[Array, " b"],
    sums: Sums,
    row: Int[Array, "b k"],
    exists: Bool[Array, "b k"],
) -> Sums:
    """`sums` and those of k more rows of this device, by their exact affinities; see `summed`."""
    y = rows.local(row).astype(z.dtype) - mean
    squares = _squares(norms, row, y)
    affinities = jnp.where(exists, _einsum("bd,bkd->bk", z, y) - 0.5 * squares, -jnp.inf)
    peak = jnp.maximum(sums.moments.peak, jnp.max(affinities, axis=1))
    weights = weights_of(affinities, peak, variance)
    new = Moments(
        peak,
        jnp.sum(weights, axis=1),
        _einsum("bk,bkd->bd", weights, y),
        jnp.sum(weights * squares, axis=1),
    )
    return sums.merged(Sums(new, Leaders(affinities, row)), variance)
