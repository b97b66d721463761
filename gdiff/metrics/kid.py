"""Kernel distance between two sets of features."""

from typing import NamedTuple

import numpy as np

from gdiff.metrics.chunks import spans

_BLOCK = 2048


class KernelDistance(NamedTuple):
    """An estimate from n samples.

    Attributes:
        value: unbiased squared MMD.
        error: its standard error, over draws of the samples; NaN of two of them.
    """

    value: float
    error: float


class KernelReference:
    """The set that others are compared with; pairs within it are summed once."""

    def __init__(self, features: np.ndarray) -> None:
        """Take features [m, r], m ≥ 2, whose mean square should be 1."""
        self._features, m = features, len(features)
        self._within = float(_sums_within(features).sum() / (m * (m - 1)))

    def distance(self, features: np.ndarray) -> KernelDistance:
        """Unbiased squared MMD with the polynomial kernel k(x, y) = (x·y / r + 1)³.

        The kernel inception distance (Bińkowski et al., arXiv 1801.01401) on any features; give
        features whose mean square is 1, as the kernel has a length scale. Over all pairs, block
        by block, rather than over random subsets. Without bias it is negative about half the time
        for sets of the same law. The standard error is the delete-one jackknife's over the
        samples; the reference stays what it is.

        Args:
            features: [n, r], n ≥ 2.
        """
        n, m = len(features), len(self._features)
        own, across = _sums_within(features), _sums(features, self._features)
        cross = across.sum() / (n * m)
        value = float(own.sum() / (n * (n - 1)) + self._within - 2 * cross)
        if n == 2:
            return KernelDistance(value, float("nan"))
        without = (own.sum() - 2 * own) / ((n - 1) * (n - 2))
        without -= 2 * (across.sum() - across) / ((n - 1) * m)
        return KernelDistance(value, float(np.sqrt((n - 1) * np.var(without))))


def _sums_within(a: np.ndarray) -> np.ndarray:
    """Σ_{j ≠ i} k(a_i, a_j): [n]."""
    return _sums(a, a) - (np.einsum("ij,ij->i", a, a) / a.shape[1] + 1) ** 3


def _sums(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Σ_j k(a_i, b_j): [n]."""
    sums = np.zeros(len(a))
    for i in spans(len(a), _BLOCK):
        for j in spans(len(b), _BLOCK):
            kernel = a[i] @ b[j].T / a.shape[1] + 1
            sums[i] += np.einsum("ij,ij,ij->i", kernel, kernel, kernel)
    return sums
