"""Patch posteriors: every pixel is denoised from the window around it alone."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from gdiff.dataset import Dataset
from gdiff.dataset.placed import Placed
from gdiff.denoiser import Points, Posterior, Sigma, per_row
from gdiff.errors import require
from gdiff.kernels import compensated
from gdiff.kernels.fold import Chunk, Fold, Rows, fold, on_devices
from gdiff.parallel.mesh import DATA
from gdiff.score.base import ScoreSpec

_HIGHEST = jax.lax.Precision.HIGHEST
_SUBSET_SEED = 0
# Window distances held at a time: enough work for the products, few enough to stay in cache.
_CHUNK_VALUES = 2**20


@dataclass(frozen=True, kw_only=True)
class Patch(ScoreSpec):
    """Local score machines (Kamb and Ganguli, arXiv 2412.20292).

    Output pixel m is a posterior mean of its own, D_m = Σ w_i^m y_im. The weights w^m compare
    windows of k × k pixels, with all channels: w_i^m is the softmax over i of -‖z_W - y_iW‖² / 2σ²,
    W the window around m. Different pixels may follow different images, so samples are mosaics.

    The local machine (LS) compares windows at the same place. The equivariant one (ELS) compares
    with the windows of all places, and y_im becomes the centre of the window. Windows are cut off
    at the border, which is the same as padding z and the data with zeros. Cut windows compare only
    with windows that are cut in the same way, as in the paper: those along the same edge, and in a
    corner those at the same place.

    A call costs about N · d · (height + width) operations per query, whatever k; ELS that much
    for each of up to height × width displacements.

    Attributes:
        patch_size: side k of the windows, odd; or "auto": k = 3 + 2 ⌊σ/s⌋, s the standard
            deviation of the pixel values, so from the whole image at high noise to 3 × 3. This
            rule is our own: it is close to the size that denoises unseen images of MNIST and
            CIFAR-10 best, where the paper fits sizes to the outputs of a network.
        equivariant: ELS instead of LS.
        max_images: use only this many images, drawn once with a fixed seed; None uses all.
    """

    patch_size: int | str = "auto"
    equivariant: bool = False
    max_images: int | None = None

    def __post_init__(self) -> None:
        size = self.patch_size
        is_odd = isinstance(size, int) and size >= 1 and size % 2 == 1
        require(is_odd or size == "auto", f"patch_size={size} must be an odd number, or auto")
        require(
            self.max_images is None or self.max_images >= 1,
            f"max_images={self.max_images} must be at least 1, or null for all images",
        )

    def fit(self, data: Dataset | Placed, sigmas: Sequence[float] = ()) -> "PatchScan":
        """Place the images; the same for all `sigmas`.

        Raises:
            UserError: the points are not images.
        """
        data = Placed.of(data)
        dataset = data.dataset
        require(
            dataset.is_image,
            f"score=patch_ls and patch_els need images, and the points of {dataset.name} have "
            f"shape {dataset.event_shape}: use score=full",
        )
        if self.max_images is not None and self.max_images < len(dataset):
            order = np.random.default_rng(_SUBSET_SEED).permutation(len(dataset))
            some = dataset.x[np.sort(order[: self.max_images])]
            data = Placed(replace(dataset, x=some, labels=None), data.mesh)
        radius = None if self.patch_size == "auto" else (self.patch_size - 1) // 2
        return PatchScan.of(data, radius=radius, equivariant=self.equivariant)


class PatchScan(eqx.Module):
    """Denoiser that compares windows of all images.

    Attributes:
        rows: the images.
        low, high: [height, width, channels] range of the values at every pixel, as stored.
        radius: (k - 1) / 2 of the windows; None chooses it by noise level and `spread`.
        spread: standard deviation of all values, in model coordinates.
    """

    rows: Rows
    low: Float[Array, "h w c"]
    high: Float[Array, "h w c"]
    radius: int | None = eqx.field(static=True)
    spread: Float[Array, ""]
    equivariant: bool = eqx.field(static=True)

    @classmethod
    def of(cls, data: Placed, *, radius: int | None, equivariant: bool) -> "PatchScan":
        """Of placed images; radius None is chosen by noise level."""
        low, high, variance = data.extent
        if equivariant:  # a displaced window brings the values of other pixels
            low, high = np.full_like(low, low.min()), np.full_like(high, high.max())
        shape, dtype = data.dataset.event_shape, jnp.result_type(float)
        return cls(
            rows=data.rows,
            low=jnp.asarray(low.reshape(shape), dtype),
            high=jnp.asarray(high.reshape(shape), dtype),
            radius=radius,
            spread=jnp.asarray(np.sqrt(variance) / data.dataset.scale, dtype),
            equivariant=equivariant,
        )

    def __call__(self, z: Points, sigma: Sigma) -> Posterior:
        """Posteriors of all pixels.

        Only a pixel's own weights depend on it where D is differentiated for the divergence, so
        the trace is the sum of the variances of the pixels' posteriors.
        """
        return on_devices(self.rows.mesh, _scan, self, z, per_row(sigma, z))

    def radii(self, sigma: Float[Array, " b"]) -> Int[Array, " b"]:
        """Radius of the windows for every query."""
        if self.radius is not None:
            return jnp.full(sigma.shape, self.radius)
        whole = max(self.low.shape[:2]) - 1
        steps = jnp.floor(sigma / jnp.maximum(self.spread, jnp.finfo(sigma.dtype).tiny))
        return jnp.minimum(1 + steps, whole).astype(jnp.int32)


class Windows(NamedTuple):
    """Weighted sums over a part of the windows, for every pixel; e = exp((a - peak) / σ²).

    Values y are taken relative to an anchor near the query, where σ is small: so nothing cancels.

    Attributes:
        peak: [b, h, w] largest affinity a = -½ ‖z_W - y_W‖², -inf where there is no window.
        mass: [b, h, w] Σ e.
        first: [b, c, h, w] Σ e (y - anchor).
        second: [b, c, h, w] Σ e (y - anchor)².
    """

    peak: Float[Array, "b h w"]
    mass: Float[Array, "b h w"]
    first: Float[Array, "b c h w"]
    second: Float[Array, "b c h w"]

    @classmethod
    def empty(cls, like: Float[Array, "b c h w"]) -> "Windows":
        """Sums over no windows: the neutral element of `merge`."""
        zeros = jnp.zeros_like(like)
        return cls(jnp.full_like(zeros[:, 0], -jnp.inf), zeros[:, 0], zeros, zeros)

    def rescaled(self, peak: Float[Array, "b h w"], variance: Float[Array, " b"]) -> "Windows":
        """The same sums relative to a peak that is at least as high."""
        factor = _weights(self.peak, peak, variance[:, None, None])
        wide = factor[:, None]
        return Windows(peak, self.mass * factor, self.first * wide, self.second * wide)


def merge(a: Windows, b: Windows, variance: Float[Array, " b"]) -> Windows:
    """Sums over the union of two disjoint parts: associative and commutative."""
    peak = jnp.maximum(a.peak, b.peak)
    a, b = a.rescaled(peak, variance), b.rescaled(peak, variance)
    return Windows(peak, a.mass + b.mass, a.first + b.first, a.second + b.second)


def _weights(affinities: Array, peak: Array, variance: Array) -> Array:
    """exp((a - peak) / σ²), 0 where a = -inf, also if the peak is -inf."""
    return jnp.exp((affinities - jnp.where(jnp.isfinite(peak), peak, 0)) / variance)


class _Query(NamedTuple):
    """What a scan needs of its queries, in stored units, with axes [b, c, h, 1, w].

    The axis of length 1 is for images: so sums over them run along whole rows of pixels, and sums
    over windows are matrix products along both other axes.
    """

    high: Array
    low: Array
    anchor: Array
    variance: Float[Array, " b"]
    radius: Int[Array, " b"]
    columns: Float[Array, "b h h"]
    rows: Float[Array, "b w w"]


def _scan(patch: PatchScan, z: Array, sigma: Array) -> Posterior:
    """From the images of all devices along `data`; z [b, h, w, c] in model coordinates."""
    query, rows = _query(patch, z, sigma), patch.rows
    b, height, width, _ = z.shape
    size = int(np.clip(_CHUNK_VALUES // (b * height * width), 1, rows.count))
    offset, trace = fold(rows, _Stream(patch.equivariant), query, size=size)
    mean = (query.anchor[:, :, :, 0] + offset - rows.shift) / rows.scale
    trace = jnp.sum(trace, axis=(1, 2, 3)) / rows.scale**2
    return Posterior(mean=jnp.moveaxis(mean, 1, -1), trace_cov=trace)


def _query(patch: PatchScan, z: Array, sigma: Array) -> _Query:
    exact = compensated.affine(z, patch.rows.scale, patch.rows.shift)
    anchor = jax.lax.stop_gradient(jnp.clip(exact.high, patch.low, patch.high))
    radius = patch.radii(sigma)

    def planes(x: Array) -> Array:
        return jnp.moveaxis(x, -1, 1)[:, :, :, None]

    def window(length: int) -> Array:
        i = jnp.arange(length)
        return (jnp.abs(i[:, None] - i) <= radius[:, None, None]).astype(z.dtype)

    return _Query(
        high=planes(exact.high),
        low=planes(exact.low),
        anchor=planes(anchor),
        variance=(sigma * patch.rows.scale) ** 2,
        radius=radius,
        columns=window(z.shape[1]),
        rows=window(z.shape[2]),
    )


class _Stream(Fold):
    """Windows of all images, for ELS in every displacement of them; the query is a `_Query`.

    Ends with the means about the anchor and the variances: [b, c, h, w] each.
    """

    equivariant: bool = eqx.field(static=True)

    def start(self, rows: Rows, query: _Query) -> Windows:
        return Windows.empty(query.high[:, :, :, 0])

    def step(self, rows: Rows, state: Windows, chunk: Chunk, query: _Query) -> Windows:
        _, channels, height, _, width = query.high.shape
        y = chunk.stored.reshape(-1, height, width, channels).astype(query.high.dtype)
        # XLA would repeat the conversion in every operation that reads the images.
        y = jax.lax.optimization_barrier(jnp.transpose(y, (3, 1, 0, 2)))
        counts = chunk.counts[:, None]
        if not self.equivariant:
            return merge(state, _sums(query, y, counts), query.variance)
        narrowest = jnp.min(query.radius)
        tall, across = _displacements(narrowest, height), _displacements(narrowest, width)

        def displaced(j: Array, state: Windows) -> Windows:
            down, right = j // across - tall // 2, j % across - across // 2
            rows = _comparable(query.radius, down, height)[:, :, None, None]
            columns = _comparable(query.radius, right, width)[:, None, None, :]
            moved = jax.lax.optimization_barrier(jnp.roll(y, (-down, -right), (1, 3)))
            return merge(state, _sums(query, moved, counts & rows & columns), query.variance)

        return jax.lax.fori_loop(0, tall * across, displaced, state)

    def finish(self, rows: Rows, state: Windows, query: _Query) -> tuple[Array, Array]:
        peak = jax.lax.pmax(jax.lax.stop_gradient(state.peak), DATA)
        mass, first, second = jax.lax.psum(state.rescaled(peak, query.variance)[1:], DATA)
        offset = first / mass[:, None]
        return offset, jnp.maximum(second / mass[:, None] - offset**2, 0)


def _sums(query: _Query, y: Float[Array, "c h n w"], counts: Bool[Array, "..."]) -> Windows:
    """Sums over the windows at the same place of n images; counts: [b, h, n, w] or less."""
    # Channels one by one: sums over so short an axis are many times slower on CPU.
    channels = range(y.shape[0])
    squares = sum(((query.high[:, c] - y[c]) + query.low[:, c]) ** 2 for c in channels)
    # In this order: the other makes XLA compute squares at indices that do not vectorise.
    distance = jnp.einsum("bhnw,bvw->bhnv", squares, query.rows, precision=_HIGHEST)
    distance = jnp.einsum("bgh,bhnv->bgnv", query.columns, distance, precision=_HIGHEST)
    affinities = jnp.where(counts, -0.5 * distance, -jnp.inf)
    # No sum depends on the peak once it is divided by the mass, so neither do derivatives.
    peak = jax.lax.stop_gradient(jnp.max(affinities, axis=2))
    weights = _weights(affinities, peak[:, :, None], query.variance[:, None, None, None])
    offsets = [y[c] - query.anchor[:, c] for c in channels]
    return Windows(
        peak,
        jnp.sum(weights, axis=2),
        jnp.stack([jnp.sum(weights * offset, axis=2) for offset in offsets], axis=1),
        jnp.stack([jnp.sum(weights * offset**2, axis=2) for offset in offsets], axis=1),
    )


def _displacements(radius: Int[Array, ""], length: int) -> Int[Array, ""]:
    """How many displacements, cyclic and about zero, take whole windows to all others."""
    whole = jnp.maximum(length - 2 * radius, 1)
    return jnp.minimum(2 * whole - 1, length)


def _comparable(
    radius: Int[Array, " b"], by: Int[Array, ""], length: int
) -> Bool[Array, "b length"]:
    """Places whose window may be compared with the one `by` further on, cyclically.

    Both must be whole, so that none wraps around; where nothing moves, cut ones will do.
    """
    place = jnp.arange(length)

    def is_whole(place: Array) -> Array:
        return (place >= radius[:, None]) & (place < length - radius[:, None])

    return (by == 0) | (is_whole(place) & is_whole((place + by) % length))
