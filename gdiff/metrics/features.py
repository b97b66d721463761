"""Principal components of the data: a small feature space without a trained network."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gdiff.dataset.base import Dataset
from gdiff.dataset.statistics import leading
from gdiff.metrics.base import Metric
from gdiff.metrics.chunks import flat_chunks, rows_per_chunk, spans
from gdiff.metrics.frechet import frechet_distance
from gdiff.metrics.kid import kernel_distance

_PASSES = 5


@dataclass(frozen=True, kw_only=True)
class FeatureDistances(Metric):
    """Distances between samples and data in principal components of the data.

    Attributes:
        features: components, as in `fit_pca`.
        data_points: at most so many, drawn at random, for the components and as the reference.
        seed: of the draw.
    """

    features: int
    data_points: int
    seed: int

    names: ClassVar[tuple[str, ...]] = ("frechet_pca", "kid_pca")
    fewest_samples: ClassVar[int] = 2
    fewest_points: ClassVar[int] = 2

    def compute(self, samples: np.ndarray, dataset: Dataset) -> dict[str, float]:
        """Squared Fréchet distance, and kernel distance on features of mean square 1."""
        index = np.arange(len(dataset))
        if len(dataset) > self.data_points:
            rng = np.random.default_rng(self.seed)
            index = np.sort(rng.choice(len(dataset), self.data_points, replace=False))
        pca = fit_pca(dataset, index, self.features)
        ours, theirs = pca.of_samples(samples), pca.of_data(dataset, index)
        values = (
            frechet_distance(ours, theirs),
            kernel_distance(ours / pca.scale, theirs / pca.scale),
        )
        return dict(zip(self.names, values, strict=True))


@dataclass(frozen=True, eq=False)
class PcaFeatures:
    """Coordinates along the leading principal directions of a data set.

    Attributes:
        mean: [dim] mean of the points used, float64.
        basis: [dim, r] orthonormal directions, largest variance first.
        variance: [r] variance of the points used along each of them.
    """

    mean: np.ndarray
    basis: np.ndarray
    variance: np.ndarray

    @property
    def scale(self) -> float:
        """Root mean square of a feature over the data; 1 where the data do not vary."""
        return float(np.sqrt(self.variance.mean())) or 1.0

    def of_samples(self, samples: np.ndarray) -> np.ndarray:
        """Features of samples [n, *event] in model coordinates: [n, r] float64."""
        vectors = samples.reshape(len(samples), -1)
        features = np.empty((len(vectors), self.basis.shape[1]))
        for span in spans(len(vectors), rows_per_chunk(vectors.shape[1])):
            features[span] = self._of(vectors[span])
        return features

    def of_data(self, dataset: Dataset, index: np.ndarray) -> np.ndarray:
        """Features of data points `index`: [len(index), r] float64."""
        features = np.empty((len(index), self.basis.shape[1]))
        for span, rows in flat_chunks(dataset, index):
            features[span] = self._of(rows)
        return features

    def _of(self, vectors: np.ndarray) -> np.ndarray:
        """Products in float32 of differences in float64."""
        return (vectors - self.mean).astype(np.float32) @ self.basis


def fit_pca(dataset: Dataset, index: np.ndarray, count: int) -> PcaFeatures:
    """Leading principal components of the data points `index`.

    By subspace iteration, never a dim × dim matrix. Exact up to rounding where dim ≤ count + 32;
    elsewhere the directions kept hold all but about 1e-4 of the variance that the exact ones hold
    (measured on MNIST and CIFAR-10).

    Args:
        dataset: where the points are.
        index: [n] which points to use, n ≥ 2; they are copied as they are stored.
        count: features wanted; there are min(count, dim, n - 1).
    """
    n = len(index)
    part = dataset.part(index)
    found = leading(part, min(count, dataset.dim, n - 1), _PASSES)
    return PcaFeatures(
        mean=found.mean,
        basis=found.eigenvectors.astype(np.float32),
        variance=found.eigenvalues * n / (n - 1),
    )
