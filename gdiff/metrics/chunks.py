"""Walking over a data set in pieces that fit in memory."""

from collections.abc import Iterator

import numpy as np

from gdiff.dataset.base import Dataset

_CHUNK_BYTES = 32 * 2**20
_MAX_ROWS = 8192


def rows_per_chunk(dim: int) -> int:
    """How many float32 points of `dim` coordinates to hold at a time (at most 32 MiB)."""
    return int(np.clip(_CHUNK_BYTES // (4 * dim), 1, _MAX_ROWS))


def spans(count: int, size: int) -> Iterator[slice]:
    """Slices of at most `size` that cover range(count) in order."""
    return (slice(start, min(start + size, count)) for start in range(0, count, size))


def evenly(count: int, most: int) -> np.ndarray:
    """At most `most` indices below `count`, evenly spaced, with the first and the last."""
    return np.linspace(0, count - 1, min(count, most)).round().astype(int)


def flat_rows(dataset: Dataset, index: slice | np.ndarray) -> np.ndarray:
    """Points `index` in model coordinates as vectors: [k, dim], types as of `Dataset.rows`."""
    return dataset.rows(index).reshape(-1, dataset.dim)


def near_mean(dataset: Dataset) -> np.ndarray:
    """Mean of some rows, in model coordinates: [dim] float64.

    Whatever is measured relative to it keeps its digits also where the data lie far from zero.
    """
    some = evenly(len(dataset), rows_per_chunk(dataset.dim))
    return flat_rows(dataset, some).mean(0, dtype=np.float64)


def flat_chunks(dataset: Dataset, index: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Points `index` [n] chunk by chunk: (positions within `index`, vectors [k, dim])."""
    for span in spans(len(index), rows_per_chunk(dataset.dim)):
        yield span, flat_rows(dataset, index[span])
