"""Image files and encoded images to 8-bit arrays, for the loaders that read them."""

import logging
import math
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from gdiff import memory
from gdiff.dataset.imagefile import USUAL, Header, White, header, highest, pixels
from gdiff.errors import UserError, require
from gdiff.progress import notice, track
from gdiff.store import cache

log = logging.getLogger(__name__)

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif")
# Part of every cache key of decoded images: raise it when the same file gives other values.
DECODER = "decoder 2"

_BATCH = 256
# Pictures with no brighter value look black.
_DARK = 31


def one_line(error: BaseException) -> str:
    """An exception's message on one line of bearable length."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:199] + "…"


def check_resolution(resolution: int | None) -> None:
    """Raise `UserError` unless `resolution` is None or positive."""
    require(resolution is None or resolution >= 1, f"resolution={resolution} must be at least 1")


def require_room(shape: tuple[int, int, int, int], resolution: int | None) -> None:
    """Raise `UserError` if decoded images [n, height, width, channels] have no place."""
    key = f"dataset.resolution={'null' if resolution is None else resolution}"
    # One is there in several copies, as Pillow's and as numbers.
    memory.require_room(4 * math.prod(shape[1:]), key)
    room = max(memory.of_host(), memory.of_disk(cache.cache_dir()))
    memory.require_room(math.prod(shape), key, room, "the cache's disk or of memory")


def headers(files: Sequence[Path], name: str) -> list[Header]:
    """What the files say; decodes nothing, but PNG files with tags."""
    found: list[Header] = [None] * len(files)

    def look(rows: slice) -> int:
        found[rows] = map(_header, files[rows])
        return len(files[rows])

    # More than one thread only for network folders, where opening a file means waiting.
    run(look, batches(len(files)), threads=4, total=len(files), what=f"looking at {name}")
    return found


def white_of(files: Sequence[Path], is_deep: Sequence[bool], name: str, size: int) -> White:
    """White by the range of values found: 4095 for 12 bits in files of 16, 1 for masks of 0 and 1.

    Deep greys use the least number of bits that holds them all; of the images of 8 bits, masks
    alone are not taken as they are. What is not is told to the user. The files are decoded until
    both are known.

    Args:
        files: all of a data set.
        is_deep: of each, as in its header.
        name: what to call them to the user.
        size: as for `decode_into`.
    """
    found, enough = np.zeros(len(files), int), {False: 2, True: 2**15}
    is_known = dict.fromkeys(enough, False)

    def look(rows: slice) -> int:
        for row in range(rows.start, rows.stop):
            if not is_known[is_deep[row]]:
                with blamed(files[row]):
                    found[row] = highest(files[row])
                if found[row] >= enough[is_deep[row]]:
                    is_known[is_deep[row]] = True
        return rows.stop - rows.start

    rows = batches(len(files))
    run(look, rows, threads=_threads(size), total=len(files), what=f"range of values of {name}")
    white, deep = USUAL, np.array(is_deep)
    shallow_peak, deep_peak = (int(found[kind].max(initial=0)) for kind in (~deep, deep))
    if shallow_peak == 1:
        notice(f"{name}: the pictures hold 0 and 1 only, which are taken for black and white")
        white = white._replace(shallow=1)
    if 0 < deep_peak < enough[True]:
        bits = deep_peak.bit_length()
        notice(
            f"{name}: greys of 16 bits go up to {deep_peak} only, and are taken for {bits} bits: "
            f"{2**bits - 1} is white"
        )
        white = white._replace(deep=2**bits - 1)
    return white


def decode_into(
    out: np.ndarray,
    sources: Callable[[slice], Sequence[Path | bytes]],
    name: str,
    *,
    size: int,
    resolution: int | None = None,
    white: White = USUAL,
) -> None:
    """Decode images into `out` [n, height, width, channels] uint8, on several threads.

    The user is told if they are all nearly black.

    Args:
        out: is filled.
        sources: the encoded images of a slice of rows; called from the threads.
        name: what to call them to the user.
        size: numbers in an encoded image (height x width x channels), to choose the threads by.
        resolution, white: as in `pixels`.

    Raises:
        UserError: an image cannot be decoded, or has another size.
    """
    shape, brightest = out.shape[1:], np.zeros(len(out), np.uint8)

    def decode(rows: slice) -> int:
        for row, source in zip(range(rows.start, rows.stop), sources(rows), strict=True):
            label = source if isinstance(source, Path) else f"image {row} of {name}"
            with blamed(label):
                image = pixels(source, shape[-1], resolution, white)
            if image.shape != shape:
                raise UserError(
                    f"{label} is {image.shape[1]}x{image.shape[0]} where others are "
                    f"{shape[1]}x{shape[0]}: give dataset.resolution, such as {min(shape[:2])}"
                )
            out[row], brightest[row] = image, image.max()
        return rows.stop - rows.start

    run(decode, batches(len(out)), threads=_threads(size), total=len(out), what=f"decoding {name}")
    if brightest.max(initial=0) <= _DARK:
        notice(f"{name}: the brightest value is {brightest.max(initial=0)} of 255, nearly black")


def run(
    work: Callable[[slice], int], tasks: Sequence[slice], threads: int, total: int, what: str
) -> None:
    """Do the tasks on threads, showing progress; `work` returns how many items a task was.

    The first task that fails, in order, raises; those not yet started are dropped.
    """
    pool = ThreadPoolExecutor(threads)
    log.info("%s: %d images", what, total)
    # The libraries' remarks on odd files are for their own developers.
    with warnings.catch_warnings(), track(what, total, "images") as progress:
        warnings.simplefilter("ignore")
        try:
            for done in pool.map(work, tasks):
                progress.advance(done)
        finally:
            pool.shutdown(cancel_futures=True)


def _header(file: Path) -> Header:
    with blamed(file):
        return header(file)


def batches(count: int) -> list[slice]:
    """Slices that cover range(count), each an amount of work worth a thread's while."""
    return [slice(i, min(i + _BATCH, count)) for i in range(0, count, _BATCH)]


@contextmanager
def blamed(source: Path | str) -> Iterator[None]:
    """Turn whatever decoding raises into one line that names the source."""
    try:
        yield
    except UserError:
        raise
    except PermissionError as error:
        raise UserError(f"{source} cannot be read: {error.strerror}") from error
    except Exception as error:  # Pillow's plugins raise many kinds on damaged files
        reason = one_line(error)
        raise UserError(
            f"{source} is not a whole, readable image ({reason}): replace or remove it"
        ) from error


def _threads(size: int) -> int:
    """Threads for images of `size` numbers each.

    Pillow decodes without holding the interpreter's lock, but opening an image holds it for
    about 100 µs: on small images more threads only get in each other's way.
    """
    return int(np.clip(size // 6144, 1, os.cpu_count() or 1))
