"""The local posteriors on a golden subset: exact rows where they matter, coarse weights elsewhere.

The outputs of a block, near pixels with all channels, have similar masks. Their mean defines one
posterior for the whole block, and with rows reduced to their leading principal coordinates this
*coarse* posterior costs little. It chooses the rows: the *head* of a block is those with the
largest coarse weights. Within the head, each output weighs rows by its own mask, exactly; all other
rows, the *tail*, count with their coarse weights. So the mean of an output is

    D_m = h · (local mean of the head) + (1 - h) · (coarse mean of the tail),

h being the head's share of the coarse weights. At high noise, where masks are whole, the coarse
posterior is right and few rows are needed; at low noise the head holds all of it. Nothing is drawn
at random.

The idea of a subset that depends on query and noise level is GoldDiff's (Shang et al., arXiv
2602.16498), which takes the rows nearest to the query by global distance, a twentieth to a tenth of
all. This estimator is our own construction.
"""

import math
from dataclasses import replace
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

from gdiff import memory
from gdiff.dataset import Dataset
from gdiff.dataset.placed import Placed
from gdiff.dataset.statistics import statistics
from gdiff.denoiser import Points, Posterior, Sigma
from gdiff.errors import require
from gdiff.kernels.fold import Chunk, PerRow, Rows, denoised, fold, on_devices, split
from gdiff.kernels.parts import in_parts
from gdiff.kernels.streamed import Streamed
from gdiff.parallel.mesh import BATCH, DATA
from gdiff.progress import notice, track
from gdiff.score.local.gathered import Gathered
from gdiff.score.local.masks import Masks
from gdiff.score.local.scan import LocalScan, Moments, Queries, moments, settled
from gdiff.store import cache

_HIGHEST = jax.lax.Precision.HIGHEST
_matmul = partial(jnp.matmul, precision=_HIGHEST)
# Principal coordinates of a row for the coarse weights.
_RANK = 256
# Rows of the head that are weighed at a time: if all heads are small, or else.
_PARTS = 64, 512
# Leading rows from which it is judged how exact distances must be.
_NEAREST = 8
# Numbers in one array of coarse weights, 128 MiB in float32: larger batches go in parts.
_LARGEST_ARRAY = 2**25
# What heads are measured on, for each level: noised rows, shared out among some blocks; rows that
# they are compared with, at most.
_PILOTS, _BLOCKS, _COMPARED = 16, 8, 2**16
# From one size of a head to the next.
_GROWTH = 1.4
# Times the fewest rows of a head that need no choice.
_FEW = 4
_VERSION = 9


class LocalSubset(eqx.Module):
    """Denoiser over a head and a tail per query and block.

    Attributes:
        scan: the placed rows and the masks.
        mean: [d] of the rows, in model coordinates.
        basis: [d, r] leading principal directions.
        coordinates: [n_padded, r] of the rows about the mean, split over the mesh axis `data`.
        halves: [s, blocks, n_padded] ½ Σ_n c_n y_n² of the row that the coordinates describe, c
            the mean mask of a block.
        energies: [blocks, n_padded] squared distance of a row from the mean, within a block.
        heads: [s] rows of a head, by level.
        sizes: those from which the rows of a head may be chosen, increasing; the last is enough.
    """

    scan: LocalScan
    mean: Float[Array, " d"]
    basis: Float[Array, "d r"]
    coordinates: Float[Array, "n r"] = split()
    halves: Float[Array, "s blocks n"] = split(2)
    energies: Float[Array, "blocks n"] = split(1)
    heads: Int[Array, " s"]
    sizes: tuple[int, ...] = eqx.field(static=True)

    @classmethod
    def of(
        cls, dataset: Dataset, scan: LocalScan, min_rows: int, max_rows: int, tolerance: float
    ) -> "LocalSubset":
        """Index the rows, and measure how many of them a head needs: all, where these are few."""
        found = statistics(dataset.whole or dataset, rank=min(_RANK, dataset.dim))
        dtype = scan.low.dtype
        _require_room(scan)
        mean, basis = jnp.asarray(found.mean, dtype), jnp.asarray(found.eigenvectors, dtype)
        with track(f"indexing {dataset.name}"):
            index = jax.block_until_ready(_index(scan, mean, basis))
        n, levels = scan.rows.n, len(scan.masks.log_sigma)
        most = min(max_rows, n)
        least = most if n <= _FEW * min_rows else min_rows
        heads = jnp.full(levels, least, jnp.int32)
        local = cls(scan, mean, basis, *index, heads, (most,))
        if least == most:
            return local
        masks = cache.digest(np.asarray(scan.masks.shares), np.asarray(scan.masks.log_sigma))
        parts = (dataset.fingerprint(), found.digest(), masks, least, most, tolerance)
        key = cache.key("local-heads", _VERSION, *parts)
        table = np.asarray(cache.cached(key, lambda: _measure(local, dataset, tolerance, least)))
        rows, errors = table[0].astype(np.int32), table[1]
        if max(errors) > tolerance:
            sigma = math.exp(float(scan.masks.log_sigma[errors.argmax()]))
            notice(
                f"score.tolerance={tolerance:g} is not met: the error is {max(errors):.2g} at "
                f"sigma={sigma:.3g}, with max_rows={most} of {n} rows weighed by pixel"
            )
        sizes = {least, *(min(most, 2 ** math.ceil(math.log2(count))) for count in rows.tolist())}
        return replace(local, heads=jnp.asarray(rows), sizes=tuple(sorted(sizes)))

    def __call__(self, z: Points, sigma: Sigma) -> Posterior:
        """Posteriors of all coordinates.

        The trace is the sum of the variances of the mixtures of head and tail: an approximation
        of the trace of the full scan, no longer a divergence.
        """
        return denoised(self.rows.mesh, LocalSubset.here, self, z, sigma)

    def here(self, z: Float[Array, "b d"], sigma: Float[Array, " b"]) -> Posterior:
        """The same inside of `on_devices`, for as many queries at a time as memory allows."""
        size = max(1, _LARGEST_ARRAY // self.halves[0].size)
        return in_parts(partial(_denoise, self), size, z, sigma)

    @property
    def rows(self) -> Rows:
        """All rows."""
        return self.scan.rows

    @property
    def masks(self) -> Masks:
        """What each coordinate is denoised from."""
        return self.scan.masks

    def coarse(self, z: Float[Array, "b d"], sigma: Float[Array, " b"]) -> Float[Array, "b g n"]:
        """Logits of all rows in the posterior of each block, up to a constant."""
        gives = P(BATCH, None, DATA)
        return on_devices(self.scan.rows.mesh, _coarse, self, z, sigma, gives=gives)


def _require_room(scan: LocalScan) -> None:
    levels, blocks, d = scan.masks.shares.shape
    numbers = min(_RANK, d) + (levels + 1) * blocks
    # It is there twice while it is put in order.
    need, there = 2 * scan.rows.n * numbers * scan.low.dtype.itemsize, memory.of_host()
    require(
        need <= there,
        f"score=pca_local_golden needs {memory.in_words(need)} of memory for an index of "
        f"{scan.rows.n:,} points at {levels} levels, and there are {memory.in_words(there)}: use "
        "fewer points (dataset.subset) or levels (schedule.steps), or a class (condition)",
    )


@eqx.filter_jit
def _index(scan: LocalScan, mean: Array, basis: Array) -> tuple[Array, Array, Array]:
    """Coordinates [n, r], halves [s, blocks, n] and energies [blocks, n] of all rows."""
    masks = scan.masks
    levels, count, d = masks.shares.shape
    # Which block a coordinate belongs to: [blocks, d].
    owner = masks.places // masks.outputs.shape[1] == jnp.arange(count)[:, None]
    weights = (masks.shares.reshape(-1, d), owner.astype(mean.dtype), mean, basis)

    def of(rows: Rows, chunk: Chunk, *weights: Array) -> Array:
        shares, owner, mean, basis = weights
        y = (chunk.stored.astype(mean.dtype) - rows.shift) / rows.scale - mean
        coordinates = _matmul(basis.T, y.T)
        near = _matmul(basis, coordinates)
        halves, energies = 0.5 * _matmul(shares, near**2), _matmul(owner, y.T**2)
        return jnp.concatenate([coordinates, halves, energies])

    def run(tree: tuple) -> tuple[Array, Array, Array]:
        rows, *weights = tree
        rank = basis.shape[1]
        parts = jnp.split(fold(rows, PerRow(of), *weights), [rank, rank + levels * count])
        return parts[0].T, parts[1].reshape(levels, count, -1), parts[2]

    gives = (P(DATA), P(None, None, DATA), P(None, DATA))
    return on_devices(scan.rows.mesh, run, (scan.rows, *weights), gives=gives)


def _measure(local: LocalSubset, dataset: Dataset, tolerance: float, least: int) -> np.ndarray:
    """Rows of a head by level, and the error that they leave: [2, s].

    The error is that of the mean, relative to all rows weighed by pixel: the median over some
    blocks of noised rows, which do not count themselves. Heads grow until it is within the
    tolerance.
    """
    sigmas = np.exp(np.asarray(local.scan.masks.log_sigma, np.float64))
    mesh, most, n = local.scan.rows.mesh, local.sizes[-1], len(dataset)
    rng = np.random.default_rng(0)
    if n > _COMPARED:
        dataset = dataset.part(np.sort(rng.permutation(n)[:_COMPARED]))
        scan = LocalScan.of(Placed(dataset, mesh), local.scan.masks)
        index = _index(scan, local.mean, local.basis)
        local = LocalSubset(scan, local.mean, local.basis, *index, local.heads, local.sizes)
    count = min(_BLOCKS, len(local.energies))
    parts = [_of_block(local, block) for block in rng.permutation(len(local.energies))[:count]]
    own = rng.permutation(len(dataset))[: _PILOTS // count * count]
    y = dataset.rows(own).reshape(len(own), -1)
    table = np.empty((2, len(sigmas)))
    with track(f"measuring heads on {dataset.name}", len(sigmas), "levels") as progress:
        for level, sigma in enumerate(sigmas):
            z = jnp.asarray(y + sigma * rng.standard_normal(y.shape), local.mean.dtype)
            asked = (z, jnp.full(len(z), sigma, z.dtype), jnp.asarray(own))
            pilots = [tuple(x[i::count] for x in asked) for i in range(count)]
            means = [
                on_devices(mesh, _full, part.scan, *each).mean
                for part, each in zip(parts, pilots, strict=True)
            ]
            size, error = least, math.inf
            while True:
                heads = jnp.full_like(local.heads, math.ceil(size * len(dataset) / n))
                errors = [
                    _distances(replace(part, heads=heads), mean, *each)
                    for part, mean, each in zip(parts, means, pilots, strict=True)
                ]
                error = float(np.median(errors))
                if error <= tolerance or size == most:
                    break
                size = min(math.ceil(_GROWTH * size), most)
            table[:, level] = size, error
            progress.reach(level + 1)
    return table


def _full(scan: LocalScan, z: Array, sigma: Array, own: Array) -> Posterior:
    return scan.without(own, z, sigma)


@eqx.filter_jit
def _of_block(local: LocalSubset, block: np.ndarray) -> LocalSubset:
    """The same for the outputs of one block only; other coordinates of its means say nothing."""
    masks = local.scan.masks
    outputs = masks.outputs[block][None]
    places = jnp.zeros_like(masks.places).at[outputs[0]].set(jnp.arange(outputs.size))
    fields = ("inputs", "words", "counts", "common", "shares")
    cut = {name: getattr(masks, name)[:, block][:, None] for name in fields}
    masks = replace(masks, outputs=outputs, places=places, **cut)
    halves, energies = local.halves[:, block][:, None], local.energies[block][None]
    return replace(local, scan=replace(local.scan, masks=masks), halves=halves, energies=energies)


def _distances(
    local: LocalSubset, wanted: Float[Array, "b d"], *asked: Array
) -> Float[Array, " b"]:
    """Relative distances of means from those that are wanted, at the outputs of the only block."""
    mean = on_devices(local.scan.rows.mesh, _denoise, local, *asked).mean
    outputs = np.unique(local.masks.outputs[0])
    far, norm = (jnp.linalg.norm(x[:, outputs], axis=1) for x in (mean - wanted, wanted))
    return far / norm


def _denoise(
    local: LocalSubset, z: Array, sigma: Array, own: Int[Array, " b"] | None = None
) -> Posterior:
    """Posteriors from the rows of all devices, but for `own`; z [b, d] in model coordinates."""
    masks = local.scan.masks
    queries = Queries.of(local.scan, z, sigma)
    logits = _coarse(local, z, sigma)
    if own is not None:
        index = local.scan.rows.first + jnp.arange(logits.shape[2])
        logits = jnp.where(index == own[:, None, None], -jnp.inf, logits)
    best, rows, is_head = _choose(local, logits, queries.level)
    used = jnp.sum(is_head, axis=2)
    near, spread = settled(local.scan, queries, _weigh(local, queries, rows, used))

    peak = jax.lax.pmax(jnp.max(logits, axis=2, keepdims=True), DATA)
    head = jnp.sum(jnp.where(is_head, jnp.exp(best - peak), 0), axis=2)
    place = (*jnp.ix_(*map(jnp.arange, rows.shape))[:2], rows)
    weights = jnp.exp(logits - peak).at[place].multiply(jnp.where(is_head, 0, 1))
    far = jnp.einsum("bgn,nr->bgr", weights, local.coordinates, precision=_HIGHEST)
    energy = jnp.einsum("bgn,gn->bg", weights, local.energies, precision=_HIGHEST)
    sums = (used, head, jnp.sum(weights, axis=2), far, energy)
    used, head, tail, far, energy = jax.lax.psum(sums, DATA)
    share, weight = tail / (head + tail), 1 / jnp.maximum(tail, jnp.finfo(tail.dtype).tiny)
    far = _matmul(far * weight[:, :, None], local.basis.T)

    # From blocks to coordinates: the tail's part, and its mean about that of the data.
    block = masks.places // masks.outputs.shape[1]
    part, far = share[:, block], jnp.take_along_axis(far, block[None, None], axis=1)[:, 0]
    step = far - (near - local.mean)
    trace = jnp.sum((1 - part) * (spread + part * step**2) - part * far**2, axis=1)
    trace = trace + jnp.sum(share * weight * energy, axis=1)
    return Posterior(
        mean=near + part * step,
        trace_cov=jnp.maximum(trace, 0),
        subset_size=jnp.max(used, axis=1),
    )


def _coarse(local: LocalSubset, z: Array, sigma: Array) -> Array:
    """Logits [b, blocks, n] of this device's rows, -inf where there is none."""
    masks = local.scan.masks
    level = masks.nearest(sigma)
    products = _matmul(masks.shares[level] * (z - local.mean)[:, None], local.basis)
    products = _matmul(products, local.coordinates.T)
    logits = (products - local.halves[level]) / (sigma**2)[:, None, None]
    return jnp.where(local.scan.rows.exists, logits, -jnp.inf)


def _choose(local: LocalSubset, logits: Array, level: Array) -> tuple[Array, Array, Array]:
    """The leading rows of this device, best first, and whether they are of the head: [b, g, k]."""
    n = logits.shape[2]
    wanted = local.heads[level]
    sizes = tuple(min(size, n) for size in local.sizes)

    def leading(size: int) -> tuple[Array, Array]:
        best, rows = jax.lax.top_k(logits, size)
        padding = ((0, 0), (0, 0), (0, sizes[-1] - size))
        return jnp.pad(best, padding, constant_values=-jnp.inf), jnp.pad(rows, padding)

    enough = jnp.searchsorted(jnp.array(local.sizes), jnp.max(wanted))
    best, rows = jax.lax.switch(enough, [partial(leading, size) for size in sizes])
    everywhere = best
    if local.scan.rows.mesh.shape[DATA] > 1:
        everywhere = jax.lax.all_gather(best, DATA, axis=2, tiled=True)
        everywhere = -jnp.sort(-everywhere, axis=2)
    last = jnp.broadcast_to(wanted[:, None, None] - 1, (*best.shape[:2], 1))
    threshold = jnp.take_along_axis(everywhere, last, axis=2)
    return best, rows, (best >= threshold) & jnp.isfinite(best)


def _weigh(local: LocalSubset, queries: Queries, rows: Array, counts: Array) -> Moments:
    """Moments of the first `counts` [b, g] of the rows [b, g, k], by the masks of the outputs."""
    k = rows.shape[2]
    few, many = (partial(_weigh_in_parts, local, min(k, part)) for part in _PARTS)
    if local.sizes[0] > _PARTS[0]:
        return many(queries, rows, counts)
    if k <= _PARTS[0]:
        return few(queries, rows, counts)
    return jax.lax.cond(jnp.max(counts) <= _PARTS[0], few, many, queries, rows, counts)


def _weigh_in_parts(
    local: LocalSubset, part: int, queries: Queries, rows: Array, counts: Array
) -> Moments:
    """The same, so many rows at a time."""
    scan, masks = local.scan, local.scan.masks
    _, count, k = rows.shape
    rows = jnp.pad(rows, ((0, 0), (0, 0), (0, -k % part)))
    dtype = queries.variance.dtype

    def of_block(query: Queries, block: Array, rows: Array, count: Array) -> Moments:
        best = scan.rows.local(rows[: min(_NEAREST, k)])
        seen = masks.shares[query.level, block] > 0
        is_delicate = query.is_delicate(_nearest(query, best, seen), jnp.sum(seen))

        def add(i: Array, sums: Moments) -> Moments:
            chosen = jax.lax.dynamic_slice_in_dim(rows, i * part, part)
            is_used = i * part + jnp.arange(part) < count
            source = scan.rows.stored, chosen
            if isinstance(scan.rows.stored, Streamed):
                source = scan.rows.local(chosen), jnp.arange(part)
            squares = Gathered(query, *source, masks.run, is_delicate)
            return sums.merged(moments(masks, query, block, squares, is_used), query.variance)

        empty = Moments.empty(masks.outputs.shape[1], dtype)
        return jax.lax.fori_loop(0, -(-count // part), add, empty)

    def of_query(each: tuple[Queries, Array, Array]) -> Moments:
        query, rows, counts = each
        blocks = jnp.arange(count)
        return jax.lax.map(lambda block: of_block(query, *block), (blocks, rows, counts))

    return jax.tree.map(jnp.ravel, jax.lax.map(of_query, (queries, rows, counts)))


def _nearest(query: Queries, rows: Array, seen: Array) -> Array:
    """The least squared distance from some rows [n, d] as stored, over the inputs that are seen."""
    z = query.exact.high
    return jnp.min(jnp.sum(jnp.where(seen, z - rows.astype(z.dtype), 0) ** 2, axis=1))
