"""Images side by side."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont

_GAP = 2  # pixels between images
_APART = 12  # pixels between blocks of them
_NAME = 17  # pixels that the name of a class takes
_WHITE, _BORDER = 255, 200


def image_grid(samples: np.ndarray, max_images: int = 64, side: int = 576) -> np.ndarray:
    """The first images side by side in a nearly square grid: uint8 [H, W, 3].

    Every image has a light grey border, which tells where it ends if it is white or black.
    Values are clipped to [-1, 1]; NaN is grey. Small images are magnified by a whole factor (at
    most to 256 pixels), without smoothing. Of more than three channels the first three are shown,
    two are averaged. Samples are [n, h, w, c], n ≥ 1; small images are magnified to about `side`
    pixels in all.
    """
    samples = samples[:max_images]
    n, h, w, _ = samples.shape
    columns = min(n, math.ceil(math.sqrt(n * h / w)))
    rows = _in_rows(_magnified(samples, columns, side), columns)
    return _framed(rows.reshape(-1, *rows.shape[2:]))


def class_grid(samples: np.ndarray, names: Sequence[str], side: int = 576) -> np.ndarray:
    """Images [n, h, w, c] of the classes `names` [n], class by class: uint8 [H, W, 3].

    A class has a row, or a block of rows if it has many images; where images are few, several
    classes share a row. What of a name there is room for stands above.
    """
    n, h, w, _ = samples.shape
    places = {name: [k for k in range(n) if names[k] == name] for name in dict.fromkeys(names)}
    most, columns = max(map(len, places.values())), math.ceil(math.sqrt(n * h / w))
    wide = min(most, columns)
    across = min(len(places), max(1, round(columns / wide)))
    images = _magnified(samples, across * wide, side)
    blocks = [_block(images[own], name, -(-most // wide), wide) for name, own in places.items()]
    blocks += [np.full_like(blocks[0], _WHITE)] * (-len(blocks) % across)
    rows = [np.hstack(blocks[first : first + across]) for first in range(0, len(blocks), across)]
    return np.vstack(rows)


def _block(images: np.ndarray, name: str, rows: int, columns: int) -> np.ndarray:
    """Images uint8 of one class below its name, with white to the right and below."""
    found = _in_rows(images, columns)
    grid = _framed(found.reshape(-1, *found.shape[2:]))
    missing = (rows - len(found)) * found.shape[1]
    padding = ((_NAME, missing + _APART // 2), (0, _APART // 2), (0, 0))
    grid = np.pad(grid, padding, constant_values=_WHITE)
    room, font = grid.shape[1] - _APART, _font(_NAME - 5)
    fitting = (text for text in _shortened(name) if font.getlength(text) <= room)
    return _written(grid, (_GAP, 0), next(fitting, ""), font)


def _shortened(name: str) -> Iterator[str]:
    """The name, and ever less of it."""
    yield name
    for end in range(len(name) - 1, 1, -1):
        yield f"{name[:end].rstrip()}…"


def paired_grid(upper: np.ndarray, lower: np.ndarray, side: int = 768) -> np.ndarray:
    """Images [n, h, w, c], each above its partner, in blocks of two rows: uint8 [H, W, 3].

    Blocks are apart from each other; all else is as in `image_grid`.
    """
    n, h, w, _ = upper.shape
    columns = min(n, math.ceil(math.sqrt(2 * n * h / w)))
    blocks = [_in_rows(_magnified(half, columns, side), columns) for half in (upper, lower)]
    blocks = [_framed(np.concatenate(block)) for block in zip(*blocks, strict=True)]
    apart = np.full((_APART, blocks[0].shape[1], 3), _WHITE, np.uint8)
    return np.concatenate([part for block in blocks for part in (block, apart)][:-1])


def _magnified(images: np.ndarray, columns: int, side: int) -> np.ndarray:
    """Images as uint8 [n, h, w, 3], so large that so many columns are about `side` pixels wide."""
    factor = max(1, round(min(side / columns, 256) / images.shape[2]))
    return to_rgb(images).repeat(factor, axis=1).repeat(factor, axis=2)


def _in_rows(images: np.ndarray, columns: int) -> np.ndarray:
    """Images [n, h, w, 3] with borders, `columns` side by side: [rows, high, wide, 3].

    The last row is filled with white.
    """
    n, h, w, _ = images.shape
    rows, high, wide = math.ceil(n / columns), h + _GAP, w + _GAP
    tiles = np.full((rows * columns, high, wide, 3), _BORDER, np.uint8)
    tiles[:n, :-_GAP, :-_GAP] = images
    tiles[n:] = _WHITE
    tiles = tiles.reshape(rows, columns, high, wide, 3).swapaxes(1, 2)
    return tiles.reshape(rows, high, columns * wide, 3)


def _framed(grid: np.ndarray) -> np.ndarray:
    """With a border above and to the left."""
    return np.pad(grid, ((_GAP, 0), (_GAP, 0), (0, 0)), constant_values=_BORDER)


def captioned(grid: np.ndarray, caption: str, least: int = 110) -> np.ndarray:
    """The grid with a line of text above it, which needs at least so many pixels."""
    size = 16
    padding = ((2 * size, 0), (0, max(0, least - grid.shape[1])), (0, 0))
    canvas = np.pad(grid, padding, constant_values=_WHITE)
    return _written(canvas, (_GAP + 4, size // 2 - 2), caption, _font(size))


def _font(size: int) -> "FreeTypeFont":
    import matplotlib
    from PIL import ImageFont

    file = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    return ImageFont.truetype(str(file), size)


def _written(
    image: np.ndarray, place: tuple[int, int], text: str, font: "FreeTypeFont"
) -> np.ndarray:
    """The image with a text whose upper left corner is at `place`, in pixels."""
    from PIL import Image, ImageDraw

    canvas = Image.fromarray(image)
    ImageDraw.Draw(canvas).text(place, text, font=font, fill="#222222")
    return np.asarray(canvas)


def to_rgb(images: np.ndarray) -> np.ndarray:
    """Images [n, h, w, c] in [-1, 1] as uint8 [n, h, w, 3]."""
    channels = images.shape[-1]
    if channels == 2:
        images = images.mean(-1, keepdims=True)
    images = np.nan_to_num(np.clip(images[..., :3], -1, 1), nan=0.0)
    return np.broadcast_to(np.round(127.5 * (images + 1)).astype(np.uint8), (*images.shape[:-1], 3))
