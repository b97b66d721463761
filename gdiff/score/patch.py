"""Patch posteriors: every pixel is denoised from the window around it alone."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int

from gdiff.dataset import Dataset
from gdiff.dataset.base import blocks
from gdiff.denoiser import Posterior
from gdiff.errors import require
from gdiff.kernels import compensated
from gdiff.parallel.mesh import BATCH, DATA, place_rows
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
        require(is_odd or size == "auto", f"score.patch_size={size} must be an odd number, or auto")
        require(
            self.max_images is None or self.max_images >= 1,
            f"score.max_images={self.max_images} must be at least 1, or null for all images",
        )

    def fit(self, dataset: Dataset, mesh: Mesh, sigmas: Sequence[float] = ()) -> "PatchScan":
        """Place the images on the mesh; the same for all `sigmas`.

        Raises:
            UserError: the points are not images.
        """
        require(
            dataset.is_image,
            f"score=patch_ls and patch_els need images, and the points of {dataset.name} have "
            f"shape {dataset.event_shape}: use score=full",
        )
        if self.max_images is not None and self.max_images < len(dataset):
            order = np.random.default_rng(_SUBSET_SEED).permutation(len(dataset))
            dataset = replace(dataset, x=dataset.x[np.sort(order[: self.max_images])])
        radius = None if self.patch_size == "auto" else (self.patch_size - 1) // 2
        return PatchScan.of(dataset, mesh, radius=radius, equivariant=self.equivariant)


class PatchScan(eqx.Module):
    """Denoiser that compares windows of all images; holds them in their stored type and units.

    Attributes:
        images: [n_padded, channels, height, width] as stored, split over the mesh axis `data`.
        low, high: [height, width, channels] range of the values at every pixel.
        radius: (k - 1) / 2 of the windows; None chooses it by noise level and `spread`.
        spread: standard deviation of all values, in model coordinates.
    """

    images: Array
    low: Float[Array, "h w c"]
    high: Float[Array, "h w c"]
    n: int = eqx.field(static=True)
    shift: float = eqx.field(static=True)
    scale: float = eqx.field(static=True)
    mesh: Mesh = eqx.field(static=True)
    radius: int | None = eqx.field(static=True)
    spread: float = eqx.field(static=True)
    equivariant: bool = eqx.field(static=True)

    @classmethod
    def of(
        cls, dataset: Dataset, mesh: Mesh, *, radius: int | None, equivariant: bool
    ) -> "PatchScan":
        """Place `dataset` on `mesh`; radius None is chosen by noise level."""
        everywhere = NamedSharding(mesh, P())
        low, high, spread = _range(dataset)
        if equivariant:  # a displaced window brings the values of other pixels
            low, high = np.full_like(low, low.min()), np.full_like(high, high.max())
        return cls(
            images=place_rows(np.moveaxis(dataset.x, -1, 1), mesh),
            low=jax.device_put(low, everywhere),
            high=jax.device_put(high, everywhere),
            n=len(dataset),
            shift=dataset.shift,
            scale=dataset.scale,
            mesh=mesh,
            radius=radius,
            spread=spread,
            equivariant=equivariant,
        )

    def __call__(self, z: Float[Array, "b h w c"], sigma: Float[Array, " b"]) -> Posterior:
        """Posteriors of all pixels; b must be a multiple of the mesh axis `batch`.

        Only a pixel's own weights depend on it where D is differentiated for the divergence, so
        the trace is the sum of the variances of the pixels' posteriors.
        """
        scan = jax.shard_map(
            partial(_scan, self),
            mesh=self.mesh,
            in_specs=(P(BATCH), P(BATCH), P(DATA), P(), P()),
            out_specs=(P(BATCH), P(BATCH)),
            check_vma=False,
        )
        mean, trace = scan(z, sigma, self.images, self.low, self.high)
        return Posterior(mean=mean, trace_cov=trace)

    def radii(self, sigma: Float[Array, " b"]) -> Int[Array, " b"]:
        """Radius of the windows for every query."""
        if self.radius is not None:
            return jnp.full(sigma.shape, self.radius)
        whole = max(self.images.shape[2:]) - 1
        steps = jnp.floor(sigma / max(self.spread, float(jnp.finfo(sigma.dtype).tiny)))
        return jnp.minimum(1 + steps, whole).astype(jnp.int32)


def _range(dataset: Dataset) -> tuple[np.ndarray, np.ndarray, float]:
    """Smallest and largest value of every pixel [h, w, c], as stored; spread of all values."""
    low, high = dataset.x[0], dataset.x[0]
    total = squares = 0.0
    for block in blocks(dataset.x):
        x = dataset.x[block]
        low, high = np.minimum(low, x.min(axis=0)), np.maximum(high, x.max(axis=0))
        model = dataset.to_model(x, np.float64)
        total, squares = total + model.sum(), squares + np.sum(model**2)
    mean = total / dataset.x.size
    spread = float(np.sqrt(max(squares / dataset.x.size - mean**2, 0)))
    dtype = np.dtype(jnp.result_type(float))
    return low.astype(dtype), high.astype(dtype), spread


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


def _scan(
    patch: PatchScan, z: Array, sigma: Array, images: Array, low: Array, high: Array
) -> tuple[Array, Array]:
    """Mean [b, h, w, c] and trace [b] from the images of all devices along `data`.

    Args:
        patch: for its static settings.
        z: [b, h, w, c] queries in model coordinates; sigma: [b].
        images: this device's part of the data; low, high: [h, w, c].
    """
    query = _query(patch, z, sigma, low, high)
    sums = _stream(patch, query, images)
    peak = jax.lax.pmax(jax.lax.stop_gradient(sums.peak), DATA)
    mass, first, second = jax.lax.psum(sums.rescaled(peak, query.variance)[1:], DATA)
    offset = first / mass[:, None]
    trace = jnp.maximum(second / mass[:, None] - offset**2, 0)
    mean = (query.anchor[:, :, :, 0] + offset - patch.shift) / patch.scale
    return jnp.moveaxis(mean, 1, -1), jnp.sum(trace, axis=(1, 2, 3)) / patch.scale**2


def _query(patch: PatchScan, z: Array, sigma: Array, low: Array, high: Array) -> _Query:
    exact = compensated.affine(z, patch.scale, patch.shift)
    anchor = jax.lax.stop_gradient(jnp.clip(exact.high, low, high))
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
        variance=(sigma * patch.scale) ** 2,
        radius=radius,
        columns=window(z.shape[1]),
        rows=window(z.shape[2]),
    )


def _stream(patch: PatchScan, query: _Query, images: Array) -> Windows:
    """Every chunk of this device's images, and for ELS every displacement of it, in one loop."""
    b, _, height, _, width = query.high.shape
    n = images.shape[0]
    chunk = int(np.clip(_CHUNK_VALUES // (b * height * width), 1, n))
    device = jax.lax.axis_index(DATA)
    tall = across = 1
    if patch.equivariant:
        narrowest = jnp.min(query.radius)
        tall, across = _displacements(narrowest, height), _displacements(narrowest, width)

    def at(k: Array) -> tuple[Array, Array, Array]:
        """First image, and displacement down and to the right, of step k."""
        j = k % (tall * across)
        return k // (tall * across) * chunk, j // across - tall // 2, j % across - across // 2

    def load(k: Array) -> Array:
        first, down, right = at(k)
        # The last chunk starts early enough to be whole.
        part = jax.lax.dynamic_slice_in_dim(images, jnp.minimum(first, n - chunk), chunk)
        y = jnp.transpose(part.astype(query.high.dtype), (1, 2, 0, 3))
        return jnp.roll(y, (-down, -right), (1, 3)) if patch.equivariant else y

    def counts(k: Array) -> Array:
        """Which windows are there, whole or cut alike, and were not seen before: [b, h, n, w]."""
        first, down, right = at(k)
        image = jnp.minimum(first, n - chunk) + jnp.arange(chunk)
        is_new = ((image >= first) & (device * n + image < patch.n))[:, None]
        if not patch.equivariant:
            return is_new
        rows = _comparable(query.radius, down, height)[:, :, None, None]
        columns = _comparable(query.radius, right, width)[:, None, None, :]
        return is_new & rows & columns

    def body(k: Array, carry: tuple[Array, Windows]) -> tuple[Array, Windows]:
        # Images are loaded a step ahead, because XLA lays out what it carries. It would instead
        # repeat the conversion in every operation that reads them, for every query.
        y, sums = carry
        return load(k + 1), merge(sums, _sums(query, y, counts(k)), query.variance)

    start = (load(jnp.int32(0)), Windows.empty(query.high[:, :, :, 0]))
    return jax.lax.fori_loop(0, -(-n // chunk) * tall * across, body, start)[1]


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
