"""Smoothed closed-form score: the exact denoiser averaged over perturbed queries."""

from collections.abc import Sequence
from dataclasses import dataclass

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Float

from gdiff.dataset import Dataset
from gdiff.dataset.placed import Placed
from gdiff.denoiser import Points, Posterior, Sigma, per_row
from gdiff.errors import require
from gdiff.score.base import ScoreSpec
from gdiff.score.exact import Exact, ExactScan
from gdiff.store import cache

# Of `width`, if that is to follow the data.
AUTO = "auto"
# Data points whose neighbours are looked for, and rows that are read at a time.
_POINTS, _ROWS = 256, 2048
# The width in units of what takes a point to its neighbour. On digits and MNIST a fifth of the
# samples are copies then; with .9 a half, and with 1.5 all samples are blurs of many points.
_REACH = 1.25
# Part of the key of cached widths: to be raised when they change.
_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Smoothed(ScoreSpec):
    """Average of the exact denoiser over M perturbations of the query (σ-CFDM).

    D_s(z, σ) = (1/M) Σ_m D(z + width (1 + σ) ε_m, σ). (Scarvelis, Sáez de Ocáriz Borde, Solomon,
    "Closed-Form Diffusion Models", arXiv 2310.12395; `width` is their σ. They perturb
    (1 - t) ε + t x, which is z / (1 + σ) here: hence the factor.) As σ falls, a sample becomes a
    mean of up to M data points near it, instead of one of them. Which width suits depends on the
    data set, and the paper leaves it to the user: with too small a one samples are copies, with
    too large a one they are means of points that have nothing in common. "auto" is our own
    construction, see `width_of`.

    The ε_m are standard normal, the same for all queries and noise levels and fixed by `seed`, so
    that a sample does not depend on the batch it is in. They come in pairs ε, -ε: their mean is
    zero, and symmetric data have a symmetric denoiser.

    Attributes:
        perturbations: M, an even number; the cost is M times that of `score=full`.
        width: of the perturbations, in model units, or "auto".
        seed: of the perturbations.
    """

    perturbations: int = 16
    width: float | str = AUTO
    seed: int = 0

    def __post_init__(self) -> None:
        require(
            self.perturbations >= 2 and self.perturbations % 2 == 0,
            f"perturbations={self.perturbations} must be an even number, 2 or more",
        )
        is_number = not isinstance(self.width, str)
        require(
            0 <= self.width < float("inf") if is_number else self.width == AUTO,
            f"width={self.width} must be 0 or more, and finite, or {AUTO}",
        )
        require(self.seed >= 0, f"seed={self.seed} must be 0 or more")

    def fit(self, data: Dataset | Placed, sigmas: Sequence[float] = ()) -> "SmoothedScan":
        """Place the data and draw the perturbations, the same for all `sigmas`."""
        data = Placed.of(data)
        half = (self.perturbations // 2, *data.dataset.event_shape)
        drawn = np.random.default_rng(self.seed).standard_normal(half)
        width = width_of(data.dataset) if self.width == AUTO else self.width
        noise = width * np.concatenate([drawn, -drawn])
        return SmoothedScan(
            scan=Exact().fit(data),
            noise=jax.device_put(
                jnp.asarray(noise, jnp.result_type(float)),
                NamedSharding(data.mesh, PartitionSpec()),
            ),
        )


def width_of(dataset: Dataset) -> float:
    """A width at which neighbours mix: 1.25 r / √d, from the cache if it is there.

    A perturbation of a data point reaches its neighbour in the directions in which neighbours
    differ. r is the median distance from a point to the nearest other one, and d the effective
    number of these directions, (tr C)² / tr C², C the covariance of the differences between
    neighbours: noise of width r / √d, along them, is about as long as r.

    Args:
        dataset: with or without points that are there twice; these are no neighbours.

    Returns:
        The width in model units; 0 if all points are the same.
    """

    def build() -> np.ndarray:
        gaps = _to_neighbours(dataset)
        squares = np.sum(gaps**2, axis=1)
        gaps, squares = gaps[squares > 0], squares[squares > 0]
        if len(gaps) < 2:
            return np.array(_REACH * np.sqrt(squares.sum()))
        # Different points alone: so the estimate of tr C² is unbiased.
        products = (gaps @ gaps.T) ** 2
        between = (products.sum() - np.trace(products)) / (len(gaps) * (len(gaps) - 1))
        directions = max(1.0, squares.mean() ** 2 / max(between, np.finfo(float).tiny))
        return np.array(_REACH * np.sqrt(np.median(squares) / directions))

    return float(cache.cached(cache.key("width", _VERSION, dataset.fingerprint()), build))


def _to_neighbours(dataset: Dataset) -> Float[np.ndarray, "n d"]:
    """Differences of some points from the nearest ones elsewhere; 0 where there is none."""
    count, size = len(dataset), min(_POINTS, len(dataset))
    chosen = np.sort(np.random.default_rng(0).choice(count, size, replace=False))
    own = dataset.rows(chosen).reshape(size, -1).astype(np.float64)
    centre = own.mean(axis=0)  # relative to it digits are kept
    own -= centre
    best, gaps = np.full(size, np.inf), np.zeros_like(own)
    norms = np.sum(own**2, axis=1)
    same = np.finfo(float).eps ** 0.5 * max(norms.max(), np.finfo(float).tiny)
    for start in range(0, count, _ROWS):
        rows = dataset.rows(slice(start, start + _ROWS)).reshape(-1, dataset.dim) - centre
        squares = norms[:, None] - 2 * own @ rows.T + np.sum(rows**2, axis=1)
        squares[squares <= same] = np.inf  # itself and its copies
        nearest = np.argmin(squares, axis=1)
        found = np.take_along_axis(squares, nearest[:, None], axis=1)[:, 0]
        is_nearer = found < best
        best[is_nearer] = found[is_nearer]
        gaps[is_nearer] = rows[nearest[is_nearer]] - own[is_nearer]
    return gaps


class SmoothedScan(eqx.Module):
    """Denoiser that scans all rows for M perturbed copies of every query.

    Attributes:
        scan: the exact denoiser.
        noise: [M, *event] the perturbations at σ = 0.
    """

    scan: ExactScan
    noise: Float[Array, "m *event"]

    def __call__(self, z: Points, sigma: Sigma) -> Posterior:
        """Averages over the perturbed queries.

        The perturbations do not depend on z, so the average of the traces is σ² times the
        divergence of the averaged mean, as it has to be.
        """
        b, m = z.shape[0], self.noise.shape[0]
        sigma = per_row(sigma, z)
        reach = (1 + sigma).reshape(b, *[1] * z.ndim)
        # Copies of one query stay together: so they stay on its device.
        moved = (z[:, None] + reach * self.noise).reshape(b * m, *z.shape[1:])
        each = self.scan(moved, jnp.repeat(sigma, m))
        return Posterior(
            mean=jnp.mean(each.mean.reshape(b, m, *z.shape[1:]), axis=1),
            trace_cov=jnp.mean(each.trace_cov.reshape(b, m), axis=1),
        )
