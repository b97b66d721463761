"""The samples as a picture."""

from functools import partial

import numpy as np

from gdiff import figures
from gdiff.artefacts.base import Artefact, Sampled
from gdiff.experiment import Experiment

GRID = "grid.png"


class Picture(Artefact):
    """A grid of images, or a scatter plot of points."""

    phase = "picture"
    files = (GRID,)
    is_measure = False

    def is_wanted(self, experiment: Experiment) -> bool:
        """Always."""
        return True

    def make(self, run: Sampled) -> dict[str, float]:
        """Write it."""
        count, dataset = run.prepared.experiment.picture_samples, run.prepared.dataset
        # Points of a scatter plot take no room.
        shown = run.samples[:count] if dataset.is_image else run.samples
        labels = run.prepared.labels(np.arange(len(shown)))
        look = {"title": run.prepared.title}
        draw = partial(figures.picture, shown, dataset, count, labels, **look)
        kinds = ("png",) if dataset.is_image else run.prepared.experiment.plot_kinds
        run.folder.write_plot(GRID, draw, kinds)
        return {}
