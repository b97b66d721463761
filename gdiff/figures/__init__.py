"""Pictures of samples beside their data set, and of scores, as bytes; writes no file.

Everything is in model coordinates, where images range over [-1, 1].
"""

import numpy as np

from gdiff.dataset.base import Dataset
from gdiff.figures.budget import budget_figure
from gdiff.figures.curve import score_error
from gdiff.figures.denoisers import denoisers_figure
from gdiff.figures.encode import encoded, png
from gdiff.figures.grids import grids_figure
from gdiff.figures.horizon import horizon_figure
from gdiff.figures.images import captioned, class_grid, image_grid, paired_grid
from gdiff.figures.points import (
    counts,
    histogram_figure,
    limits_of,
    plane_of,
    scatter_figure,
    thin_rows,
)
from gdiff.figures.scaling import errors_figure, exponents, rounds_figure
from gdiff.figures.schedule import schedule_figure
from gdiff.figures.training import training_figure
from gdiff.figures.trajectory import trajectory_gif

__all__ = [
    "budget_figure",
    "denoisers_figure",
    "errors_figure",
    "exponents",
    "grids_figure",
    "horizon_figure",
    "image_grid",
    "neighbours",
    "picture",
    "rounds_figure",
    "schedule_figure",
    "score_error",
    "training_figure",
    "trajectory_gif",
]


def neighbours(samples: np.ndarray, nearest: np.ndarray) -> bytes:
    """Images [n, h, w, c], n ≥ 1, each above the data point nearest to it, as PNG bytes."""
    caption = "above: samples; below: the nearest data point of each"
    return png(captioned(paired_grid(samples, nearest), caption, least=450))


def picture(
    samples: np.ndarray,
    dataset: Dataset,
    max_images: int = 64,
    labels: np.ndarray | None = None,
    title: str = "",
    kind: str = "png",
) -> bytes:
    """The picture that suits the shape of a point, as bytes.

    Images [h, w, c] give a grid; pairs a scatter plot over the data; single numbers two
    histograms; anything else a scatter plot in the data's first two principal components. Samples
    are [n, *event], n ≥ 1; at most `max_images` of them are in a grid, class by class if labels
    [n] are given. Grids are PNG; plots have a title, and are png, pdf or svg by their `kind`.
    """
    if dataset.is_image and labels is not None:
        names = [dataset.class_name(label) for label in labels[:max_images].tolist()]
        return png(class_grid(samples[:max_images], names))
    if dataset.is_image:
        return png(image_grid(samples, max_images))
    place, labels = plane_of(dataset)
    above = f"{title}: " if title else ""
    title = above + counts(len(samples), len(dataset))
    samples, data = place(samples), place(thin_rows(dataset))
    draw = histogram_figure if dataset.dim == 1 else scatter_figure
    return encoded(draw(samples, data, limits_of(samples, data), title, labels), kind)
