"""Image files and encoded images to 8-bit arrays, for the loaders that read them."""

import io
import logging
import math
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from gdiff import memory
from gdiff.errors import UserError, require
from gdiff.progress import notice, track
from gdiff.store import cache

if TYPE_CHECKING:
    from PIL.Image import Image

log = logging.getLogger(__name__)

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif")
# Part of every cache key of decoded images: raise it when the same file gives other values.
DECODER = "decoder 2"

_GREY_MODES = {"1", "L", "LA", "La", "I", "I;16", "I;16L", "I;16B", "I;16N"}
_BATCH = 256
_ORIENTATION = 0x0112  # the EXIF tag
# How to turn an image upright, by the tag's values, as Pillow names it; from 5 on, sides swap.
_TURNS = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}
# Of chunks of a PNG file that may tell the orientation, how they begin.
_TAGS = (b"Raw profile type exif", b"XML:com.adobe.xmp")
# Pictures with no brighter value look black.
_DARK = 31


class Header(NamedTuple):
    """What a file says before it is decoded.

    Attributes:
        size: (height, width) as seen upright.
        is_grey: whether it has no colours.
        is_deep: whether its greys have more than 8 bits.
    """

    size: tuple[int, int]
    is_grey: bool
    is_deep: bool


class White(NamedTuple):
    """The values that become 255, of images of 8 bits and of deep greys."""

    shallow: int = 255
    deep: int = 65535


USUAL = White()


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
    highest, enough = np.zeros(len(files), int), {False: 2, True: 2**15}
    is_known = dict.fromkeys(enough, False)

    def look(rows: slice) -> int:
        for row in range(rows.start, rows.stop):
            if not is_known[is_deep[row]]:
                highest[row] = _highest(files[row])
                if highest[row] >= enough[is_deep[row]]:
                    is_known[is_deep[row]] = True
        return rows.stop - rows.start

    rows = batches(len(files))
    run(look, rows, threads=_threads(size), total=len(files), what=f"range of values of {name}")
    white, deep = USUAL, np.array(is_deep)
    shallow_peak, deep_peak = (int(highest[kind].max(initial=0)) for kind in (~deep, deep))
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


def pixels(
    source: Path | bytes, channels: int, resolution: int | None = None, white: White = USUAL
) -> np.ndarray:
    """Decode one image; the first frame of an animated one.

    Transparent parts become white, deep greys are rounded to 8 bits, and files are turned upright
    as their tags say, if these make sense. `resolution` crops the largest central square and
    resizes it by a Lanczos filter, as EDM and StyleGAN prepare their data: it is antialiased for
    any factor, and serves enlargement too, which area averaging does not.

    Args:
        source: a file, or the bytes of one (whose tags are then ignored).
        channels: 1 for grey, 3 for RGB.
        resolution: height and width, or None for the image's own.
        white: the values that become 255.

    Returns:
        [height, width, channels] uint8.
    """
    from PIL import Image

    with _opened(source) as image:
        flat = _flat(image, "L" if channels == 1 else "RGB", white)
        if isinstance(source, Path) and (turn := _TURNS.get(_orientation(image))):
            flat = flat.transpose(Image.Transpose[turn])
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


@contextmanager
def _opened(source: Path | bytes) -> Iterator["Image"]:
    """An image that is yet to be decoded."""
    from PIL import Image

    # Of files that it opens itself, Pillow maps some TIFF ones with height and width exchanged.
    stream = io.BytesIO(source) if isinstance(source, bytes) else source.open("rb")
    with stream, Image.open(stream) as image:
        yield image


def _header(file: Path) -> Header:
    with blamed(file), _opened(file) as image:
        width, height = image.size
        # Pillow turns TIFF files by itself, their sizes too, and decodes PNG files for tags.
        may_swap = image.format != "TIFF" and (image.format != "PNG" or _has_tags(file))
        if may_swap and _orientation(image) >= 5:
            width, height = height, width
        is_grey = image.mode in _GREY_MODES or _raw_mode(image) == "LA;16B"
        return Header((height, width), is_grey, image.mode.startswith("I"))


def _has_tags(file: Path) -> bool:
    """Whether a PNG file may tell its orientation; it may do so behind the pixels."""
    with file.open("rb", buffering=0) as stream:
        stream.seek(8)
        while len(head := stream.read(32)) >= 12:
            if head[4:8] == b"eXIf" or head[8:].startswith(_TAGS):
                return True
            stream.seek(int.from_bytes(head[:4], "big") + 12 - len(head), os.SEEK_CUR)
    return False


def _orientation(image: "Image") -> int:
    """1 … 8 by the tag; 1, which is upright, where it is missing or makes no sense."""
    try:
        value = image.getexif().get(_ORIENTATION)
        return int(value) if value in _TURNS else 1
    except Exception:  # Pillow raises many kinds on damaged tags
        return 1


def _raw_mode(image: "Image") -> str | None:
    """How the pixels of a PNG file are stored, before they are decoded."""
    return image.tile[0][3] if image.format == "PNG" and image.tile else None


def _highest(file: Path) -> int:
    """The largest value of an image."""
    with blamed(file), _opened(file) as image:
        is_deep = image.mode.startswith("I")
        return int(np.asarray(image if is_deep else _flat(image, "RGB")).max())


def batches(count: int) -> list[slice]:
    """Slices that cover range(count), each an amount of work worth a thread's while."""
    return [slice(i, min(i + _BATCH, count)) for i in range(0, count, _BATCH)]


def _flat(image: "Image", mode: str, white: White = USUAL) -> "Image":
    """The image in `mode`, "L" or "RGB", on white."""
    from PIL import Image

    _rescale_transparency(image)
    if image.mode.startswith("I"):
        deep = np.asarray(image, dtype=np.int64)
        flat = (np.clip(deep, 0, white.deep) * 255 + white.deep // 2) // white.deep
        if (clear := image.info.get("transparency")) is not None:
            flat = np.where(deep == clear, 255, flat)
        image = Image.fromarray(flat.astype(np.uint8))
    if image.has_transparency_data:
        ground = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(ground, image.convert("RGBA"))
    image = image if image.mode == mode else image.convert(mode)
    if white.shallow == 255:
        return image
    return image.point(lambda value: min(255 * value // white.shallow, 255))


def _rescale_transparency(image: "Image") -> None:
    """PNG files name a transparent value as they store it; Pillow decodes most to 8 bits."""
    raw, clear = _raw_mode(image), image.info.get("transparency")
    if clear is not None and raw in ("L;2", "L;4"):
        image.info["transparency"] = clear * {"L;2": 85, "L;4": 17}[raw]
    elif clear is not None and raw == "RGB;16B":
        image.info["transparency"] = tuple(value >> 8 for value in clear)


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
