"""The exact score: a full scan over the data set at every step."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from gdiff.dataset import Dataset
from gdiff.dataset.placed import Placed
from gdiff.denoiser import Points, Posterior, Sigma
from gdiff.errors import require, require_one_of
from gdiff.kernels import compensated
from gdiff.kernels.fold import Chunk, Fold, Rows, chunk_size, denoised, fold
from gdiff.kernels.softmax import (
    Leaders,
    Moments,
    exact_shares,
    merge,
    moments_of,
    weights_of,
)
from gdiff.kernels.streamed import AUTO, ROWS
from gdiff.parallel.mesh import DATA
from gdiff.score.base import ScoreSpec

PRECISIONS = ("highest", "high", "default")
# Rows whose weights are recomputed by direct differences: few compete where it matters, and
# where there are more, as with copies of one image, the scan is done again with more.
_LEADERS, _MANY_LEADERS = 8, 64
# Relative error of D that float32 logits may cause before they are recomputed.
_LOGIT_ERROR = 2e-5
_HIGHEST = jax.lax.Precision.HIGHEST
# Mass outside the leaders below which float32 cannot tell it from zero.
_NEGLIGIBLE = 1e-6


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
        require_one_of("precision", self.precision, PRECISIONS)
        require_one_of("rows", self.rows, ROWS)
        require(self.chunk_rows >= 0, f"chunk_rows={self.chunk_rows} must be 0 or more")

    @property
    def is_exact(self) -> bool:
        """Whether products are in full precision."""
        return self.precision == "highest"

    def fit(self, data: Dataset | Placed, sigmas: Sequence[float] = ()) -> "ExactScan":
        """Place the data and return its denoiser, the same for all `sigmas`."""
        rows = Placed.of(data, self.rows).rows
        return ExactScan(rows, self.chunk_rows or chunk_size(rows.dim), self.precision)


class ExactScan(eqx.Module):
    """Denoiser that scans all rows."""

    rows: Rows
    chunk_rows: int = eqx.field(static=True)
    precision: str = eqx.field(static=True, default="highest")

    def __call__(self, z: Points, sigma: Sigma) -> Posterior:
        """Exact posterior at every row of z."""
        return denoised(self.rows.mesh, scan_rows, self, z, sigma)


def is_delicate(
    rows: Rows, sigma: Float[Array, " b"], allowed: float | Float[Array, ""] = _LOGIT_ERROR
) -> Bool[Array, " b"]:
    """Where logits in working precision cost more than the allowed relative error of D.

    An affinity is wrong by about 5 ε R², R the radius of the data, and rows that compete are
    within 10 σ of each other: the relative error of D is about 50 ε R/σ.
    """
    epsilon = jnp.finfo(sigma.dtype).eps / 2
    return sigma * allowed < 50 * epsilon * rows.radius


def scan_rows(full: ExactScan, z: Float[Array, "b d"], sigma: Float[Array, " b"]) -> Posterior:
    """The call on one device: `full` holds its part of the rows, z [b, d] its queries."""

    def careful(z: Array, sigma: Array) -> Posterior:
        posterior, is_crowded = _careful_scan(full, z, sigma, leaders=_LEADERS)
        return jax.lax.cond(
            jnp.any(is_crowded),
            lambda: _careful_scan(full, z, sigma, leaders=_MANY_LEADERS)[0],
            lambda: posterior,
        )

    delicate = jnp.any(is_delicate(full.rows, sigma))
    return jax.lax.cond(delicate, careful, partial(_plain_scan, full), z, sigma)


def _plain_scan(full: ExactScan, z: Array, sigma: Array) -> Posterior:
    """Posterior from the rows of all devices along `data`; z [b, d] in model coordinates."""
    rows = full.rows
    variance = (sigma * rows.scale) ** 2
    z = z * rows.scale + (rows.shift - rows.centre)
    moments, _ = _stream(full, z, variance, 0)
    peak = jax.lax.pmax(jax.lax.stop_gradient(moments.peak), DATA)
    moments = moments.rescaled(peak, variance)
    mass, first, second = jax.lax.psum(moments[1:], DATA)
    mean = first / mass[:, None]
    trace = jnp.maximum(second / mass - jnp.sum(mean**2, axis=1), 0)
    log_sum = jnp.log(mass) + (peak - 0.5 * jnp.sum(z**2, axis=1)) / variance
    return _posterior(rows, mean, trace, log_sum, sigma)


def _careful_scan(
    full: ExactScan, z: Array, sigma: Array, *, leaders: int
) -> tuple[Posterior, Array]:
    """As `_plain_scan`, for noise levels at which logits in working precision are noise.

    The leading rows share the mass that the scan gave them by distances computed to twice the
    working precision. The second result says for which queries [b] there may be more rows that
    compete than `leaders`.
    """
    rows, d = full.rows, z.shape[1]
    variance = (sigma * rows.scale) ** 2
    exact_z = compensated.affine(z, rows.scale, rows.shift)
    count = _leader_count(leaders, rows.count, d)
    z = exact_z.high - rows.centre
    moments, best = _stream(full, z, variance, count)
    crowded = is_crowded(best, z, variance, rows.radius * rows.scale)

    top = rows.local(best.rows)
    used = jnp.isfinite(best.affinities)
    shares = exact_shares(exact_z, top, used, variance, DATA)

    peak = jax.lax.pmax(jax.lax.stop_gradient(moments.peak), DATA)
    moments = moments.rescaled(peak, variance)
    approximate = weights_of(best.affinities, peak, variance)
    mass = jax.lax.psum(moments.mass, DATA)
    leader_mass = jax.lax.psum(jnp.sum(approximate, axis=1), DATA)
    weights = shares.weights * leader_mass[:, None]

    top = top.astype(z.dtype) - rows.centre
    correction = jnp.einsum("bk,bkd->bd", weights - approximate, top, precision=_HIGHEST)
    mean = jax.lax.psum(moments.first + correction, DATA) / mass[:, None]

    # Spread of the leaders about the mean, and of the rest: neither cancels where the leaders
    # hold all the mass.
    spread = jnp.sum(weights * jnp.sum((top - mean[:, None]) ** 2, axis=2), axis=1)
    rest_first = moments.first - jnp.einsum("bk,bkd->bd", approximate, top, precision=_HIGHEST)
    rest_second = moments.second - jnp.sum(approximate * 2 * rows.half_norms[best.rows], axis=1)
    rest = jax.lax.psum(rest_second - 2 * jnp.sum(rest_first * mean, axis=1), DATA)
    rest_mass = mass - leader_mass
    rest = jnp.maximum(rest + rest_mass * jnp.sum(mean**2, axis=1), 0)
    rest = jnp.where(rest_mass > _NEGLIGIBLE * mass, rest, 0)
    trace = (jax.lax.psum(spread, DATA) + rest) / mass

    log_sum = shares.log_sum + jnp.log(mass / leader_mass)
    posterior = _posterior(rows, mean, trace, log_sum, sigma)
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


def _posterior(rows: Rows, mean: Array, trace: Array, log_sum: Array, sigma: Array) -> Posterior:
    """From centred, stored units to model coordinates; log_sum = log Σ exp(-‖z - y‖²/2σ²)."""
    d = mean.shape[1]
    return Posterior(
        mean=(mean + (rows.centre - rows.shift)) / rows.scale,
        trace_cov=trace / rows.scale**2,
        log_density=log_sum - jnp.log(rows.n) - 0.5 * d * jnp.log(2 * jnp.pi * sigma**2),
    )


class _Scan(Fold):
    """Moments about the centre, and the leaders; queries are z [b, d], centred, and σ², stored."""

    leaders: int = eqx.field(static=True)
    precision: jax.lax.Precision = eqx.field(static=True)

    def start(self, rows: Rows, z: Array, variance: Array) -> tuple[Moments, Leaders]:
        empty = Leaders.empty(len(z), self.leaders, z.dtype)
        return Moments.empty(*z.shape, z.dtype), empty

    def step(
        self,
        rows: Rows,
        state: tuple[Moments, Leaders],
        chunk: Chunk,
        z: Array,
        variance: Array,
    ) -> tuple[Moments, Leaders]:
        moments, best = state
        # On CPU branches are free; all rows that are left out weigh less than a rounding error.
        is_cpu = rows.mesh.devices.flat[0].platform == "cpu"
        negligible = float(jnp.finfo(z.dtype).eps) / rows.n if is_cpu else 0.0
        y = chunk.stored.astype(z.dtype) - rows.centre
        products = jnp.matmul(z, y.T, precision=self.precision) - chunk.half_norms
        # Peaks, weights and leaders see the same numbers, not each a computation of its own.
        affinities = jax.lax.optimization_barrier(jnp.where(chunk.counts, products, -jnp.inf))
        some = moments_of(
            affinities,
            variance,
            y,
            2 * chunk.half_norms,
            self.precision,
            floor=jax.lax.stop_gradient(moments.peak),
            negligible=negligible,
        )
        return merge(moments, some, variance), best.updated(affinities, chunk.start)

    def finish(self, rows: Rows, state: tuple, *queries: Array) -> tuple[Moments, Leaders]:
        return state


def _stream(full: ExactScan, z: Array, variance: Array, leaders: int) -> tuple[Moments, Leaders]:
    """One pass over this device's rows: moments about the centre, and the leaders."""
    scan = _Scan(leaders, jax.lax.Precision(full.precision))
    return fold(full.rows, scan, z, variance, size=full.chunk_rows)


def _leader_count(leaders: int, n: int, d: int) -> int:
    """Leaders per query: fewer for small data, and where one query's would exceed 64 MiB."""
    return int(min(n, np.clip(2**24 // d, 2, leaders)))
