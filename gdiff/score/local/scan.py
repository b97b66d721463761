"""Posteriors of single coordinates, each from the inputs of its mask, by a scan over all rows."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from gdiff.dataset.placed import Placed
from gdiff.denoiser import Points, Posterior, Sigma
from gdiff.kernels import compensated
from gdiff.kernels.fold import Chunk, Fold, Rows, denoised, fold
from gdiff.parallel.mesh import DATA
from gdiff.score.local.masks import WORD, Masks

_matmul = partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
# Numbers in a chunk of rows: few enough to stay in cache, enough work for the products.
_CHUNK_VALUES = 1_600_000
# Error of a logit beyond which distances are summed to twice the working precision, and distance
# up to which they are not, as a multiple of the d σ² that noise alone makes it.
_LOGIT_ERROR, _NEAR = 1e-4, 1.5
# Its exponential is finite in float32, and so are sums of as many of them as there are rows.
_LARGEST_LOGIT = 60.0


class LocalScan(eqx.Module):
    """Denoiser with a posterior for every coordinate; holds the rows in their stored type.

    Attributes:
        rows: the data.
        masks: what each coordinate is denoised from.
        low, high: [d] range of every coordinate, as stored.
    """

    rows: Rows
    masks: Masks
    low: Float[Array, " d"]
    high: Float[Array, " d"]

    @classmethod
    def of(cls, data: Placed, masks: Masks) -> "LocalScan":
        """From placed rows."""
        low, high = (jnp.asarray(x, jnp.result_type(float)) for x in data.extent[:2])
        return cls(data.rows, masks, low, high)

    def __call__(self, z: Points, sigma: Sigma) -> Posterior:
        """Posteriors of all coordinates.

        The trace is the sum of the variances of the coordinates' posteriors. It is σ² times the
        divergence of D, exactly: ∂D_m/∂z_m = Var(y_m)/σ² in the posterior of coordinate m, and 0
        if its mask leaves m itself out, as may be where m is almost constant; that variance then
        does not count.
        """
        return denoised(self.rows.mesh, LocalScan.here, self, z, sigma)

    def here(self, z: Float[Array, "b d"], sigma: Float[Array, " b"]) -> Posterior:
        """The same inside of `on_devices`."""
        return self.without(jnp.full(len(z), -1), z, sigma)

    def without(
        self, own: Int[Array, " b"], z: Float[Array, "b d"], sigma: Float[Array, " b"]
    ) -> Posterior:
        """The same without a row for each query, by its number; -1 for none."""
        queries = Queries.of(self, z, sigma)
        size = max(1, _CHUNK_VALUES // self.rows.dim)
        sums = fold(self.rows, _Sums(self.masks), queries, own, size=size)
        mean, spread = settled(self, queries, sums)
        return Posterior(mean=mean, trace_cov=jnp.sum(spread, axis=1))


class Squares(NamedTuple):
    """(z - y)² of a single query and n rows, coordinate by coordinate, in stored units.

    Attributes:
        y: [d, n] the rows.
        high: [d, n]; multiples of a unit, so that their sums are exact, if `is_delicate`.
        low: [d, n] what `high` lacks, 0 unless `is_delicate`.
        is_delicate: [] whether sums in working precision would not do.
    """

    y: Float[Array, "d n"]
    high: Float[Array, "d n"]
    low: Float[Array, "d n"]
    is_delicate: Bool[Array, ""]

    @property
    def count(self) -> int:
        """n."""
        return self.y.shape[1]

    def sums(
        self, bits: Float[Array, "m k"], inputs: Int[Array, " k"], is_careful: bool
    ) -> tuple[Array, ...]:
        """Their sums [m, n] over some of k inputs: of the high part, and of the low if asked."""
        return tuple(_matmul(bits, x[inputs]) for x in self[1 : 3 if is_careful else 2])

    def common(self, inputs: Bool[Array, " d"], is_careful: bool) -> tuple[Array, ...]:
        """Their sums [n] over some inputs."""
        inputs = inputs.astype(self.high.dtype)
        return tuple(_matmul(inputs, x) for x in self[1 : 3 if is_careful else 2])

    def values(self, outputs: Int[Array, " m"]) -> Float[Array, "m n"]:
        """The rows at some coordinates."""
        return self.y[outputs]


class Moments(NamedTuple):
    """Weighted sums over some rows, for k posteriors, with weights e = exp((a - peak) / σ²).

    Those of `gdiff.kernels.softmax`, but affinities have twice the working precision.

    Attributes:
        peak: pair of [k]: largest affinity, -inf where there are no rows.
        mass, first, second: [k] Σ e, Σ e y and Σ e y², y about some point.
    """

    peak: compensated.Pair
    mass: Float[Array, " k"]
    first: Float[Array, " k"]
    second: Float[Array, " k"]

    @classmethod
    def empty(cls, k: int, dtype: jnp.dtype) -> "Moments":
        """Moments of no rows: the neutral element of `merged`."""
        none, zeros = jnp.full(k, -jnp.inf, dtype), jnp.zeros(k, dtype)
        return cls(compensated.Pair(none, none), zeros, zeros, zeros)

    @classmethod
    def of(cls, affinities: compensated.Pair, variance: Array, y: Float[Array, "k n"]) -> "Moments":
        """From a pair of [k, n]."""
        peak, weights = _weigh(affinities, variance, partial(jnp.max, axis=1, keepdims=True))
        peak = jax.tree.map(lambda x: x[:, 0], peak)
        return cls(peak, *(jnp.sum(weights * y**power, axis=1) for power in range(3)))

    def merged(self, other: "Moments", variance: Float[Array, "..."]) -> "Moments":
        """Moments of the union with other rows."""
        both = jax.tree.map(lambda *x: jnp.stack(x), self, other)
        peak, weights = _weigh(both.peak, variance, partial(jnp.max, axis=0))
        return Moments(peak, *(jnp.sum(weights * x, axis=0) for x in both[1:]))

    def everywhere(self, variance: Float[Array, " k"]) -> tuple[Array, Array, Array]:
        """Mass, first and second of the rows of all devices along `data`.

        Devices agree on a peak in working precision, as weights need not be relative to the very
        largest affinity.
        """
        high, low = jax.lax.stop_gradient(compensated.two_sum(*self.peak))
        peak = jax.lax.pmax(high, DATA)
        rest = jnp.where(jnp.isfinite(high), (high - peak) + low, -jnp.inf)
        weights = jnp.exp(jnp.minimum(rest / variance, _LARGEST_LOGIT))
        return jax.lax.psum(tuple(weights * x for x in self[1:]), DATA)


def _weigh(
    affinities: compensated.Pair, variance: Array, largest: Callable[[Array], Array]
) -> tuple[compensated.Pair, Array]:
    """The largest affinity and exp((a - largest) / σ²), 0 where a is -inf."""

    def less(x: Array, peak: Array) -> Array:
        return x - jnp.where(jnp.isfinite(peak), peak, 0)

    high = largest(jax.lax.stop_gradient(affinities.high))
    rest = less(affinities.high, high) + affinities.low
    low = largest(jax.lax.stop_gradient(rest))
    return compensated.Pair(high, low), jnp.exp(less(rest, low) / variance)


class Queries(NamedTuple):
    """What a scan needs of its queries, in stored units.

    Attributes:
        exact: z, a pair of [b, d].
        anchor: [b, d] values near z and in the range of the data, so that moments about them do
            not cancel.
        variance: [b] σ².
        level: [b] which mask.
        unit: [b] a power of two whose multiples add up to any distance from a row exactly.
    """

    exact: compensated.Pair
    anchor: Float[Array, "b d"]
    variance: Float[Array, " b"]
    level: Int[Array, " b"]
    unit: Float[Array, " b"]

    @classmethod
    def of(cls, scan: LocalScan, z: Float[Array, "b d"], sigma: Float[Array, " b"]) -> "Queries":
        """From model coordinates."""
        exact = compensated.affine(z, scan.rows.scale, scan.rows.shift)
        anchor = jax.lax.stop_gradient(jnp.clip(exact.high, scan.low, scan.high))
        variance = (sigma * scan.rows.scale) ** 2
        reach = jnp.maximum(jnp.abs(exact.high - scan.low), jnp.abs(exact.high - scan.high))
        unit = compensated.summable_unit(jnp.sum(reach**2, axis=1) + variance)
        return cls(exact, anchor, variance, scan.masks.nearest(sigma), unit)

    def squares(self, y: Float[Array, "d n"], counts: Bool[Array, " n"], found: Moments) -> Squares:
        """(z - y)² of a single query.

        Args:
            y: rows in stored units; counts: which of them do.
            found: moments of other rows. If some are near the query, so are all that matter.
        """
        (plain,) = self.split(y, is_careful=False)
        nearest = jnp.min(jnp.where(counts, jnp.sum(plain, axis=0), jnp.inf))
        nearest = jnp.minimum(nearest, -2 * jnp.min(found.peak.high + found.peak.low))
        is_delicate = self.is_delicate(nearest, len(y))
        high, low = jax.lax.cond(
            is_delicate,
            lambda: self.split(y, is_careful=True),
            lambda: (plain, jnp.zeros_like(plain)),
        )
        return Squares(y, high, low, is_delicate)

    def split(
        self, y: Array, is_careful: bool, inputs: Array | slice = slice(None), axis: int = 0
    ) -> tuple[Array, ...]:
        """(z - y)² of a single query; careful: exact, as a high and a low part.

        The sums of the high parts are exact as well. Of y one axis is that of the inputs, the other
        one that of rows.
        """
        z, z_low = (jnp.expand_dims(x[inputs], 1 - axis) for x in self.exact)
        if not is_careful:
            return ((((z - y) + z_low) ** 2),)
        difference = compensated.two_sum(z, -y)
        exact = compensated.Pair(difference.high, difference.low + z_low)
        return tuple(compensated.split_square(exact, self.unit))

    def is_delicate(self, nearest: Float[Array, ""], inputs: int | Array) -> Bool[Array, ""]:
        """Whether a row as near as that, over so many inputs, needs careful squares.

        The sum that is a distance is wrong by about ε of it.
        """
        enough = jnp.maximum(2 * _LOGIT_ERROR / jnp.finfo(nearest.dtype).eps, _NEAR * inputs)
        return nearest > enough * self.variance


def moments(
    masks: Masks,
    query: Queries,
    block: Int[Array, ""],
    squares: Squares | Any,
    counts: Bool[Array, " n"],
) -> Moments:
    """Moments about the anchor of n rows, for every output of a block, of a single query.

    Args:
        masks, block: which outputs.
        query: of which there is one.
        squares: a `Squares`, or what makes the same when asked.
        counts: which rows do.
    """
    distances = partial(_distances, masks, query.level, block, squares)

    def plain() -> tuple[Array, Array]:
        (sums,) = distances(is_careful=False)
        return sums, jnp.zeros_like(sums)

    high, low = jax.lax.cond(squares.is_delicate, partial(distances, is_careful=True), plain)
    outputs = masks.outputs[block]
    offsets = squares.values(outputs) - query.anchor[outputs, None]
    affinities = compensated.Pair(jnp.where(counts, -0.5 * high, -jnp.inf), -0.5 * low)
    return Moments.of(affinities, query.variance, offsets)


def _distances(
    masks: Masks, level: Int[Array, ""], block: Int[Array, ""], squares: Any, is_careful: bool
) -> tuple[Array, ...]:
    """Σ of the squares over the mask of every output of a block, for each part of them: [m, n]."""
    inputs, words = masks.inputs[level, block], masks.words[level, block]
    lanes, dtype = masks.lanes, masks.shares.dtype
    start = jax.lax.cond(
        masks.has_common[level],
        lambda: squares.common(masks.common[level, block], is_careful),
        lambda: (jnp.zeros(squares.count, dtype),) * (1 + is_careful),
    )

    def add(j: Array, sums: tuple[Array, ...]) -> tuple[Array, ...]:
        listed = jax.lax.dynamic_slice_in_dim(inputs, j * lanes, lanes).astype(jnp.int32)
        bits = jax.lax.dynamic_slice_in_dim(words, j * lanes, lanes).T[:, None]
        bits = (bits >> jnp.arange(WORD, dtype=bits.dtype)[:, None]) & 1
        bits = bits.reshape(-1, lanes).astype(dtype)
        return jax.tree.map(jnp.add, sums, squares.sums(bits, listed, is_careful))

    shape = (masks.outputs.shape[1], squares.count)
    start = tuple(jnp.broadcast_to(x, shape) for x in start)
    return jax.lax.fori_loop(0, masks.counts[level, block], add, start)


def settled(scan: LocalScan, queries: Queries, sums: Moments) -> tuple[Array, Array]:
    """Means and variances [b, d] in model coordinates, from the moments on all devices.

    Args:
        scan: for its masks.
        queries: of which there are b.
        sums: of this device's rows, for all outputs of all queries in turn.
    """
    masks, rows = scan.masks, scan.rows
    mass, first, second = sums.everywhere(jnp.repeat(queries.variance, masks.outputs.size))
    offset = first / mass
    spread = jnp.maximum(second / mass - offset**2, 0)
    offset, spread = (x.reshape(len(queries.level), -1)[:, masks.places] for x in (offset, spread))
    mean = (queries.anchor + offset - rows.shift) / rows.scale
    return mean, jnp.where(masks.own[queries.level], spread, 0) / rows.scale**2


class _Sums(Fold):
    """Moments of this device's rows for all outputs of all queries in turn."""

    masks: Masks

    def start(self, rows: Rows, queries: Queries, own: Array) -> Moments:
        count = len(queries.level) * self.masks.outputs.size
        return Moments.empty(count, queries.variance.dtype)

    def step(
        self, rows: Rows, state: Moments, chunk: Chunk, queries: Queries, own: Array
    ) -> Moments:
        y = chunk.stored.T.astype(queries.variance.dtype)
        row = rows.first + chunk.start + jnp.arange(y.shape[1])

        def of_query(each: tuple[Queries, Moments, Array]) -> Moments:
            query, found, own = each
            counts = chunk.counts & (row != own)
            squares = query.squares(y, counts, found)
            of_block = partial(moments, self.masks, query, squares=squares, counts=counts)
            return jax.lax.map(of_block, jnp.arange(len(self.masks.outputs)))

        found = jax.tree.map(lambda x: x.reshape(len(queries.level), -1), state)
        part = jax.tree.map(jnp.ravel, jax.lax.map(of_query, (queries, found, own)))
        return state.merged(part, jnp.repeat(queries.variance, self.masks.outputs.size))

    def finish(self, rows: Rows, state: Moments, queries: Queries, own: Array) -> Moments:
        return state
