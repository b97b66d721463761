"""The exact score: a full scan over the data set at every step."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from gdiff.dataset import Dataset
from gdiff.dataset.placed import Placed
from gdiff.denoiser import Head, Points, Posterior, Sigma, per_row
from gdiff.errors import require, require_one_of
from gdiff.kernels import compensated
from gdiff.kernels.distances import exact_shares, heaviest
from gdiff.kernels.fold import Chunk, Fold, Rows, chunk_size, denoised, fold, on_devices
from gdiff.kernels.softmax import Leaders, Moments, merge, moments_of, weights_of
from gdiff.kernels.streamed import AUTO, ROWS
from gdiff.parallel.mesh import DATA
from gdiff.score.base import ScoreSpec
from gdiff.score.crowded import (
    NEGLIGIBLE,
    Contest,
    floor_of,
    in_model,
    is_crowded,
    rounding_of,
    settled,
)

PRECISIONS = ("highest", "high", "default")
# Rows whose weights are recomputed by direct differences: more seldom compete where it matters.
_LEADERS = 8
# Relative error of D for which all that compete are weighed again, and what part of the bound on
# rounding is met with.
_CROWD_ERROR, _METWITH = 1e-5, 0.2
# The same for the trace of the covariance, in parts of it and of d σ².
_SPREAD_ERROR = 2e-5
# Relative error of D that float32 logits may cause before they are recomputed.
_LOGIT_ERROR = 2e-5
_HIGHEST = jax.lax.Precision.HIGHEST


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
    is_plain: bool = eqx.field(static=True, default=False)

    def within(self, sigma: Float[np.ndarray, " n"], allowed: float) -> "ExactScan":
        """The same scan for these noise levels alone, to a relative error; arguments on the host.

        Without what only low levels need it is compiled in a fifth of the time.
        """
        lowest = _lowest_plain(float(self.rows.radius), self.rows.radius.dtype, allowed)
        return replace(self, is_plain=bool(np.min(sigma) >= lowest))

    def __call__(self, z: Points, sigma: Sigma) -> Posterior:
        """Exact posterior at every row of z."""
        return denoised(self.rows.mesh, scan_rows, self, z, sigma)

    def heads(self, z: Points, sigma: Sigma, k: int) -> tuple[Posterior, Head]:
        """The posterior and the k heaviest rows of every posterior, in the same pass."""
        queries = (z.reshape(len(z), -1), per_row(sigma, z))
        asked = _Asked(self, k)
        posterior, head = on_devices(self.rows.mesh, _headed, asked, *queries)
        return posterior._replace(mean=posterior.mean.reshape(z.shape)), head

    def take(self, index: Int[Array, "b ..."]) -> Float[Array, "b ... d"]:
        """Rows by their numbers, in model coordinates."""
        return self.rows.take(index)


class _Asked(eqx.Module):
    """A scan that is asked for heads of k rows."""

    full: ExactScan
    k: int = eqx.field(static=True)


def _headed(asked: _Asked, z: Array, sigma: Array) -> tuple[Posterior, Head]:
    return scan_heads(asked.full, z, sigma, asked.k)


def is_delicate(
    rows: Rows, sigma: Float[Array, " b"], allowed: float | Float[Array, ""] = _LOGIT_ERROR
) -> Bool[Array, " b"]:
    """Where logits in working precision cost more than the allowed relative error of D.

    An affinity is wrong by about 5 ε R², R the radius of the data, and rows that compete are
    within 10 σ of each other: the relative error of D is about 50 ε R/σ.
    """
    return sigma * allowed < _lowest_plain(rows.radius, sigma.dtype, 1.0)


def _lowest_plain(radius: Any, dtype: Any, allowed: float) -> Any:
    """The noise level below which logits in working precision cost more than is allowed."""
    return 50 * (jnp.finfo(dtype).eps / 2) * radius / allowed


def scan_rows(full: ExactScan, z: Float[Array, "b d"], sigma: Float[Array, " b"]) -> Posterior:
    """The call on one device: `full` holds its part of the rows, z [b, d] its queries."""
    return scan_heads(full, z, sigma, 0)[0]


def scan_heads(
    full: ExactScan, z: Float[Array, "b d"], sigma: Float[Array, " b"], k: int
) -> tuple[Posterior, Head | None]:
    """As `scan_rows`, with the k heaviest rows of all devices."""
    if full.is_plain:
        return _plain_scan(full, k, z, sigma)
    delicate = jnp.any(is_delicate(full.rows, sigma))
    careful, plain = partial(_careful_scan, full, k), partial(_plain_scan, full, k)
    return jax.lax.cond(delicate, careful, plain, z, sigma)


def _plain_scan(full: ExactScan, k: int, z: Array, sigma: Array) -> tuple[Posterior, Head | None]:
    """Posterior from the rows of all devices along `data`; z [b, d] in model coordinates."""
    rows = full.rows
    variance = (sigma * rows.scale) ** 2
    z = z * rows.scale + (rows.shift - rows.centre)
    moments, best = _stream(full, z, variance, k)
    peak = jax.lax.pmax(jax.lax.stop_gradient(moments.peak), DATA)
    moments = moments.rescaled(peak, variance)
    mass, first, second = jax.lax.psum(moments[1:], DATA)
    mean = first / mass[:, None]
    trace = jnp.maximum(second / mass - jnp.sum(mean**2, axis=1), 0)
    log_sum = jnp.log(mass) + (peak - 0.5 * jnp.sum(z**2, axis=1)) / variance
    head = _head_of(rows, best, _log_weights(best, peak, mass, variance), k)
    return in_model(rows, mean, trace, log_sum, sigma), head


def _log_weights(best: Leaders, peak: Array, mass: Array, variance: Array) -> Float[Array, "b k"]:
    return (best.affinities - peak[:, None]) / variance[:, None] - jnp.log(mass)[:, None]


def _head_of(rows: Rows, best: Leaders, log_weights: Float[Array, "b k"], k: int) -> Head | None:
    """The k heaviest rows of all devices along `data`, from the leaders of each; None of none."""
    if k == 0:
        return None
    found = best.rows[:, :k] + rows.first, log_weights[:, :k]
    numbers, weights = (jax.lax.all_gather(x, DATA, axis=1, tiled=True) for x in found)
    weights, place = jax.lax.top_k(weights, k)
    return Head(jnp.take_along_axis(numbers, place, axis=1), weights)


def _careful_scan(full: ExactScan, k: int, z: Array, sigma: Array) -> tuple[Posterior, Head | None]:
    """As `_plain_scan`, for noise levels at which logits in working precision are noise.

    The leading rows share the mass that the scan gave them by distances computed to twice the
    working precision. Where more rows compete, all that do are weighed so.
    """
    rows, d = full.rows, z.shape[1]
    variance = (sigma * rows.scale) ** 2
    exact_z = compensated.affine(z, rows.scale, rows.shift)
    z = (exact_z.high - rows.centre) + exact_z.low
    count = _leader_count(rows.count, d)
    moments, found = _stream(full, z, variance, max(k, count))
    best = Leaders(*(x[:, :count] for x in found))

    stored = rows.local(best.rows)
    used = jnp.isfinite(best.affinities)
    shares = exact_shares(exact_z, stored, used, variance, DATA)

    peak = jax.lax.pmax(jax.lax.stop_gradient(moments.peak), DATA)
    moments = moments.rescaled(peak, variance)
    approximate = weights_of(best.affinities, peak, variance)
    mass = jax.lax.psum(moments.mass, DATA)
    leader_mass = jax.lax.psum(jnp.sum(approximate, axis=1), DATA)
    weights = shares.weights * leader_mass[:, None]

    top = stored.astype(z.dtype) - rows.centre
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
    rest = jnp.where(rest_mass > NEGLIGIBLE * mass, rest, 0)
    trace = (jax.lax.psum(spread, DATA) + rest) / mass

    log_sum = shares.log_sum + jnp.log(mass / leader_mass)
    posterior = in_model(rows, mean, trace, log_sum, sigma)
    own = jnp.log(weights / mass[:, None])
    log_weights = _log_weights(found, peak, mass, variance)
    near = jnp.where(used & (weights > 0), own, log_weights[:, :count])
    head = _head_of(rows, found, jnp.concatenate([near, log_weights[:, count:]], axis=1), k)

    rounding = rounding_of(z, rows)
    crowded = is_crowded(best.affinities, rounding, variance, rows.n)
    # Where logits are right but for a part of one: by what they may do to the results through
    # the rows that are no leaders.
    share, wrong = rest_mass / mass, _METWITH * rounding / variance
    away = jnp.sqrt(rest / jnp.maximum(rest_mass, jnp.finfo(mass.dtype).tiny))
    few = wrong * share * away > _CROWD_ERROR * rows.radius * rows.scale
    few |= wrong * share > max(1e-3, 1e-6 * d)
    crowded = jnp.where(rounding < variance, few, crowded)
    # And to the spread, where that of all others is a difference of large numbers.
    lost = _METWITH * rounding + wrong * rest / mass > _SPREAD_ERROR * (trace + d * variance)
    crowded |= (share > NEGLIGIBLE) & lost

    def weighed() -> Posterior:
        floor = floor_of(crowded, peak, rounding, variance, rows.n)
        query = Contest(
            exact_z, shares.nearest, heaviest(shares.weights, stored, DATA), floor, variance
        )
        return settled(rows, full.chunk_rows, crowded, posterior, z, query, sigma)

    return jax.lax.cond(jnp.any(crowded), weighed, lambda: posterior), head


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


def _leader_count(n: int, d: int) -> int:
    """Leaders per query: fewer for small data, and where one query's would exceed 64 MiB."""
    return int(min(n, np.clip(2**24 // d, 2, _LEADERS)))
