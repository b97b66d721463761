"""One image file: what it says of itself, and its pixels as 8-bit numbers."""

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

_GREY_MODES = {"1", "L", "LA", "La", "I", "I;16", "I;16L", "I;16B", "I;16N"}
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


@contextmanager
def _opened(source: Path | bytes) -> Iterator["Image"]:
    """An image that is yet to be decoded."""
    from PIL import Image

    # Of files that it opens itself, Pillow maps some TIFF ones with height and width exchanged.
    stream = io.BytesIO(source) if isinstance(source, bytes) else source.open("rb")
    with stream, Image.open(stream) as image:
        yield image


def header(file: Path) -> Header:
    """What a file says of itself."""
    with _opened(file) as image:
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


def highest(file: Path) -> int:
    """The largest value of an image."""
    with _opened(file) as image:
        is_deep = image.mode.startswith("I")
        return int(np.asarray(image if is_deep else _flat(image, "RGB")).max())


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
