"""Mean and principal directions of a data set: computed once, then kept in the cache."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from gdiff.dataset import Dataset
from gdiff.dataset.base import blocks
from gdiff.progress import track
from gdiff.store import cache

# Part of the key: to be raised when what is stored changes.
_VERSION = 1
# Stored bytes of the rows that are taken at a time; in float64 they are up to eight times that.
_BLOCK_BYTES = 4 * 2**20
# Up to this many dimensions the whole covariance is decomposed.
WHOLE_DIM = 4096
# Beyond, this many directions unless asked otherwise.
_DEFAULT_RANK = 512
# Subspace iteration: passes over the data, and directions carried along for the sake of the last.
_PASSES = 4
_SPARE = 32
# Rows of 8-bit numbers about a whole one whose products add up exactly in float32.
_EXACT_ROWS = 2 ** (24 - 14)
# Rows in whose principal directions those of all are sketched.
_SOME = 4096


class Statistics(NamedTuple):
    """First two moments of a data set in model coordinates, in float64 on the host.

    The covariance, divided by n, is U diag(λ) Uᵀ + tail (I - U Uᵀ).

    Attributes:
        mean: [d].
        eigenvalues: [r] λ, descending, none negative.
        eigenvectors: [d, r] U, with orthonormal columns.
        tail: mean variance of the d - r other directions.
    """

    mean: np.ndarray
    eigenvalues: np.ndarray
    eigenvectors: np.ndarray
    tail: float

    def digest(self) -> str:
        """Hash of all of it, for the keys of what is computed from it."""
        return cache.digest(*map(np.asarray, self))

    def truncated(self, rank: int) -> "Statistics":
        """The first `rank` directions, the rest of them sharing one variance."""
        dim, held = self.eigenvectors.shape
        if rank >= held:
            return self
        rest = self.eigenvalues[rank:].sum() + (dim - held) * self.tail
        return Statistics(
            self.mean,
            self.eigenvalues[:rank],
            self.eigenvectors[:, :rank],
            float(rest / (dim - rank)),
        )


def statistics(dataset: Dataset, rank: int | None = None) -> Statistics:
    """Mean and principal directions of all rows, from the cache where they are in it.

    Up to 4 096 dimensions the directions are exact. Beyond, they come from subspace iteration
    (Halko, Martinsson, Tropp, arXiv 0909.4061), which never forms the covariance: the leading
    eigenvalues are right to many digits, the last of them are some percent too small.

    Args:
        dataset: n ≥ 1 rows of d values; may be a memory map that is larger than memory.
        rank: number of directions, at least 1; those that there are if fewer. None for all of
            them, or for 512 if d > 4 096.
    """
    key = cache.key("statistics", _VERSION, dataset.fingerprint())
    if dataset.dim <= WHOLE_DIM:
        found = _unpacked(cache.cached(key, lambda: _packed(_whole(dataset))))
        return found if rank is None else found.truncated(rank)
    wanted = min(rank or _DEFAULT_RANK, len(dataset), dataset.dim)
    return _unpacked(cache.cached(f"{key} {wanted}", lambda: _packed(leading(dataset, wanted))))


def cost(dataset: Dataset) -> int:
    """Products of numbers that `statistics` takes, but for smaller terms."""
    n, d = len(dataset), dataset.dim
    width = d if d <= WHOLE_DIM else 2 * _PASSES * min(_DEFAULT_RANK + _SPARE, n, d)
    return n * d * width


def sketch(dataset: Dataset, products: int) -> Statistics:
    """Moments along as many directions as so many products of numbers allow, from the cache.

    The directions are principal ones of 4 096 rows; what is said of them is true of all rows: the
    mean, the variance along each of them, the total, in one pass for each of the two moments.
    """
    n, d = len(dataset), dataset.dim
    rank = int(np.clip(products // (2 * n * d), 1, min(_DEFAULT_RANK, n, d)))

    def build() -> np.ndarray:
        index = np.linspace(0, n - 1, min(n, _SOME)).astype(int)
        part = dataset.part(index)
        start = leading(part, min(rank, len(index))).eigenvectors
        return _packed(leading(dataset, start.shape[1], 1, start))

    key = cache.key("sketch", _VERSION, dataset.fingerprint(), rank)
    return _unpacked(cache.cached(key, build))


def _packed(found: Statistics) -> np.ndarray:
    """One array [r + 1, d + 1], so that the cache holds all or nothing."""
    first = np.append(found.tail, found.mean)
    return np.vstack([first, np.column_stack([found.eigenvalues, found.eigenvectors.T])])


def _unpacked(packed: np.ndarray) -> Statistics:
    return Statistics(packed[0, 1:], packed[1:, 0], packed[1:, 1:].T, float(packed[0, 0]))


def _whole(dataset: Dataset) -> Statistics:
    """All directions, from the covariance in float64."""
    mean = _mean(dataset)
    covariance = _products(dataset, mean, np.float64, _BLOCK_BYTES)
    covariance /= len(dataset) * dataset.scale**2
    with track(f"principal directions of {dataset.name}"):
        eigenvalues, eigenvectors = np.linalg.eigh(covariance)
    eigenvalues = np.maximum(eigenvalues[::-1], 0.0)
    return Statistics(_in_model(dataset, mean), eigenvalues, eigenvectors[:, ::-1], 0.0)


def covariance(dataset: Dataset) -> np.ndarray:
    """Covariance of all rows in model coordinates, divided by n: [d, d] float64, cached.

    Products of 8-bit numbers are taken in float32, which holds their sums exactly.
    """
    n, d = len(dataset), dataset.dim

    def build() -> np.ndarray:
        is_bytes = dataset.x.dtype == np.uint8
        mean = _mean(dataset)
        centre, kind = (np.full(d, 128.0), np.float32) if is_bytes else (mean, np.float64)
        size = _EXACT_ROWS * d * dataset.x.dtype.itemsize
        total = _products(dataset, centre, kind, size)
        total /= n
        total -= np.outer(mean - centre, mean - centre)
        total /= dataset.scale**2
        return total

    return cache.cached(cache.key("covariance", _VERSION, dataset.fingerprint()), build)


def _products(dataset: Dataset, centre: np.ndarray, kind: type, size: int) -> np.ndarray:
    """Σ y yᵀ of the stored rows y less the centre, in a type, of `size` bytes at a time: [d, d]."""
    total = np.zeros((dataset.dim, dataset.dim))
    with track(f"covariance of {dataset.name}", len(dataset), "rows") as progress:
        for block in blocks(dataset.x, size):
            rows = (dataset.vectors(block) - centre).astype(kind)
            total += rows.T @ rows
            progress.advance(len(rows))
    return total


def centred(dataset: Dataset) -> np.ndarray:
    """All rows less their mean, in model coordinates: [n, d] float32."""
    out, mean, done = np.empty((len(dataset), dataset.dim), np.float32), _mean(dataset), 0
    for rows in _rows(dataset):
        out[done : done + len(rows)] = (rows - mean) / dataset.scale
        done += len(rows)
    return out


def leading(
    dataset: Dataset, rank: int, passes: int = _PASSES, start: np.ndarray | None = None
) -> Statistics:
    """The first `rank` directions by subspace iteration, with products in float32; not cached.

    Own code, since that of libraries takes an array in memory.

    Args:
        dataset: as for `statistics`.
        rank: number of directions, at most n and d.
        passes: over the data.
        start: [d, rank] directions to begin with; None for random ones, and some more of them.
    """
    n, d = len(dataset), dataset.dim
    mean = _mean(dataset)
    if start is None:
        start = np.random.default_rng(0).standard_normal((d, min(rank + _SPARE, n, d)))
    image = start
    with track(f"principal directions of {dataset.name}", passes * n, "rows") as progress:
        for _ in range(passes):
            basis, total = np.linalg.qr(image)[0], 0.0
            image, narrow = np.zeros_like(basis), basis.astype(np.float32)
            for rows in _rows(dataset):
                rows = (rows - mean).astype(np.float32)
                image += rows.T @ (rows @ narrow)
                total += np.sum(rows * rows, dtype=np.float64)
                progress.advance(len(rows))
    within = basis.T @ image
    eigenvalues, turn = np.linalg.eigh((within + within.T) / 2)
    eigenvalues = np.maximum(eigenvalues[::-1][:rank], 0.0)
    # n rows vary in n - 1 directions; with as many, or all, nothing but rounding is left over.
    rest = 0.0 if rank >= min(n - 1, d) else max(total - eigenvalues.sum(), 0.0) / (d - rank)
    unit = n * dataset.scale**2
    return Statistics(
        _in_model(dataset, mean),
        eigenvalues / unit,
        basis @ turn[:, ::-1][:, :rank],
        rest / unit,
    )


def _mean(dataset: Dataset) -> np.ndarray:
    """Mean of the stored rows: [d]."""
    return sum(rows.sum(axis=0) for rows in _rows(dataset)) / len(dataset)


def _rows(dataset: Dataset) -> Iterator[np.ndarray]:
    """All stored rows in blocks: [k, d] float64."""
    for block in blocks(dataset.x, _BLOCK_BYTES):
        yield dataset.vectors(block).astype(np.float64)


def _in_model(dataset: Dataset, mean: np.ndarray) -> np.ndarray:
    return (mean - dataset.shift) / dataset.scale
