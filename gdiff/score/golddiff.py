"""GoldDiff: the score from a subset of the data whose size depends on the noise level alone.

The rule of Shang et al., "Fast and Scalable Analytical Diffusion" (arXiv 2602.16498), kept as it
is, so that its numbers can be checked. It is computed densely: every affinity is there, and masks
say which of them count. So the shapes are static, but nothing is saved over a full scan.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int

from gdiff.dataset import Dataset
from gdiff.dataset.placed import Placed, half_norms
from gdiff.denoiser import Points, Posterior, Sigma
from gdiff.errors import require, require_one_of
from gdiff.kernels import compensated, selection
from gdiff.kernels.distances import competing, excess_distances, heaviest
from gdiff.kernels.fold import Chunk, Fold, PerRow, Rows, denoised, fold, on_devices
from gdiff.kernels.parts import in_parts
from gdiff.parallel.mesh import DATA
from gdiff.score.base import ScoreSpec
from gdiff.score.crowded import floor_of, is_crowded, rounding_of

ESTIMATORS = ("ss", "wss")
# Sides of an automatic proxy.
_SIDES = range(16, 7, -1)
# Rows whose weights are recomputed by direct differences: enough for copies of one image.
_LEADERS = 32
# Numbers in one [b, n] or [b, leaders, d] array, 256 MiB in float32: larger batches go in parts.
_LARGEST_ARRAY = 2**26
_HIGHEST = jax.lax.Precision.HIGHEST


@dataclass(frozen=True, kw_only=True)
class GoldDiff(ScoreSpec):
    """Posterior mean over the k rows nearest to z, k between two fractions of the data.

    With g = sigma/√(1 + sigma²): the m = k_max + (n - k_max)(1 - g) rows nearest in a proxy are
    candidates, and of these the k = k_max - (k_max - k_min)(1 - g) nearest are used. Their
    weights are those of the exact posterior; the paper's own images weigh them anew for every
    pixel.

    Attributes:
        k_min: fraction of the rows used where there is no noise, > 0.
        k_max: fraction of the rows used where there is nothing but noise, k_min … 1.
        estimator: "ss" is one softmax over the rows used; "wss" the mean of one softmax for
            every `wss_batch` of them in the order of the data set, which is biased.
        wss_batch: rows per softmax of "wss". The value behind the paper's figures is not known;
            256 is the data loader's batch in the released configuration. (The released code
            itself gives a subset to one softmax, so that its "wss" and "ss" agree.)
        presample: as the released code does: draw m rows uniformly at random for each query and
            step, keep of these the k_max nearest in the proxy, and of these the k nearest.
        proxy_size: height and width to which images are average-pooled for the proxy; None
            takes the largest from 16 to 8 that divides them, else 16 with overlapping windows.
            Sides that are not larger stay. If none is, or the points are no images, the proxy
            is the data itself.
        seed: of the random rows.
    """

    k_min: float = 0.05
    k_max: float = 0.1
    estimator: str = "ss"
    wss_batch: int = 256
    presample: bool = False
    proxy_size: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        require(
            0 < self.k_min <= self.k_max <= 1,
            f"k_min={self.k_min} and k_max={self.k_max} must satisfy "
            "0 < k_min <= k_max <= 1: they are fractions of the data set",
        )
        require_one_of("estimator", self.estimator, ESTIMATORS)
        require(self.wss_batch >= 1, f"wss_batch={self.wss_batch} must be at least 1")
        require(
            self.proxy_size is None or self.proxy_size >= 1,
            f"proxy_size={self.proxy_size} must be at least 1, or null to choose by size",
        )
        require(0 <= self.seed < 2**32, f"seed={self.seed} must be between 0 and 2^32 - 1")

    def fit(self, data: Dataset | Placed, sigmas: Sequence[float] = ()) -> "GoldenSubset":
        """Place the data and their proxy and return the denoiser."""
        return GoldenSubset.of(self, Placed.of(data))


class _WeightedSum(Fold):
    """Σ w (y - centre) of this device's rows, for weights [b, n]: [b, d]."""

    def start(self, rows: Rows, weights: Array) -> Array:
        return jnp.zeros((len(weights), rows.dim), weights.dtype)

    def step(self, rows: Rows, state: Array, chunk: Chunk, weights: Array) -> Array:
        own = jax.lax.dynamic_slice_in_dim(weights, chunk.start, len(chunk.counts), axis=1)
        own = jnp.where(chunk.counts, own, 0)
        y = chunk.stored.astype(weights.dtype) - rows.centre
        return state + jnp.matmul(own, y, precision=_HIGHEST)

    def finish(self, rows: Rows, state: Array, weights: Array) -> Array:
        return state


def _affinities(rows: Rows, chunk: Chunk, z: Float[Array, "b d"]) -> Float[Array, "b c"]:
    """z·y - ½‖y‖² = ½‖z‖² - ½‖z - y‖² for queries z and rows y, both less the centre."""
    y = chunk.stored.astype(z.dtype) - rows.centre
    return jnp.matmul(z, y.T, precision=_HIGHEST) - chunk.half_norms


class GoldenSubset(eqx.Module):
    """Denoiser over a subset per query.

    Attributes:
        rows: the data.
        proxy: the pooled data in stored units about the pooled centre; None where the proxy is
            the data itself.
        keys: of the random rows, None without `presample`.
        sides: height and width of the proxy, None where there is none.
        counts: k_min and k_max in rows.
    """

    rows: Rows
    proxy: Rows | None
    keys: selection.QueryKeys | None
    spec: GoldDiff = eqx.field(static=True)
    event_shape: tuple[int, ...] = eqx.field(static=True)
    sides: tuple[int, int] | None = eqx.field(static=True)
    counts: tuple[int, int] = eqx.field(static=True)

    @classmethod
    def of(cls, spec: GoldDiff, data: Placed) -> "GoldenSubset":
        """With the proxy of the data."""
        dataset, rows = data.dataset, data.rows
        sides = _proxy_sides(dataset, spec.proxy_size)
        n = len(dataset)
        keys = None
        if spec.presample:
            spread = 2 * jnp.mean(rows.half_norms[:n])
            keys = selection.QueryKeys.of(spec.seed, dataset.dim, spread)
        return cls(
            rows=rows,
            proxy=None if sides is None else _proxy(rows, dataset.event_shape, sides),
            keys=keys,
            spec=spec,
            event_shape=dataset.event_shape,
            sides=sides,
            counts=(max(1, round(spec.k_min * n)), max(1, round(spec.k_max * n))),
        )

    def subset_size(self, sigma: Float[Array | np.ndarray, " b"]) -> Int[Array, " b"]:
        """Rows that a query at each noise level uses; rows that tie with the last come on top."""
        k_min, k_max = self.counts
        return _between(k_max, k_min, sigma)

    def candidate_size(self, sigma: Float[Array | np.ndarray, " b"]) -> Int[Array, " b"]:
        """Rows that the proxy keeps at each noise level or, with `presample`, that it sees."""
        return _between(self.counts[1], self.rows.number, sigma)

    def __call__(self, z: Points, sigma: Sigma) -> Posterior:
        """Posterior over the subset of every row of z."""
        return denoised(self.rows.mesh, _by_parts, self, z, sigma)


def _between(noise: int, data: int, sigma: Array) -> Array:
    """`data` rows at sigma = 0, `noise` rows at infinity, in between by 1 - sigma/√(1 + sigma²)."""
    root = jnp.hypot(1, sigma)
    # 1 - g without cancellation.
    return jnp.round(noise + (data - noise) / (root * (root + sigma))).astype(jnp.int32)


def _proxy_sides(dataset: Dataset, size: int | None) -> tuple[int, int] | None:
    """Height and width of the pooled images, or None where the proxy is the data itself."""
    if not dataset.is_image:
        return None
    full = dataset.event_shape[:2]
    if size is None:
        pooled = [next((s for s in _SIDES if side % s == 0), _SIDES[0]) for side in full]
    else:
        pooled = [size, size]
    sides = tuple(min(pair) for pair in zip(full, pooled, strict=True))
    return None if sides == full else sides


def _pool(x: Float[Array, "*b d"], event_shape: tuple[int, ...], sides: tuple[int, int]) -> Array:
    """Average-pool flat images: [*b, d] → [*b, height · width · channels]."""
    height, width = (
        jnp.asarray(_windows(side, pooled), x.dtype)
        for side, pooled in zip(event_shape[:2], sides, strict=True)
    )
    images = x.reshape(*x.shape[:-1], *event_shape)
    pooled = jnp.einsum("...hwc,ih,jw->...ijc", images, height, width, precision=_HIGHEST)
    return pooled.reshape(*x.shape[:-1], -1)


def _windows(side: int, pooled: int) -> np.ndarray:
    """Weights [pooled, side] of adaptive average pooling, as PyTorch defines it.

    Window i is the pixels that overlap with the i-th of `pooled` equal parts of the side.
    """
    part, pixel = np.arange(pooled)[:, None], np.arange(side)
    overlaps = (pixel + 1) * pooled > part * side
    overlaps &= pixel * pooled < (part + 1) * side
    return overlaps / overlaps.sum(axis=1, keepdims=True)


@eqx.filter_jit
def _proxy(rows: Rows, event_shape: tuple[int, ...], sides: tuple[int, int]) -> Rows:
    """The pooled rows, in stored units and relative to the pooled centre."""

    def of(rows: Rows, chunk: Chunk) -> Array:
        y = chunk.stored.astype(rows.centre.dtype) - rows.centre
        return _pool(y, event_shape, sides).T

    run = partial(fold, f=PerRow(of))
    pooled = on_devices(rows.mesh, run, rows, gives=P(None, DATA)).T
    proxy = replace(
        rows,
        stored=pooled,
        half_norms=None,
        centre=jnp.zeros(pooled.shape[1], pooled.dtype),
        radius=None,
        event_shape=pooled.shape[1:],
        shift=0.0,
        scale=1.0,
    )
    return replace(proxy, half_norms=half_norms(proxy))


def _by_parts(gold: GoldenSubset, z: Array, sigma: Array) -> Posterior:
    """`_posterior` of as many queries at a time as memory allows; runs on each device."""
    size = max(1, _LARGEST_ARRAY // max(gold.rows.count, _LEADERS * z.shape[1]))
    return in_parts(partial(_posterior, gold), size, z, sigma)


def _posterior(gold: GoldenSubset, z: Array, sigma: Array) -> Posterior:
    """Posterior over the subset, from the rows of all devices along `data`.

    Args:
        gold: with this device's part of the data.
        z: [b, d] queries in model coordinates; sigma: [b].
    """
    rows = gold.rows
    variance = (sigma * rows.scale) ** 2
    exact_z = compensated.affine(z, rows.scale, rows.shift)
    z = exact_z.high - rows.centre
    affinities = fold(rows, PerRow(_affinities), z)
    members = _members(gold, z, sigma, affinities)
    affinities = jnp.where(members, affinities, -jnp.inf)

    affinities, place, crowd = _refined(affinities, exact_z, rows, variance)

    if gold.spec.estimator == "ss":
        weights = _softmax(affinities, variance)
    else:
        weights = _mean_of_softmaxes(gold, affinities, variance)

    # The leaders apart, and then by their differences from the mean: where they hold all the
    # mass, its spread does not cancel.
    leading, every = weights[place], weights
    weights = weights.at[place].set(0)
    top = rows.local(place[1]).astype(z.dtype) - rows.centre
    first = fold(rows, _WeightedSum(), weights)
    near = jnp.einsum("bk,bkd->bd", leading, top, precision=_HIGHEST)
    mean = jax.lax.psum(first + near, DATA)
    rest = jnp.sum(weights * 2 * rows.half_norms, axis=1) - 2 * jnp.sum(first * mean, axis=1)
    rest = rest + jnp.sum(weights, axis=1) * jnp.sum(mean**2, axis=1)
    spread = jnp.sum(leading * jnp.sum((top - mean[:, None]) ** 2, axis=2), axis=1)
    trace = jax.lax.psum(spread + jnp.maximum(rest, 0), DATA)
    # The same of a crowd, of which the leaders are a part.
    about = jax.lax.psum(jnp.sum(every * crowd.away, axis=1), DATA)
    about -= jnp.sum((mean - crowd.origin) ** 2, axis=1)
    trace = jnp.where(crowd.is_crowded, jnp.maximum(about, 0), trace)
    return Posterior(
        mean=(mean + (rows.centre - rows.shift)) / rows.scale, trace_cov=trace / rows.scale**2
    )


def _members(gold: GoldenSubset, z: Array, sigma: Array, affinities: Array) -> Bool[Array, "b n"]:
    """The rows that each query uses; z and its affinities are centred, in stored units."""
    rows, keys, proxy = gold.rows, gold.keys, gold.proxy
    mask = jnp.broadcast_to(rows.exists, affinities.shape)
    candidates = gold.candidate_size(sigma)
    if keys is not None:
        drawn = keys(z, sigma * rows.scale)
        numbers = rows.first + jnp.arange(rows.count)
        mask = selection.uniform_subset(drawn, candidates, numbers, rows.number, DATA)
        candidates = jnp.full_like(candidates, gold.counts[1])
    # Where the proxy is the data, the nearest of the nearest are the nearest.
    if proxy is not None:
        coarse = fold(proxy, PerRow(_affinities), _pool(z, gold.event_shape, gold.sides))
        mask = selection.largest(jnp.where(mask, coarse, -jnp.inf), candidates, DATA) & mask
    used = gold.subset_size(sigma)
    return selection.largest(jnp.where(mask, affinities, -jnp.inf), used, DATA) & mask


class _Crowd(NamedTuple):
    """Queries for which more rows compete than there are leaders.

    Attributes:
        is_crowded: [b] which they are.
        origin: [b, d] the nearest row less the centre.
        away: [b, n] squared distances of rows from it, 0 where the row has no weight.
    """

    is_crowded: Bool[Array, " b"]
    origin: Float[Array, "b d"]
    away: Float[Array, "b n"]


def _refined(
    affinities: Float[Array, "b n"], z: compensated.Pair, rows: Rows, variance: Array
) -> tuple[Float[Array, "b n"], tuple[Array, Array], _Crowd]:
    """Affinities relative to the nearest row, exact for the leading rows, and the leaders' places.

    Float32 affinities are noise where sigma is small, so those of the leaders are replaced by
    distances computed to twice the working precision; those of all that compete, where these are
    more.
    """
    best, position = jax.lax.top_k(affinities, min(_LEADERS, affinities.shape[1]))
    used = jnp.isfinite(best)
    top = rows.local(position)
    excess, nearest = excess_distances(z, top, used, DATA)
    # Distances and affinities differ by ‖z‖²/2, which is 0 here but for derivatives.
    centred = z.high - rows.centre
    half = 0.5 * jnp.sum(centred**2, axis=1)
    exact = (half - jax.lax.stop_gradient(half))[:, None] - excess / 2
    peak = jax.lax.pmax(jax.lax.stop_gradient(best[:, 0]), DATA)
    place = (jnp.arange(len(position))[:, None], position)
    relative = affinities - peak[:, None]
    relative = relative.at[place].set(jnp.where(used, exact, -jnp.inf))

    rounding = rounding_of(centred, rows)
    crowded = is_crowded(best, rounding, variance, rows.n, nats=1e-3)
    origin = heaviest(jnp.where(used, -excess, -jnp.inf), top, DATA)
    floor = floor_of(crowded, peak, rounding, variance, rows.n)

    def of(rows: Rows, chunk: Chunk, affinities: Array) -> Array:
        own = jax.lax.dynamic_slice_in_dim(affinities, chunk.start, len(chunk.counts), axis=1)
        competes = own >= floor[:, None]
        return jnp.stack(competing(own, competes, z, nearest, origin, chunk.stored))

    def weighed() -> tuple[Array, Array]:
        exact, away = fold(rows, PerRow(of), affinities)
        return jnp.where(crowded[:, None], exact, relative), away

    is_any = jnp.any(crowded)
    relative, away = jax.lax.cond(is_any, weighed, lambda: (relative, jnp.zeros_like(relative)))
    origin = origin.astype(centred.dtype) - rows.centre
    return relative, place, _Crowd(crowded, origin, away)


def _softmax(affinities: Array, variance: Array) -> Array:
    """Weights [b, n] of one softmax over the rows of all devices; the largest affinity is 0."""
    weights = jnp.exp(affinities / variance[:, None])
    mass = jax.lax.psum(jnp.sum(weights, axis=1), DATA)
    return weights / mass[:, None]


def _mean_of_softmaxes(gold: GoldenSubset, affinities: Array, variance: Array) -> Array:
    """Weights [b, n] of the mean of one softmax for every `wss_batch` rows with an affinity.

    Rows are counted in the order of the data set; the last softmax may have fewer.
    """
    size = gold.spec.wss_batch
    segments = -(-gold.rows.n // size)
    members = jnp.isfinite(affinities)
    count = jnp.sum(members, axis=1, dtype=jnp.int32)
    counts = jax.lax.all_gather(count, DATA)
    is_before = jnp.arange(len(counts)) < jax.lax.axis_index(DATA)
    rank = jnp.cumsum(members, axis=1) - 1 + jnp.sum(counts * is_before[:, None], axis=0)[:, None]
    segment = jnp.maximum(rank, 0) // size

    def over_segments(reduce: Callable[..., Array], x: Array) -> Array:
        reduce = partial(reduce, num_segments=segments, indices_are_sorted=True)
        return jax.vmap(reduce)(x, segment)

    peak = over_segments(jax.ops.segment_max, jax.lax.stop_gradient(affinities))
    peak = jnp.take_along_axis(jax.lax.pmax(peak, DATA), segment, axis=1)
    weights = jnp.exp((affinities - peak) / variance[:, None])
    mass = jax.lax.psum(over_segments(jax.ops.segment_sum, weights), DATA)
    used = -(-jnp.sum(counts, axis=0) // size)
    return weights / jnp.take_along_axis(mass, segment, axis=1) / used[:, None]
