"""Pictures of samples beside their data set, and of scores, as bytes; writes no file.

Everything is in model coordinates, where images range over [-1, 1].
"""

import numpy as np

from gdiff.dataset.base import Dataset
from gdiff.figures.budget import budget_figure
from gdiff.figures.curve import score_error
from gdiff.figures.encode import png
from gdiff.figures.horizon import horizon_figure
from gdiff.figures.images import image_grid
from gdiff.figures.points import counts, histogram, plane_of, scatter, thin_rows
from gdiff.figures.schedule import schedule_figure
from gdiff.figures.trajectory import trajectory_gif

__all__ = [
    "budget_figure",
    "histogram",
    "horizon_figure",
    "image_grid",
    "picture",
    "scatter",
    "schedule_figure",
    "score_error",
    "trajectory_gif",
]


def picture(samples: np.ndarray, dataset: Dataset, max_images: int = 64) -> bytes:
    """The picture that suits the shape of a point, as PNG bytes.

    Images [h, w, c] give a grid; pairs a scatter plot over the data; single numbers two
    histograms; anything else a scatter plot in the data's first two principal components.

    Args:
        samples: [n, *event], n ≥ 1.
        dataset: what they are to resemble.
        max_images: at most so many images in a grid.
    """
    if dataset.is_image:
        return png(image_grid(samples, max_images))
    vectors = samples.reshape(len(samples), -1)
    title = counts(len(samples), len(dataset))
    if dataset.dim == 1:
        return histogram(vectors, thin_rows(dataset), title)
    if dataset.dim == 2:
        return scatter(vectors, thin_rows(dataset), title)
    plane, labels = plane_of(dataset)
    return scatter(plane.of_samples(vectors), plane.of_samples(thin_rows(dataset)), title, labels)
