"""Rows of the Wiener filter of a data set, W = C (C + σ²)⁻¹ with C its covariance.

A row says from which inputs the filter denoises one output. For d numbers and n points W is known
from the principal directions of the points, from a table of n × n, or from one of d × d: from the
first where d is small, for the sake of others who need the directions too, else from the smaller
table. Rows are made a few at a time: none of the ways keeps W.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from gdiff.dataset import Dataset
from gdiff.dataset.statistics import (
    WHOLE_DIM,
    Statistics,
    centred,
    covariance,
    statistics,
)

# From numbers of outputs [m] to their rows of W: [m, d].
Rows = Callable[[np.ndarray], np.ndarray]
# Columns of a table that are worked on at a time.
_COLUMNS = 2048


class _Directions(NamedTuple):
    found: Statistics

    def at(self, sigma: float) -> Rows:
        gain = self.found.eigenvalues / (self.found.eigenvalues + sigma**2)
        return lambda index: (self.found.eigenvectors[index] * gain) @ self.found.eigenvectors.T


class _Points(NamedTuple):
    """By W = Yᵀ (Y Yᵀ + n σ²)⁻¹ Y, which fewer points than numbers make small.

    Attributes:
        points: [n, d] Y, less their mean; products: [n, n] Y Yᵀ.
    """

    points: np.ndarray
    products: np.ndarray

    def at(self, sigma: float) -> Rows:
        from scipy.linalg import cholesky, solve_triangular  # takes a moment

        n, d = self.points.shape
        root = cholesky(self.products + n * sigma**2 * np.eye(n), lower=True, check_finite=False)
        half = np.empty_like(self.points)
        for start in range(0, d, _COLUMNS):
            some = slice(start, start + _COLUMNS)
            half[:, some] = solve_triangular(root, self.points[:, some], lower=True)
        return lambda index: half[:, index].T @ half


class _Covariance(NamedTuple):
    """By W = 1 - σ² (C + σ²)⁻¹.

    Attributes:
        matrix: [d, d] C.
    """

    matrix: np.ndarray

    def at(self, sigma: float) -> Rows:
        from scipy.linalg.lapack import dpotrf, dpotri  # takes a moment

        d = len(self.matrix)
        inverse = np.array(self.matrix, order="F")
        inverse[np.diag_indices(d)] += sigma**2
        inverse, _ = dpotrf(inverse, lower=True, clean=False, overwrite_a=True)
        inverse, _ = dpotri(inverse, lower=True, overwrite_c=True)
        for start in range(0, d, _COLUMNS):  # LAPACK fills one half
            end = min(start + _COLUMNS, d)
            own = np.tril(inverse[start:end, start:end])
            inverse[start:end, start:end] = own + np.tril(own, -1).T
            inverse[start:end, end:] = inverse[end:, start:end].T

        def rows(index: np.ndarray) -> np.ndarray:
            out = -(sigma**2) * inverse[index]
            out[np.arange(len(index)), index] += 1
            return out

        return rows


def room(n: int, d: int) -> int:
    """Bytes of memory that `filters` and one level take, for n points of d numbers."""
    if d <= WHOLE_DIM:
        return 24 * d * d
    return 16 * d * d if n >= d else 8 * n * d + 24 * n * n


def filters(dataset: Dataset) -> Callable[[float], Rows]:
    """For a noise level the rows of W, after what is the same for all levels."""
    n, d = len(dataset), dataset.dim
    if d <= WHOLE_DIM:
        return _Directions(statistics(dataset)).at
    if n >= d:
        return _Covariance(covariance(dataset)).at
    points, products = centred(dataset), np.zeros((n, n))
    for start in range(0, d, _COLUMNS):
        some = points[:, start : start + _COLUMNS].astype(np.float64)
        products += some @ some.T
    return _Points(points, products).at
