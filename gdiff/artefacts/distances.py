"""How far the samples are from the data."""

from gdiff import metrics
from gdiff.artefacts.base import Artefact, Sampled
from gdiff.prepared import Experiment


class Distances(Artefact):
    """The metrics of the samples."""

    phase = "metrics"
    names = metrics.DISTANCES

    def is_wanted(self, experiment: Experiment) -> bool:
        """Unless metrics are off."""
        return experiment.metrics.enabled

    def make(self, run: Sampled) -> dict[str, float]:
        """All that can be computed."""
        prepared = run.prepared
        return metrics.compute(prepared.experiment.metrics, run.samples, prepared.dataset)
