"""The exact score: a full scan over the data set at every step."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float

from gdiff.dataset import Dataset
from gdiff.denoiser import Posterior
from gdiff.errors import require, require_one_of
from gdiff.kernels import compensated
from gdiff.kernels.softmax import (
    Leaders,
    Moments,
    exact_shares,
    merge,
    moments_of,
    weights_of,
)
from gdiff.kernels.streamed import AUTO, DEVICE, ROWS, Streamed, part, placed
from gdiff.parallel.mesh import BATCH, DATA, place_rows
from gdiff.progress import track
from gdiff.score.base import ScoreSpec
from gdiff.store import cache

PRECISIONS = ("highest", "high", "default")
# Rows whose weights are recomputed by direct differences: few compete where it matters, and
# where there are more, as with copies of one image, the scan is done again with more.
_LEADERS, _MANY_LEADERS = 8, 64
# Relative error of D that float32 logits may cause before they are recomputed.
_LOGIT_ERROR = 2e-5
_HIGHEST = jax.lax.Precision.HIGHEST
# Mass outside the leaders below which float32 cannot tell it from zero.
_NEGLIGIBLE = 1e-6
# Part of the key of cached norms: to be raised when they change.
_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Exact(ScoreSpec):
    """Exact posterior moments by a streaming scan over all rows.

    Attributes:
        precision: of the matrix products, in JAX's own names: "highest" is full float32,
            "high" and "default" are the faster modes that accelerators offer (TF32, bfloat16).
        chunk_rows: rows of the data set per matrix product; 0 chooses by size.
        rows: where they are kept: "device" has them all in its memory, "host" sends them to it
            chunk by chunk at every step, "auto" does that for a file that is too large.
    """

    precision: str = "highest"
    chunk_rows: int = 0
    rows: str = AUTO

    def __post_init__(self) -> None:
        require_one_of("score.precision", self.precision, PRECISIONS)
        require_one_of("score.rows", self.rows, ROWS)
        require(self.chunk_rows >= 0, f"score.chunk_rows={self.chunk_rows} must be 0 or more")

    @property
    def is_exact(self) -> bool:
        """Whether products are in full precision."""
        return self.precision == "highest"

    def fit(self, dataset: Dataset, mesh: Mesh, sigmas: Sequence[float] = ()) -> "ExactScan":
        """Place the data on the mesh and return its denoiser, the same for all `sigmas`."""
        return ExactScan.of(
            dataset,
            mesh,
            chunk_rows=self.chunk_rows,
            precision=self.precision,
            where=self.rows,
        )


class ExactScan(eqx.Module):
    """Denoiser that scans all rows; holds them in their stored type, in stored units.

    Attributes:
        rows: [n_padded, d] the data as stored, split over the mesh axis `data`, or what reads
            them from the host.
        half_norms: [n_padded] ½‖row - centre‖².
        centre: [d] a point near the mean of the rows, whole numbers where the rows are.
        radius: [] largest distance of a row from the centre, in model coordinates.
    """

    rows: Array | Streamed
    half_norms: Float[Array, " n"]
    centre: Float[Array, " d"]
    radius: Float[Array, ""]
    n: int = eqx.field(static=True)
    shift: float = eqx.field(static=True)
    scale: float = eqx.field(static=True)
    mesh: Mesh = eqx.field(static=True)
    chunk_rows: int = eqx.field(static=True)
    precision: str = eqx.field(static=True)

    @classmethod
    def of(
        cls,
        dataset: Dataset,
        mesh: Mesh,
        *,
        chunk_rows: int,
        precision: str,
        where: str = DEVICE,
    ) -> "ExactScan":
        """Place `dataset` on `mesh` and compute its mean and norms there."""
        rows = placed(dataset.x.reshape(len(dataset), -1), mesh, where)
        centre, norms = _centre_and_norms(rows, dataset, mesh)
        return cls(
            rows=rows,
            half_norms=norms,
            centre=centre,
            radius=_radius(norms, len(dataset)) / dataset.scale,
            n=len(dataset),
            shift=dataset.shift,
            scale=dataset.scale,
            mesh=mesh,
            chunk_rows=chunk_rows or _default_chunk(dataset.dim),
            precision=precision,
        )

    def __call__(self, z: Float[Array, "b *event"], sigma: Float[Array, " b"]) -> Posterior:
        """Exact posterior at every row of z; b must be a multiple of the mesh axis `batch`."""
        scan = jax.shard_map(
            scan_rows,
            mesh=self.mesh,
            in_specs=(self.placement(), P(BATCH), P(BATCH)),
            out_specs=P(BATCH),
            check_vma=False,
        )
        posterior = scan(self, z.reshape(z.shape[0], -1), sigma)
        return posterior._replace(mean=posterior.mean.reshape(z.shape))

    def placement(self) -> "ExactScan":
        """How the arrays lie on the mesh: the same tree, with a PartitionSpec for each."""
        everywhere = jax.tree.map(lambda _: P(), self)
        rows = jax.tree.map(lambda _: P(DATA), self.rows)
        return dataclasses.replace(everywhere, rows=rows, half_norms=P(DATA))

    def is_delicate(
        self, sigma: Float[Array, " b"], allowed: float | Float[Array, ""] = _LOGIT_ERROR
    ) -> Bool[Array, " b"]:
        """Where logits in working precision cost more than the allowed relative error of D.

        An affinity is wrong by about 5 ε R², R the radius of the data, and rows that compete are
        within 10 σ of each other: the relative error of D is about 50 ε R/σ.
        """
        epsilon = jnp.finfo(sigma.dtype).eps / 2
        return sigma * allowed < 50 * epsilon * self.radius


def scan_rows(full: ExactScan, z: Float[Array, "b d"], sigma: Float[Array, " b"]) -> Posterior:
    """The call on one device: `full` holds its part of the rows, z [b, d] its queries."""

    def careful(z: Array, sigma: Array) -> Posterior:
        posterior, is_crowded = _careful_scan(full, z, sigma, leaders=_LEADERS)
        return jax.lax.cond(
            jnp.any(is_crowded),
            lambda: _careful_scan(full, z, sigma, leaders=_MANY_LEADERS)[0],
            lambda: posterior,
        )

    is_delicate = jnp.any(full.is_delicate(sigma))
    return jax.lax.cond(is_delicate, careful, partial(_plain_scan, full), z, sigma)


def _default_chunk(dim: int) -> int:
    """Rows per product: enough work for the product, small enough to stay in cache.

    Measured on CPU at d = 3072: 2 048 rows run at the rate of one large product.
    """
    return int(np.clip(6_000_000 // dim, 256, 16_384))


def _centre_and_norms(
    rows: Array | Streamed, dataset: Dataset, mesh: Mesh
) -> tuple[Float[Array, " d"], Float[Array, " n"]]:
    """Centre and half norms of all rows; from the cache for those on the host, if they are in it.

    There they take two passes over the data.
    """
    dtype = jnp.result_type(float)

    def found() -> tuple[Array, Array]:
        centre = _centre(rows, len(dataset), mesh)
        return centre, half_norms(rows, centre, mesh)

    # Several processes hold a part of the norms each.
    if not isinstance(rows, Streamed) or jax.process_count() > 1:
        return found()

    def packed() -> np.ndarray:
        with track(f"norms of {dataset.name}", 2 * len(dataset), "rows") as rows.source.progress:
            centre, norms = map(np.asarray, found())
        rows.source.progress = None
        return np.concatenate([centre, norms[: len(dataset)]])

    key = f"norms-{_VERSION}-{dataset.fingerprint()}-{jnp.dtype(dtype).name}"
    centre, norms = np.split(cache.cached(key, packed), [dataset.dim])
    return jnp.asarray(centre), place_rows(norms, mesh)


@partial(jax.jit, static_argnums=1)
def _radius(half_norms: Array, n: int) -> Array:
    """The largest of the first n norms; those beyond are of padding."""
    is_row = jnp.arange(len(half_norms)) < n
    return jnp.sqrt(2 * jnp.max(half_norms, where=is_row, initial=0))


def _centre(rows: Array | Streamed, n: int, mesh: Mesh) -> Array:
    """Mean of the rows; rounded for integers, so that centred rows stay exact."""
    mean = _per_device(_local_sum, mesh, P(DATA), P())(rows) / n
    return jnp.round(mean) if jnp.issubdtype(rows.dtype, jnp.integer) else mean


def half_norms(rows: Array | Streamed, centre: Array, mesh: Mesh) -> Array:
    """½‖row - centre‖² of all rows [n, d], a part of them in working precision at a time."""
    return _per_device(_local_half_norms, mesh, (P(DATA), P()), P(DATA))(rows, centre)


def _local_sum(rows: Array | Streamed) -> Array:
    """Sum of the rows of all devices along `data`, in working precision."""
    dtype = jnp.result_type(float)

    def add(i: Array, total: Array) -> Array:
        some, start = _part(rows, i)
        is_new = start + jnp.arange(some.shape[0]) >= i * some.shape[0]
        some = jnp.where(is_new[:, None], some.astype(dtype), 0)
        return total + jnp.sum(some, axis=0)

    zeros = jnp.zeros(rows.shape[1], dtype)
    return jax.lax.psum(jax.lax.fori_loop(0, _part_count(rows), add, zeros), DATA)


def _local_half_norms(rows: Array | Streamed, centre: Array) -> Array:
    def write(i: Array, norms: Array) -> Array:
        some, start = _part(rows, i)
        values = 0.5 * jnp.sum((some.astype(centre.dtype) - centre) ** 2, axis=1)
        return jax.lax.dynamic_update_slice_in_dim(norms, values, start, 0)

    zeros = jnp.zeros(rows.shape[0], centre.dtype)
    return jax.lax.fori_loop(0, _part_count(rows), write, zeros)


@lru_cache(maxsize=8)
def _per_device(run: Callable[..., Array], mesh: Mesh, takes: Any, gives: Any) -> Callable:
    """`run` on the rows of each device; kept, so that the fits of a sweep share programs."""
    return jax.jit(jax.shard_map(run, mesh=mesh, in_specs=takes, out_specs=gives, check_vma=False))


def _part(rows: Array | Streamed, i: Array) -> tuple[Array, Array]:
    """The i-th part of this device's rows, and where it starts; the last one starts early."""
    size = min(_default_chunk(rows.shape[1]), rows.shape[0])
    start = jnp.minimum(i * size, rows.shape[0] - size)
    return part(rows, start, size), start


def _part_count(rows: Array | Streamed) -> int:
    return -(-rows.shape[0] // _default_chunk(rows.shape[1]))


def _plain_scan(full: ExactScan, z: Array, sigma: Array) -> Posterior:
    """Posterior from the rows of all devices along `data`; z [b, d] in model coordinates."""
    variance = (sigma * full.scale) ** 2
    z = z * full.scale + (full.shift - full.centre)
    moments, _ = _stream(full, z, variance, leaders=0)
    peak = jax.lax.pmax(jax.lax.stop_gradient(moments.peak), DATA)
    moments = moments.rescaled(peak, variance)
    mass, first, second = jax.lax.psum(moments[1:], DATA)
    mean = first / mass[:, None]
    trace = jnp.maximum(second / mass - jnp.sum(mean**2, axis=1), 0)
    log_sum = jnp.log(mass) + (peak - 0.5 * jnp.sum(z**2, axis=1)) / variance
    return _posterior(full, mean, trace, log_sum, sigma)


def _careful_scan(
    full: ExactScan, z: Array, sigma: Array, *, leaders: int
) -> tuple[Posterior, Array]:
    """As `_plain_scan`, for noise levels at which logits in working precision are noise.

    The leading rows share the mass that the scan gave them by distances computed to twice the
    working precision. The second result says for which queries [b] there may be more rows that
    compete than `leaders`.
    """
    d = z.shape[1]
    variance = (sigma * full.scale) ** 2
    exact_z = compensated.affine(z, full.scale, full.shift)
    count = _leader_count(leaders, full.rows.shape[0], d)
    z = exact_z.high - full.centre
    moments, best = _stream(full, z, variance, leaders=count)
    crowded = is_crowded(best, z, variance, full.radius * full.scale)

    top = full.rows[best.rows]
    used = jnp.isfinite(best.affinities)
    shares = exact_shares(exact_z, top, used, variance, DATA)

    peak = jax.lax.pmax(jax.lax.stop_gradient(moments.peak), DATA)
    moments = moments.rescaled(peak, variance)
    approximate = weights_of(best.affinities, peak, variance)
    mass = jax.lax.psum(moments.mass, DATA)
    leader_mass = jax.lax.psum(jnp.sum(approximate, axis=1), DATA)
    weights = shares.weights * leader_mass[:, None]

    top = top.astype(z.dtype) - full.centre
    correction = jnp.einsum("bk,bkd->bd", weights - approximate, top, precision=_HIGHEST)
    mean = jax.lax.psum(moments.first + correction, DATA) / mass[:, None]

    # Spread of the leaders about the mean, and of the rest: neither cancels where the leaders
    # hold all the mass.
    spread = jnp.sum(weights * jnp.sum((top - mean[:, None]) ** 2, axis=2), axis=1)
    rest_first = moments.first - jnp.einsum("bk,bkd->bd", approximate, top, precision=_HIGHEST)
    rest_second = moments.second - jnp.sum(approximate * 2 * full.half_norms[best.rows], axis=1)
    rest = jax.lax.psum(rest_second - 2 * jnp.sum(rest_first * mean, axis=1), DATA)
    rest_mass = mass - leader_mass
    rest = jnp.maximum(rest + rest_mass * jnp.sum(mean**2, axis=1), 0)
    rest = jnp.where(rest_mass > _NEGLIGIBLE * mass, rest, 0)
    trace = (jax.lax.psum(spread, DATA) + rest) / mass

    log_sum = shares.log_sum + jnp.log(mass / leader_mass)
    posterior = _posterior(full, mean, trace, log_sum, sigma)
    return posterior, jax.lax.pmax(crowded.astype(jnp.int32), DATA) > 0


def is_crowded(best: Leaders, z: Array, variance: Array, radius: Array) -> Bool[Array, " b"]:
    """Whether the last leader may be a rounding error away from mattering.

    Args:
        best: leaders by affinities in working precision.
        z: [b, d] centred; variance: [b]; radius: of the data; all in stored units.
    """
    epsilon = jnp.finfo(z.dtype).eps / 2
    reach = radius * jnp.linalg.norm(z, axis=1) + 0.5 * radius**2
    behind = best.affinities[:, 0] - best.affinities[:, -1]
    is_full = jnp.isfinite(best.affinities[:, -1])
    # Beyond 12 nats a row has no weight. The rounding is a bound, some twenty times what is met:
    # below .01 nats of it, even equal rows leave D right to 1e-4.
    rounding = 5 * epsilon * reach
    return is_full & (behind < 12 * variance + rounding) & (rounding > 1e-2 * variance)


def _posterior(
    full: ExactScan, mean: Array, trace: Array, log_sum: Array, sigma: Array
) -> Posterior:
    """From centred, stored units to model coordinates; log_sum = log Σ exp(-‖z - y‖²/2σ²)."""
    d = mean.shape[1]
    return Posterior(
        mean=(mean + (full.centre - full.shift)) / full.scale,
        trace_cov=trace / full.scale**2,
        log_density=log_sum - jnp.log(full.n) - 0.5 * d * jnp.log(2 * jnp.pi * sigma**2),
    )


def _stream(full: ExactScan, z: Array, variance: Array, *, leaders: int) -> tuple[Moments, Leaders]:
    """One pass over this device's rows in chunks: moments about the centre, and the leaders."""
    b, d = z.shape
    n = full.rows.shape[0]
    chunk = min(full.chunk_rows, n)
    offset = jax.lax.axis_index(DATA) * n
    precision = jax.lax.Precision(full.precision)
    # On CPU branches are free; all rows that are left out weigh less than a rounding error.
    is_cpu = full.mesh.devices.flat[0].platform == "cpu"
    negligible = float(jnp.finfo(z.dtype).eps) / full.n if is_cpu else 0.0

    def body(i: Array, carry: tuple[Moments, Leaders]) -> tuple[Moments, Leaders]:
        moments, best = carry
        # The last chunk starts early enough to be whole; rows seen before do not count again.
        start = jnp.minimum(i * chunk, n - chunk)
        y = part(full.rows, start, chunk).astype(z.dtype) - full.centre
        half = jax.lax.dynamic_slice_in_dim(full.half_norms, start, chunk)
        row = start + jnp.arange(chunk)
        counts = (row >= i * chunk) & (offset + row < full.n)
        products = jnp.matmul(z, y.T, precision=precision)
        # Peaks, weights and leaders see the same numbers, not each a computation of its own.
        affinities = jax.lax.optimization_barrier(jnp.where(counts, products - half, -jnp.inf))
        some = moments_of(
            affinities,
            variance,
            y,
            2 * half,
            precision,
            floor=jax.lax.stop_gradient(moments.peak),
            negligible=negligible,
        )
        return merge(moments, some, variance), best.updated(affinities, start)

    start = (Moments.empty(b, d, z.dtype), Leaders.empty(b, leaders, z.dtype))
    return jax.lax.fori_loop(0, -(-n // chunk), body, start)


def _leader_count(leaders: int, n: int, d: int) -> int:
    """Leaders per query: fewer for small data, and where one query's would exceed 64 MiB."""
    return int(min(n, np.clip(2**24 // d, 2, leaders)))
