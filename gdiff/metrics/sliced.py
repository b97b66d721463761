"""Sliced Wasserstein-2 distance, with the value of a perfect sampler that gives it a scale.

SW2² is the mean over directions θ, uniform on the unit sphere, of the squared Wasserstein-2
distance between the two sets projected on θ (Rabin et al. 2011; Bonneel et al. 2015). That is
exact, also for sets of different sizes: ∫_0^1 (F⁻¹(u) - G⁻¹(u))² du over the two quantile
functions, step functions with jumps at i/n and j/m, whose values are the sorted points.

There is no factor for the dimension: a shift by v gives ‖v‖ / sqrt(dim), the root mean square
shift of a coordinate, so that numbers compare between data sets.
"""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np

from gdiff.dataset.base import Dataset
from gdiff.metrics.base import Metric
from gdiff.metrics.chunks import flat_chunks, near_mean, rows_per_chunk, spans
from gdiff.metrics.null import null_draws, random_points, spread_of, with_null

_PROJECTED_BYTES = 256 * 2**20
_BYTES_PER_POINT = 32  # of a sample or data point on one direction, with all intermediate arrays


@dataclass(frozen=True, kw_only=True)
class SlicedW2(Metric):
    """The samples' distance from the data, and that of as many points drawn from the data.

    Attributes:
        projections: random directions.
        data_points: of the reference, at most; drawn at random where the data have more.
        seed: of both.
    """

    projections: int
    data_points: int
    seed: int

    names: ClassVar[tuple[str, ...]] = with_null("sliced_w2")
    fewest_points: ClassVar[int] = 2

    def compute(self, samples: np.ndarray, dataset: Dataset) -> dict[str, float]:
        """The distance, and mean and spread of the null; see `sliced_w2_with_null`."""
        options = (self.projections, self.seed, self.data_points)
        found, null = sliced_w2_with_null(samples, dataset, *options, null_draws(len(samples)))
        return dict(zip(self.names, (found, *spread_of(null)), strict=True))


class Pairing(NamedTuple):
    """How W2 moves n points on a line, in order, to m points.

    Attributes:
        source: [k] index of the point that mass is taken from.
        target: [k] index of the point that it is put on.
        weight: [k] how much; the sum is 1.
    """

    source: np.ndarray
    target: np.ndarray
    weight: np.ndarray


def sliced_w2_with_null(
    samples: np.ndarray,
    dataset: Dataset,
    projections: int,
    seed: int,
    data_points: int,
    draws: int = 1,
) -> tuple[float, np.ndarray]:
    """Distance of the samples from the data, and of as many random data points from the data.

    Returned are SW2(samples, A) and [draws] of SW2(B, A), over the same directions. A is the data,
    or `data_points` of them drawn without replacement where there are more. B are n = len(samples)
    data points drawn with replacement: the output of a perfect sampler of the data set. Samples
    as good as that give about these numbers; copies of few data points give more.

    Args:
        samples: [n, *event] finite, model coordinates, n ≥ 1.
        dataset: what they are compared with.
        projections: number of random directions.
        seed: of the directions and of A and B.
        data_points: at most so many points in A.
        draws: of B.
    """
    # All are moved alike, which changes no distance, by a vector of the type of the rows.
    centre = near_mean(dataset).astype(np.result_type(dataset.x, np.float32))
    vectors = (samples.reshape(len(samples), -1) - centre).astype(np.float32)
    n, m = len(samples), min(data_points, len(dataset))
    rng = np.random.default_rng(seed)
    drawn = [np.sort(rng.integers(len(dataset), size=n))]
    drawn += [random_points(dataset, n, seed, draw) for draw in range(1, draws)]
    reference = np.arange(m)
    if m < len(dataset):
        reference = np.sort(rng.choice(len(dataset), m, replace=False))
    pairing = _pairing(n, m)

    group = min(_PROJECTED_BYTES // (_BYTES_PER_POINT * (n + m)), rows_per_chunk(dataset.dim))
    squares, null_squares = [], [[] for _ in drawn]
    for span in spans(projections, max(1, group)):
        directions = _directions(rng, span.stop - span.start, dataset.dim)
        target = _projected_data(dataset, reference, centre, directions)
        squares.append(_squared_w2(_projected(vectors, directions), target, pairing))
        for index, found in zip(drawn, null_squares, strict=True):
            null = _projected_data(dataset, index, centre, directions)
            found.append(_squared_w2(null, target, pairing))
    distance, *null = (float(np.sqrt(np.concatenate(s).mean())) for s in (squares, *null_squares))
    return distance, np.array(null)


def _directions(rng: np.random.Generator, count: int, dim: int) -> np.ndarray:
    """Uniform points [count, dim] of the unit sphere, float32."""
    normal = rng.standard_normal((count, dim))
    return (normal / np.linalg.norm(normal, axis=1, keepdims=True)).astype(np.float32)


def _projected(vectors: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """Inner products, sorted along each direction: [projections, n]."""
    return np.sort(directions @ vectors.T, axis=1)


def _projected_data(
    dataset: Dataset, index: np.ndarray, centre: np.ndarray, directions: np.ndarray
) -> np.ndarray:
    """The same for data points `index` less the centre, converted chunk by chunk."""
    products = np.empty((len(directions), len(index)), np.float32)
    for span, rows in flat_chunks(dataset, index):
        products[:, span] = directions @ (rows - centre).astype(np.float32, copy=False).T
    return np.sort(products, axis=1)


def _pairing(n: int, m: int) -> Pairing:
    """The pairing of n with m points: both step functions on the pieces where both are constant.

    In units of 1 / (n m) all jumps are whole numbers.
    """
    ends = np.union1d(m * np.arange(1, n + 1), n * np.arange(1, m + 1))
    starts = np.concatenate([[0], ends[:-1]])
    return Pairing(starts // m, starts // n, (ends - starts) / (n * m))


def _squared_w2(a: np.ndarray, b: np.ndarray, pairing: Pairing) -> np.ndarray:
    """Squared W2 [projections] between sorted sets [projections, n] and [projections, m]."""
    gaps = a[:, pairing.source].astype(np.float64)
    gaps -= b[:, pairing.target]
    return np.square(gaps, out=gaps) @ pairing.weight
