"""Posteriors of single coordinates, each from the inputs of its mask, by a scan over all rows."""

from functools import partial
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from gdiff.dataset.placed import Placed
from gdiff.denoiser import Posterior
from gdiff.kernels import compensated
from gdiff.kernels.fold import denoised
from gdiff.kernels.softmax import Moments, merge, weights_of
from gdiff.parallel.mesh import DATA
from gdiff.score.exact import ExactScan
from gdiff.score.local.masks import LANES, WORD, Masks

_matmul = partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
# Numbers in a chunk of rows: few enough to stay in cache, enough work for the products.
_CHUNK_VALUES = 1_600_000


class LocalScan(eqx.Module):
    """Denoiser with a posterior for every coordinate; holds the rows in their stored type.

    Attributes:
        full: the placed rows.
        masks: what each coordinate is denoised from.
        low, high: [d] range of every coordinate, as stored.
    """

    full: ExactScan
    masks: Masks
    low: Float[Array, " d"]
    high: Float[Array, " d"]

    @classmethod
    def of(cls, data: Placed, full: ExactScan, masks: Masks) -> "LocalScan":
        """From placed rows."""
        dtype = full.rows.centre.dtype
        low, high = (jnp.asarray(x, dtype) for x in data.extent[:2])
        return cls(full, masks, low, high)

    def __call__(self, z: Float[Array, "b *event"], sigma: Float[Array, " b"] | float) -> Posterior:
        """Posteriors of all coordinates.

        The trace is the sum of the variances of the coordinates' posteriors. It is σ² times the
        divergence of D, exactly: ∂D_m/∂z_m = Var(y_m)/σ² in the posterior of coordinate m, and 0
        if its mask leaves m itself out, as may be where m is almost constant; that variance then
        does not count.
        """
        return denoised(self.full.rows.mesh, _scan, self, z, sigma)


class Queries(NamedTuple):
    """What a scan needs of its queries, in stored units.

    Attributes:
        high, low: [b, d] z, as a pair.
        anchor: [b, d] values near z and in the range of the data, so that moments about them do
            not cancel.
        variance: [b] σ².
        level: [b] which mask.
    """

    high: Float[Array, "b d"]
    low: Float[Array, "b d"]
    anchor: Float[Array, "b d"]
    variance: Float[Array, " b"]
    level: Int[Array, " b"]

    @classmethod
    def of(cls, scan: LocalScan, z: Float[Array, "b d"], sigma: Float[Array, " b"]) -> "Queries":
        """From model coordinates."""
        exact = compensated.affine(z, scan.full.rows.scale, scan.full.rows.shift)
        anchor = jax.lax.stop_gradient(jnp.clip(exact.high, scan.low, scan.high))
        variance = (sigma * scan.full.rows.scale) ** 2
        return cls(*exact, anchor, variance, scan.masks.nearest(sigma))

    def squares(self, y: Float[Array, "d n"]) -> Float[Array, "d n"]:
        """(z - y)² of a single query [d], coordinate by coordinate."""
        return ((self.high[:, None] - y) + self.low[:, None]) ** 2


def moments(
    masks: Masks,
    query: Queries,
    block: Int[Array, ""],
    y: Float[Array, "d n"],
    squares: Float[Array, "d n"],
    counts: Bool[Array, " n"],
) -> Moments:
    """Moments about the anchor of n rows, for every output of a block, of a single query.

    Every output is a posterior of its own: the axis b of `Moments` runs over the outputs of the
    block, and d is 1.
    """
    distance = _distances(masks, query.level, block, squares)
    affinities = jnp.where(counts, -0.5 * distance, -jnp.inf)
    peak = jax.lax.stop_gradient(jnp.max(affinities, axis=1))
    outputs = masks.outputs[block]
    weights = weights_of(affinities, peak, jnp.broadcast_to(query.variance, peak.shape))
    offsets = y[outputs] - query.anchor[outputs, None]
    return Moments(
        peak,
        jnp.sum(weights, axis=1),
        jnp.sum(weights * offsets, axis=1, keepdims=True),
        jnp.sum(weights * offsets**2, axis=1),
    )


def _distances(
    masks: Masks, level: Int[Array, ""], block: Int[Array, ""], squares: Float[Array, "d n"]
) -> Float[Array, "m n"]:
    """Σ of the squares over the mask of every output of a block."""
    inputs, words = masks.inputs[level, block], masks.words[level, block]
    dtype = squares.dtype
    start = jax.lax.cond(
        masks.has_common[level],
        lambda: _matmul(masks.common[level, block].astype(dtype), squares),
        lambda: jnp.zeros(squares.shape[1], dtype),
    )

    def add(j: Array, sums: Array) -> Array:
        listed = jax.lax.dynamic_slice_in_dim(inputs, j * LANES, LANES).astype(jnp.int32)
        bits = jax.lax.dynamic_slice_in_dim(words, j * LANES, LANES).T[:, None]
        bits = (bits >> jnp.arange(WORD, dtype=bits.dtype)[:, None]) & 1
        return sums + _matmul(bits.reshape(-1, LANES).astype(dtype), squares[listed])

    sums = jnp.broadcast_to(start, (masks.outputs.shape[1], squares.shape[1]))
    return jax.lax.fori_loop(0, masks.counts[level, block], add, sums)


def settled(scan: LocalScan, queries: Queries, sums: Moments) -> tuple[Array, Array]:
    """Means and variances [b, d] in model coordinates, from the moments on all devices.

    Args:
        scan: for its masks.
        queries: of which there are b.
        sums: of this device's rows, for all outputs of all queries in turn.
    """
    masks, full = scan.masks, scan.full
    variance = jnp.repeat(queries.variance, masks.outputs.size)
    peak = jax.lax.pmax(jax.lax.stop_gradient(sums.peak), DATA)
    mass, first, second = jax.lax.psum(sums.rescaled(peak, variance)[1:], DATA)
    offset = first[:, 0] / mass
    spread = jnp.maximum(second / mass - offset**2, 0)
    offset, spread = (x.reshape(len(queries.high), -1)[:, masks.places] for x in (offset, spread))
    mean = (queries.anchor + offset - full.rows.shift) / full.rows.scale
    return mean, jnp.where(masks.own[queries.level], spread, 0) / full.rows.scale**2


def _scan(scan: LocalScan, z: Array, sigma: Array) -> Posterior:
    """Posteriors from the rows of all devices; z [b, d] in model coordinates."""
    queries = Queries.of(scan, z, sigma)
    mean, spread = settled(scan, queries, _stream(scan, queries))
    return Posterior(mean=mean, trace_cov=jnp.sum(spread, axis=1))


def _stream(scan: LocalScan, queries: Queries) -> Moments:
    """Moments of this device's rows for all outputs of all queries in turn, chunk by chunk."""
    rows, masks = scan.full.rows.stored, scan.masks
    variance = jnp.repeat(queries.variance, masks.outputs.size)
    n, d = rows.shape
    chunk = int(np.clip(_CHUNK_VALUES // d, 1, n))
    offset = jax.lax.axis_index(DATA) * n

    def body(k: Array, sums: Moments) -> Moments:
        # The last chunk starts early enough to be whole; rows seen before do not count again.
        start = jnp.minimum(k * chunk, n - chunk)
        row = start + jnp.arange(chunk)
        counts = (row >= k * chunk) & (offset + row < scan.full.rows.n)
        y = jax.lax.dynamic_slice_in_dim(rows, start, chunk).T.astype(variance.dtype)

        def of_query(query: Queries) -> Moments:
            squares = query.squares(y)
            of_block = partial(moments, masks, query, y=y, squares=squares, counts=counts)
            return jax.lax.map(of_block, jnp.arange(len(masks.outputs)))

        part = jax.lax.map(of_query, queries)
        part = jax.tree.map(lambda x: x.reshape(len(variance), *x.shape[3:]), part)
        return merge(sums, part, variance)

    empty = Moments.empty(len(variance), 1, variance.dtype)
    return jax.lax.fori_loop(0, -(-n // chunk), body, empty)
