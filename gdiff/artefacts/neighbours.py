"""The samples above the data points nearest to them."""

import numpy as np

from gdiff import figures
from gdiff.artefacts.base import Artefact, Sampled
from gdiff.experiment import Experiment
from gdiff.metrics.neighbours import nearest

NEIGHBOURS = "neighbours.png"


class Neighbours(Artefact):
    """A picture that shows whether images are new; of points it says nothing, and there is none."""

    phase = "neighbours"

    def is_wanted(self, experiment: Experiment) -> bool:
        """Always."""
        return True

    def make(self, run: Sampled) -> dict[str, float]:
        """Write it, of the samples that `grid.png` shows and that are finite."""
        dataset = run.prepared.dataset
        if not dataset.is_image:
            return {}
        shown = run.samples[: run.prepared.experiment.picture_samples]
        shown = shown[np.isfinite(shown).reshape(len(shown), -1).all(1)]
        if len(shown):
            rows = dataset.rows(nearest(shown, dataset))
            run.folder.write_bytes(NEIGHBOURS, figures.neighbours(shown, rows))
        return {}
