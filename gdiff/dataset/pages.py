"""Memory that memory maps take: what has been read of a file counts as this process's own."""

import mmap

import numpy as np


def release(x: np.ndarray) -> None:
    """Give back the pages of a memory map; the system may keep them, but not on our account.

    What was written is not lost. Nothing happens to other arrays.
    """
    pages = getattr(x, "_mmap", None)
    if pages is not None and x.mode != "c" and hasattr(mmap, "MADV_DONTNEED"):
        pages.madvise(mmap.MADV_DONTNEED)
