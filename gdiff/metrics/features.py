"""Distances in features: principal components of the data are a space without a network."""

import abc
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol
from weakref import WeakKeyDictionary

import numpy as np

from gdiff.dataset.base import Dataset
from gdiff.dataset.statistics import leading
from gdiff.metrics.base import Metric
from gdiff.metrics.chunks import flat_chunks, rows_per_chunk, spans
from gdiff.metrics.frechet import frechet_distance
from gdiff.metrics.kid import KernelReference
from gdiff.metrics.null import null_draws, random_points, spread_of, with_null
from gdiff.metrics.support import Support, support

_PASSES = 5


class FeatureSpace(Protocol):
    """Features of samples and of data.

    Attributes:
        scale: root mean square of a feature over the data.
    """

    scale: float

    def of_samples(self, samples: np.ndarray) -> np.ndarray:
        """Features of samples [n, *event] in model coordinates: [n, r] float64."""

    def of_data(self, dataset: Dataset, index: np.ndarray) -> np.ndarray:
        """Features of data points `index`: [len(index), r] float64."""


class Reference(NamedTuple):
    """A space, and features in it of the data points that samples are compared with.

    Attributes:
        space: the space.
        index: [m] which data points.
        features: [m, r] theirs.
    """

    space: FeatureSpace
    index: np.ndarray
    features: np.ndarray


# What is kept while a data set is in use, by the options of the metrics.
_KNOWN: WeakKeyDictionary[Dataset, dict[tuple, Reference]] = WeakKeyDictionary()


@dataclass(frozen=True, kw_only=True)
class InFeatures(Metric):
    """A metric of features.

    Attributes:
        data_points: at most so many, drawn at random, for the features and as the reference.
        seed: of the draw.
    """

    data_points: int
    seed: int

    fewest_points: ClassVar[int] = 2

    @abc.abstractmethod
    def options(self) -> tuple:
        """What the space depends on besides the data points."""

    @abc.abstractmethod
    def fit(self, dataset: Dataset, index: np.ndarray) -> FeatureSpace:
        """The space, by data points `index` [m]."""

    def reference(self, dataset: Dataset) -> Reference:
        """The space and the features of data points, made once for each data set."""
        known = _KNOWN.setdefault(dataset, {})
        key = (*self.options(), self.data_points, self.seed)
        if key not in known:
            index = np.arange(len(dataset))
            if len(dataset) > self.data_points:
                rng = np.random.default_rng(self.seed)
                index = np.sort(rng.choice(len(dataset), self.data_points, replace=False))
            space = self.fit(dataset, index)
            known[key] = Reference(space, index, space.of_data(dataset, index))
        return known[key]


@dataclass(frozen=True, kw_only=True)
class FeatureDistances(InFeatures):
    """Distances between samples and data in a space, and those of as many data points."""

    fewest_samples: ClassVar[int] = 2

    def compute(self, samples: np.ndarray, dataset: Dataset) -> dict[str, float]:
        """Squared Fréchet distance, and kernel distance on features of mean square 1."""
        space, index, theirs = self.reference(dataset)
        ours, kernel = space.of_samples(samples), KernelReference(theirs / space.scale)
        kid, n = kernel.distance(ours / space.scale), len(samples)
        null = []
        for draw in range(null_draws(n)):
            drawn = random_points(dataset, n, self.seed, draw)
            if len(index) == len(dataset):
                features = theirs[drawn]
            else:
                features = space.of_data(dataset, drawn)
            of_kernel = kernel.distance(features / space.scale)
            null.append((frechet_distance(features, theirs), of_kernel.value))
        frechet_null, kid_null = map(spread_of, np.transpose(null))
        values = (frechet_distance(ours, theirs), *frechet_null, kid.value, *kid_null, kid.error)
        return dict(zip(self.names, values, strict=True))


def names_in(space: str) -> tuple[str, ...]:
    """Names of the distances in a space."""
    kid = f"kid_{space}"
    return (*with_null(f"frechet_{space}"), *with_null(kid), f"{kid}_se")


@dataclass(frozen=True, kw_only=True)
class InPca(InFeatures):
    """A metric of principal components.

    Attributes:
        features: components, as in `fit_pca`.
    """

    features: int

    def options(self) -> tuple:
        """The number of components."""
        return ("pca", self.features)

    def fit(self, dataset: Dataset, index: np.ndarray) -> "PcaFeatures":
        """Principal components of these points."""
        return fit_pca(dataset, index, self.features)


@dataclass(frozen=True, kw_only=True)
class PcaDistances(InPca, FeatureDistances):
    """Distances in principal components of the data."""

    names: ClassVar[tuple[str, ...]] = names_in("pca")


@dataclass(frozen=True, kw_only=True)
class PcaSupport(InPca):
    """Precision, recall, density and coverage in principal components of the data.

    Attributes:
        neighbours: k, of the balls.
    """

    neighbours: int

    names: ClassVar[tuple[str, ...]] = Support._fields

    @property
    def fewest_samples(self) -> int:
        """One more than neighbours."""
        return self.neighbours + 1

    fewest_points = fewest_samples

    def compute(self, samples: np.ndarray, dataset: Dataset) -> dict[str, float]:
        """Of as many samples as data points: all of the smaller set, some of the other one."""
        k, (space, _, theirs) = self.neighbours, self.reference(dataset)
        ours = space.of_samples(samples)
        n, rng = min(len(ours), len(theirs)), np.random.default_rng(self.seed)
        ours, theirs = (x[np.sort(rng.choice(len(x), n, replace=False))] for x in (ours, theirs))
        return support(ours, theirs, k)._asdict()


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
