"""A sampler at work, as an animation."""

from functools import partial

import numpy as np

from gdiff.dataset.base import Dataset
from gdiff.figures.encode import gif, rendered
from gdiff.figures.images import captioned, image_grid
from gdiff.figures.points import (
    DRAWN,
    density,
    edges_of,
    histogram_figure,
    limits_of,
    plane_of,
    scatter_figure,
    thin_rows,
)
from gdiff.metrics.chunks import rows_per_chunk

_SHRUNK = "shrunk with the noise"
_MOST_BYTES = 6_000_000  # of a file: more is slow to load
_FEWEST = 8  # frames that are left


def spread_of(dataset: Dataset) -> float:
    """Standard deviation of a coordinate, about; 1 where the data do not vary."""
    return float(np.sqrt(_thin(dataset).var(0).mean())) or 1.0


def _thin(dataset: Dataset) -> np.ndarray:
    return thin_rows(dataset, min(DRAWN, rows_per_chunk(dataset.dim)))


def telling(sigmas: np.ndarray, spread: float, most: int) -> list[int]:
    """Places of the levels that a moving picture shows, the first and the last among them.

    A state shows the data by the share s / sqrt(s² + σ²) of its spread, s that of the data. The
    places are about evenly spaced in its angle, arctan(s / σ): of noise one frame is like another,
    and so are those whose noise cannot be seen.

    Args:
        sigmas: [K] decreasing noise levels, the last maybe 0.
        spread: s.
        most: places wanted.
    """
    angle = np.arctan2(spread, sigmas)
    wanted = np.linspace(angle[0], angle[-1], most)
    nearest = np.abs(angle - wanted[:, None]).argmin(axis=1)
    return np.unique(nearest).tolist()


def trajectory_gif(
    frames: np.ndarray, dataset: Dataset, sigmas: np.ndarray, max_images: int = 64
) -> bytes:
    """The states of a sampler from noise to samples, as an animated GIF.

    Every state z = x_0 + σε is shrunk about the mean of the data to the data's own spread s, by
    s / sqrt(s² + σ²), so that noise of any level fits one frame; at σ = 0 it is z itself. Frames
    are [K, n, *event], n ≥ 1, at noise levels [K]; the kind of picture is that of `picture`.
    Frames are left out as long as the file has more than 6 MB.
    """
    sigmas = np.asarray(sigmas, np.float64)
    captions = [f"σ = {sigma:.3g}" for sigma in sigmas]
    data, spread = _thin(dataset), spread_of(dataset)
    centre = data.mean(0)
    factors = (spread / np.sqrt(spread**2 + sigmas**2)).astype(np.float32)
    if dataset.is_image:
        centre, pages = centre.reshape(dataset.event_shape), []
        for frame, factor, caption in zip(frames, factors, captions, strict=True):
            images = centre + (frame[:max_images] - centre) * factor
            pages.append(captioned(image_grid(images, max_images, side=400), caption))
        return _of_bounded_size(pages)

    factors = factors[:, None, None]
    states = centre + (frames.reshape(len(frames), -1, dataset.dim) - centre) * factors
    data = centre + (data - centre) * factors
    place, labels = plane_of(dataset)
    states, data = (np.stack([place(x) for x in both]) for both in (states, data))
    limits = limits_of(states.reshape(-1, states.shape[-1]), data[-1])
    draw, labels = scatter_figure, [f"{label}, {_SHRUNK}" for label in labels]
    if dataset.dim == 1:
        # The last frame sets the height: at high noise the shrunken data are a needle.
        edges = edges_of(states[-1], data[-1], limits)
        top = max(density(x[-1], edges).max() for x in (states, data))
        draw, labels[1] = partial(histogram_figure, edges=edges, top=top), "density"
    plots = (
        rendered(draw(state, under, limits, caption, labels))
        for state, under, caption in zip(states, data, captions, strict=True)
    )
    return _of_bounded_size([*plots])


def _of_bounded_size(pages: list[np.ndarray]) -> bytes:
    """The animation, with every other frame left out while it is too large."""
    content = gif(pages)
    while len(content) > _MOST_BYTES and len(pages) > _FEWEST:
        pages = pages[::-1][::2][::-1]
        content = gif(pages)
    return content
