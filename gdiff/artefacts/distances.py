"""How far the samples are from the data."""

from collections.abc import Sequence
from contextlib import AbstractContextManager

from gdiff import metrics
from gdiff.artefacts.base import Artefact, Sampled
from gdiff.experiment import Experiment


class Distances(Artefact):
    """The metrics of the samples."""

    phase = "metrics"
    more_names = (metrics.NONFINITE,)

    def is_wanted(self, experiment: Experiment) -> bool:
        """Unless metrics are off."""
        return experiment.metrics.enabled

    def names(self, experiment: Experiment) -> Sequence[str]:
        """Of all metrics."""
        return experiment.metrics.names

    def lacking(self, experiment: Experiment) -> dict[str, str]:
        """Metrics that few samples do not have."""
        return {
            name: f"needs num_samples of at least {part.fewest_samples}"
            for part in experiment.metrics.parts
            if experiment.num_samples < part.fewest_samples
            for name in part.names
        }

    def make(self, run: Sampled) -> dict[str, float]:
        """All that can be computed."""
        spec, dataset = run.prepared.experiment.metrics, run.prepared.dataset

        def spare(names: str) -> AbstractContextManager[None]:
            return run.failed.spare(f"{self.phase}: {names}")

        return metrics.compute(spec, run.samples, dataset, spare)
