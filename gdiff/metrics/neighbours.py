"""The two nearest data points of every sample, and what they say about memorisation.

Distances are Euclidean, over all coordinates of a point, in model coordinates ([-1, 1] for
images). Divide by sqrt(dim) for a root mean square per coordinate.
"""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np

from gdiff.dataset.base import Dataset
from gdiff.metrics.base import Metric
from gdiff.metrics.chunks import flat_rows, near_mean, rows_per_chunk, spans

_SAMPLE_BLOCK = 1024
_CANDIDATES = 4
_SAME_POINT = 1e-5  # of the spread of the data: rounding of a float32 sampler
_ULPS = 2  # of the data's distance from zero: the rounding of samples alone


@dataclass(frozen=True)
class NearestNeighbours(Metric):
    """How near the samples are to the data, and how many of them are copies."""

    names: ClassVar[tuple[str, ...]] = ("nn_distance", "copy_fraction")

    def compute(self, samples: np.ndarray, dataset: Dataset) -> dict[str, float]:
        """`nn_distance` and `copy_fraction`, which needs two data points."""
        found = nearest_two(samples, dataset)
        values = {"nn_distance": nn_distance(found)}
        return values | ({"copy_fraction": copy_fraction(found)} if len(dataset) > 1 else {})


class Neighbours(NamedTuple):
    """The two nearest data points of n samples.

    Attributes:
        distance: [n, 2] float64, nearest first; inf where the data set has one point only.
        index: [n, 2] which data points these are; -1 where there is none.
        resolution: distances up to this size are rounding errors of a sampler.
    """

    distance: np.ndarray
    index: np.ndarray
    resolution: float


def nearest_two(samples: np.ndarray, dataset: Dataset, chunk_rows: int | None = None) -> Neighbours:
    """Exact two nearest neighbours by a full scan of the data, chunk by chunk.

    The scan ranks points by the expansion of the square, in float64, which cancels near distance
    zero: errors of 1e-16 of the largest square. So it proposes a few candidates, whose distances
    are then taken from the differences.

    Args:
        samples: [n, *event] finite, model coordinates.
        dataset: what to search; a memory map is read chunk by chunk.
        chunk_rows: data points held at a time; None keeps a chunk within 64 MiB.
    """
    from sklearn.neighbors import NearestNeighbors  # takes a second

    z = samples.reshape(len(samples), -1)
    chunk_rows = chunk_rows or rows_per_chunk(dataset.dim)
    centre = near_mean(dataset)
    count = min(_CANDIDATES, len(dataset))
    value, index = np.full((len(z), count), np.inf), np.full((len(z), count), -1)
    squares = 0.0
    for span in spans(len(dataset), chunk_rows):
        y = flat_rows(dataset, span).astype(np.float64) - centre
        squares += np.sum(y**2)
        search = NearestNeighbors(algorithm="brute").fit(y)
        for block in spans(len(z), _SAMPLE_BLOCK):
            new, place = search.kneighbors(z[block] - centre, min(count, len(y)))
            new = np.concatenate([value[block], new], axis=1)
            place = np.concatenate([index[block], place + span.start], axis=1)
            best = np.argsort(new, axis=1, kind="stable")[:, :count]
            value[block] = np.take_along_axis(new, best, axis=1)
            index[block] = np.take_along_axis(place, best, axis=1)
    distance, index = _measured(z, dataset, index)
    if len(dataset) == 1:
        distance = np.pad(distance, ((0, 0), (0, 1)), constant_values=np.inf)
        index = np.pad(index, ((0, 0), (0, 1)), constant_values=-1)
    spread, away = np.sqrt(squares / len(dataset)), np.linalg.norm(centre)
    ulp = np.finfo(np.result_type(samples, np.float32)).eps
    return Neighbours(distance, index, float(max(_SAME_POINT * spread, _ULPS * ulp * away)))


def nearest(samples: np.ndarray, dataset: Dataset) -> np.ndarray:
    """Numbers [n] of the data points nearest to finite samples [n, *event], for pictures.

    As `nearest_two` in a fraction of the time: candidates are proposed by products in float32.
    """
    centre = near_mean(dataset).astype(np.float32)
    z = samples.reshape(len(samples), -1).astype(np.float32) - centre
    count = min(_CANDIDATES, len(dataset))
    value, index = np.full((len(z), count), np.inf, np.float32), np.full((len(z), count), -1)
    for span in spans(len(dataset), rows_per_chunk(dataset.dim)):
        y = flat_rows(dataset, span).astype(np.float32, copy=False) - centre
        new = 0.5 * np.einsum("nd,nd->n", y, y) - z @ y.T
        place = np.broadcast_to(np.arange(span.start, span.stop), new.shape)
        new, place = np.hstack([value, new]), np.hstack([index, place])
        best = np.argpartition(new, count - 1, axis=1)[:, :count]
        value, index = np.take_along_axis(new, best, 1), np.take_along_axis(place, best, 1)
    return _measured(samples.reshape(len(samples), -1), dataset, index)[1][:, 0]


def nn_distance(neighbours: Neighbours) -> float:
    """Mean over samples of the Euclidean distance to the nearest data point."""
    return float(neighbours.distance[:, 0].mean())


def copy_fraction(neighbours: Neighbours) -> float:
    """Fraction of samples much nearer to one data point than to any other: d1 / d2 < 1/3.

    A sample whose second neighbour, too, is the same point up to rounding is a copy of a
    duplicate, and counts. The ratio is the criterion of Yoon et al. (2023) and Gu et al.
    (arXiv 2310.02664).
    """
    d1, d2 = neighbours.distance.T
    return float(np.mean((3 * d1 < d2) | (d2 <= neighbours.resolution)))


def _measured(z: np.ndarray, dataset: Dataset, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distances to candidates [n, k] by differences in float64: the best two (or one) of each."""
    distance = np.empty(index.shape)
    for span in spans(len(z), max(1, rows_per_chunk(dataset.dim) // (2 * index.shape[1]))):
        y = flat_rows(dataset, index[span].ravel()).reshape(*index[span].shape, -1)
        distance[span] = np.linalg.norm(y.astype(np.float64) - z[span, None], axis=2)
    nearest = np.argsort(distance, axis=1, kind="stable")[:, :2]
    return np.take_along_axis(distance, nearest, 1), np.take_along_axis(index, nearest, 1)
