"""Pixels and plots as PNG and GIF bytes."""

import io
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image

_SECONDS = 4.0  # of an animation, before it rests on the last frame
# Text as text, which other programs can change, and the same bytes for the same figure.
_SETTINGS = {"svg.fonttype": "none", "svg.hashsalt": "gdiff", "pdf.fonttype": 42}


def png(image: np.ndarray) -> bytes:
    """An image uint8 [H, W, 3] as PNG bytes."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def gif(images: list[np.ndarray]) -> bytes:
    """Images uint8 [H, W, 3] of one size as a GIF that rests on the last and starts again."""
    pages = [_paletted(image) for image in images]
    duration = int(np.clip(1000 * _SECONDS / len(pages), 40, 500))
    buffer = io.BytesIO()
    pages[0].save(
        buffer,
        format="GIF",
        save_all=True,
        append_images=pages[1:],
        duration=[duration] * (len(pages) - 1) + [2000],
        loop=0,
    )
    return buffer.getvalue()


def _paletted(image: np.ndarray) -> "Image":
    """An image in at most 256 colours; greys are kept as they are."""
    from PIL import Image

    if np.all(image == image[..., :1]):
        return Image.fromarray(image[..., 0].copy())
    return Image.fromarray(image).quantize(256, method=Image.Quantize.MEDIANCUT)


def rendered(figure: "Figure") -> np.ndarray:
    """A plot as uint8 [H, W, 3]."""
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()


def figure_png(figure: "Figure") -> bytes:
    """A plot as PNG bytes."""
    return png(rendered(figure))


def encoded(figure: "Figure", kind: str) -> bytes:
    """A plot as "png", "pdf" or "svg"."""
    if kind == "png":
        return figure_png(figure)
    import matplotlib

    content = io.BytesIO()
    date = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}[kind]
    with matplotlib.rc_context(_SETTINGS):
        figure.savefig(content, format=kind, metadata=date)
    return content.getvalue()
