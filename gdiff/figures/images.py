"""Images side by side."""

import math
from pathlib import Path

import numpy as np

_GAP = 2  # pixels between images
_APART = 12  # pixels between blocks of them
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
    return _to_rgb(images).repeat(factor, axis=1).repeat(factor, axis=2)


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
    import matplotlib
    from PIL import Image, ImageDraw, ImageFont

    font_file = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    size = 16
    canvas = Image.new("RGB", (max(grid.shape[1], least), grid.shape[0] + 2 * size), "white")
    canvas.paste(Image.fromarray(grid), (0, 2 * size))
    font = ImageFont.truetype(str(font_file), size)
    ImageDraw.Draw(canvas).text((_GAP + 4, size // 2 - 2), caption, font=font, fill="#222222")
    return np.asarray(canvas)


def _to_rgb(images: np.ndarray) -> np.ndarray:
    """Images [n, h, w, c] in [-1, 1] as uint8 [n, h, w, 3]."""
    channels = images.shape[-1]
    if channels == 2:
        images = images.mean(-1, keepdims=True)
    images = np.nan_to_num(np.clip(images[..., :3], -1, 1), nan=0.0)
    return np.broadcast_to(np.round(127.5 * (images + 1)).astype(np.uint8), (*images.shape[:-1], 3))
