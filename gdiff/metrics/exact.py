"""The exact posterior of a data set in float64 on the host: what scores are measured against.

It shares nothing with the scores: plain NumPy, another precision, another way to sum.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from gdiff.dataset.base import Dataset
from gdiff.metrics.chunks import evenly, spans
from gdiff.progress import Progress, track

_CHUNK_BYTES = 2**24
_WEIGHT_BYTES = 2**28
_MASS = 0.99
_PROBE = 1024


class ExactPosterior(NamedTuple):
    """The posterior of x_0 given q queries z = x_0 + σ ε, x_0 uniform over the data.

    Attributes:
        mean: [q, dim] posterior mean, model coordinates.
        effective_sample_size: [q] 1 / Σ w², w the weights of the data points.
        rows_99: [q] least number of data points that hold 99 % of the mass.
        radius: root mean square distance of the data from their mean, by up to 1 024 of them.
    """

    mean: np.ndarray
    effective_sample_size: np.ndarray
    rows_99: np.ndarray
    radius: float


def exact_posterior(
    dataset: Dataset, z: np.ndarray, sigma: np.ndarray, weight_bytes: int = _WEIGHT_BYTES
) -> ExactPosterior:
    """Scan all data twice, once for the weights and once for the mean: two matrix products.

    Distances come from their expansion about a centre near the mean of the data. With R the
    largest distance from it, a log weight is wrong by some 1e-15 R²/σ²: 1e-7 for images in
    [-1, 1] at σ = .002. Queries of all noise levels share a scan, as many at a time as have
    weights that fit in `weight_bytes`.

    Args:
        dataset: of any size, also a memory map; it is converted chunk by chunk.
        z: [q, *event] finite, model coordinates.
        sigma: [q] positive noise levels.
        weight_bytes: memory for the weights.
    """
    # Data stay in stored units, where they convert in one step: queries come to them.
    index = evenly(len(dataset), _PROBE)
    probe = dataset.x[index].reshape(len(index), -1).astype(np.float64)
    centre = probe.mean(0)
    radius = np.sqrt(np.mean(np.sum((probe - centre) ** 2, axis=1))) / dataset.scale
    offset = centre - dataset.shift
    z = z.reshape(len(z), -1) * np.float64(dataset.scale) - offset
    variance = (np.asarray(sigma, np.float64) * dataset.scale) ** 2
    groups = list(spans(len(z), max(1, weight_bytes // (8 * len(dataset)))))
    with track("exact score", 2 * len(groups) * len(dataset), "rows") as progress:
        parts = [_posterior(dataset, centre, z[g], variance[g], progress) for g in groups]
    mean, *counts = (np.concatenate(part) for part in zip(*parts, strict=True))
    return ExactPosterior((mean + offset) / dataset.scale, *counts, float(radius))


def _posterior(
    dataset: Dataset, centre: np.ndarray, z: np.ndarray, variance: np.ndarray, progress: Progress
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Means, effective sample sizes and rows_99, in stored units less `centre`."""
    weights = np.empty((len(z), len(dataset)))
    for span, y in _chunks(dataset, centre, progress):
        np.matmul(z, y.T, out=weights[:, span])
        weights[:, span] -= 0.5 * np.einsum("ij,ij->i", y, y)
    for row, level in zip(weights, variance, strict=True):
        row -= row.max()
        row /= level
        np.exp(row, out=row)
        row /= row.sum()
    mean = np.zeros_like(z)
    for span, y in _chunks(dataset, centre, progress):
        mean += weights[:, span] @ y
    return (
        mean,
        1 / np.einsum("ij,ij->i", weights, weights),
        np.array([_rows_that_hold(_MASS, row) for row in weights]),
    )


def _rows_that_hold(mass: float, weights: np.ndarray) -> int:
    """Least number of weights that sum to `mass`; all weights [n] sum to 1."""
    # All those below this share make up less than the rest of the mass.
    large = np.sort(weights[weights >= (1 - mass) / len(weights)])[::-1]
    # Rounding must not ask for one more.
    return int(np.searchsorted(np.cumsum(large), mass * (1 - 1e-12))) + 1


def _chunks(
    dataset: Dataset, centre: np.ndarray, progress: Progress
) -> Iterator[tuple[slice, np.ndarray]]:
    """All data as stored, less `centre`: (which, vectors [k, dim] float64)."""
    for span in spans(len(dataset), int(np.clip(_CHUNK_BYTES // (8 * dataset.dim), 1, 8192))):
        stored = dataset.x[span]
        yield span, stored.reshape(len(stored), -1) - centre
        progress.advance(len(stored))
