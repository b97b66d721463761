"""Arrays that may be memory maps: read in blocks, as pages that were read count as our memory."""

import mmap
from collections.abc import Iterator

import numpy as np

_BLOCK_BYTES = 16 * 2**20


def release(x: np.ndarray) -> None:
    """Give back the pages of a memory map; the system may keep them, but not on our account.

    What was written is not lost. Nothing happens to other arrays.
    """
    pages = getattr(x, "_mmap", None)
    if pages is not None and x.mode != "c" and hasattr(mmap, "MADV_DONTNEED"):
        pages.madvise(mmap.MADV_DONTNEED)


def blocks(x: np.ndarray, size: int = _BLOCK_BYTES) -> Iterator[slice]:
    """Slices over the rows of `x`, each of about `size` bytes of it.

    When the next one is asked for, the pages of a memory map that were read are given back.
    """
    rows = max(1, size // max(1, x.nbytes // max(1, len(x))))
    for start in range(0, len(x), rows):
        yield slice(start, min(start + rows, len(x)))
        release(x)


def first_bad_row(x: np.ndarray) -> int | None:
    """The first row of `x` that holds NaN or infinity, or None; reads a memory map in blocks."""
    if x.dtype.kind != "f":
        return None
    for block in blocks(x):
        finite = np.isfinite(x[block])
        if not finite.all():
            return block.start + int(np.argmin(finite.reshape(len(finite), -1).all(axis=1)))
    return None
