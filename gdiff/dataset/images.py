"""Image files and encoded images to 8-bit arrays, for the loaders that read them."""

import io
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gdiff.errors import UserError, require
from gdiff.progress import track

if TYPE_CHECKING:
    from PIL.Image import Image

log = logging.getLogger(__name__)

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif")
# Part of every cache key of decoded images: raise it when the same file gives other values.
DECODER = "decoder 1"

_GREY_MODES = {"1", "L", "LA", "La", "I", "I;16", "I;16L", "I;16B", "I;16N"}
_ORIENTATION = 0x0112  # the EXIF tag
_BATCH = 256


def one_line(error: BaseException) -> str:
    """An exception's message on one line of bearable length."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:199] + "…"


def check_resolution(resolution: int | None) -> None:
    """Raise `UserError` unless `resolution` is None or positive."""
    require(resolution is None or resolution >= 1, f"resolution={resolution} must be at least 1")


def headers(files: Sequence[Path], name: str) -> list[tuple[tuple[int, int], bool]]:
    """(height, width) as seen upright, and whether it is grey, of each file; decodes nothing."""
    found = [((0, 0), False)] * len(files)

    def look(rows: slice) -> int:
        found[rows] = map(_header, files[rows])
        return len(files[rows])

    # More than one thread only for network folders, where opening a file means waiting.
    run(look, batches(len(files)), threads=4, total=len(files), what=f"looking at {name}")
    return found


def pixels(source: Path | bytes, channels: int, resolution: int | None = None) -> np.ndarray:
    """Decode one image; the first frame of an animated one.

    Transparent parts become white, 16-bit values are rounded to 8 bits, and photographs (JPEG
    and WebP files) are turned upright as their EXIF data says. `resolution` crops the largest
    central square and resizes it by a Lanczos filter, as EDM and StyleGAN prepare their data: it
    is antialiased for any factor, and serves enlargement too, which area averaging does not.

    Args:
        source: a file, or the bytes of one (whose EXIF data is then ignored).
        channels: 1 for grey, 3 for RGB.
        resolution: height and width, or None for the image's own.

    Returns:
        [height, width, channels] uint8.
    """
    from PIL import Image, ImageOps

    with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
        if isinstance(source, Path) and _turns(image):
            ImageOps.exif_transpose(image, in_place=True)
        flat = _flat(image, "L" if channels == 1 else "RGB")
        if resolution is not None and flat.size != (resolution, resolution):
            side = min(flat.size)
            left, top = (flat.width - side) // 2, (flat.height - side) // 2
            # Cut first: resizing a box of the image would let its surroundings shine in.
            square = flat.crop((left, top, left + side, top + side))
            flat = square.resize((resolution, resolution), Image.Resampling.LANCZOS)
        return np.asarray(flat).reshape(flat.height, flat.width, channels)


def decode_into(
    out: np.ndarray,
    sources: Callable[[slice], Sequence[Path | bytes]],
    name: str,
    *,
    size: int,
    resolution: int | None = None,
) -> None:
    """Decode images into `out` [n, height, width, channels] uint8, on several threads.

    Args:
        out: is filled.
        sources: the encoded images of a slice of rows; called from the threads.
        name: what to call them to the user.
        size: numbers in an encoded image (height x width x channels), to choose the threads by.
        resolution: as in `pixels`.

    Raises:
        UserError: an image cannot be decoded, or has another size.
    """

    shape = out.shape[1:]

    def decode(rows: slice) -> int:
        for row, source in zip(range(rows.start, rows.stop), sources(rows), strict=True):
            label = source if isinstance(source, Path) else f"image {row} of {name}"
            with blamed(label):
                image = pixels(source, shape[-1], resolution)
            if image.shape != shape:
                raise UserError(
                    f"{label} is {image.shape[1]}x{image.shape[0]} where others are "
                    f"{shape[1]}x{shape[0]}: give dataset.resolution, such as {min(shape[:2])}"
                )
            out[row] = image
        return rows.stop - rows.start

    run(decode, batches(len(out)), threads=_threads(size), total=len(out), what=f"decoding {name}")


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


def _header(file: Path) -> tuple[tuple[int, int], bool]:
    from PIL import Image

    with blamed(file), Image.open(file) as image:
        width, height = image.size
        if _turns(image) and image.getexif().get(_ORIENTATION, 1) >= 5:
            width, height = height, width
        return (height, width), image.mode in _GREY_MODES


def batches(count: int) -> list[slice]:
    """Slices that cover range(count), each an amount of work worth a thread's while."""
    return [slice(i, min(i + _BATCH, count)) for i in range(0, count, _BATCH)]


def _flat(image: "Image", mode: str) -> "Image":
    """The image in `mode`, "L" or "RGB", on white."""
    from PIL import Image

    if image.mode.startswith("I"):
        wide = np.clip(np.asarray(image, dtype=np.int64), 0, 65535)
        image = Image.fromarray(((wide + 128) // 257).astype(np.uint8))
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return image if image.mode == mode else image.convert(mode)


def _turns(image: "Image") -> bool:
    """Whether to look for an orientation: cameras write JPEG (or MPO) and WebP."""
    return image.format in ("JPEG", "MPO", "WEBP")


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
