"""Bits per dimension of training and held-out points."""

from collections.abc import Sequence

import numpy as np

from gdiff.artefacts.base import Artefact, Sampled
from gdiff.budget import likelihood
from gdiff.budget.likelihood import Flow
from gdiff.experiment import Experiment

BITS = "bits.json"
_NAMES = {"held_out": "bits_per_dim", "train": "bits_per_dim_train"}


class BitsPerDim(Artefact):
    """How well the law of the run's score and prior codes points, those it knows and others."""

    phase = "bits per dimension"
    files = (BITS,)
    is_shared = True

    def is_wanted(self, experiment: Experiment) -> bool:
        """If the metrics ask for it."""
        spec = experiment.metrics
        return spec.enabled and spec.bits_per_dim

    def names(self, experiment: Experiment) -> Sequence[str]:
        """Of the means, and of their standard errors."""
        return [each for name in _NAMES.values() for each in (name, f"{name}_se")]

    def make(self, run: Sampled) -> dict[str, float]:
        """Integrate from points of both kinds at once, on all devices."""
        prepared = run.prepared
        spec, dataset = prepared.experiment.metrics, prepared.dataset
        sets = {"held_out": prepared.experiment.dataset.load_held_out(), "train": dataset}
        high, low = prepared.ends
        low, flows = likelihood.first_level(dataset, low), {}
        denoiser, prior, mesh = prepared.denoiser, prepared.prior, prepared.mesh
        count = likelihood.affordable_points(dataset, spec.bits_points)

        def flow(x: np.ndarray) -> Flow:
            return likelihood.integrate(
                *(denoiser, prior, mesh, x, (high, low)), probes=spec.bits_probes, seed=spec.seed
            )

        numbers: dict[str, float] = {}
        with prepared.clock.phase(self.phase):
            for kind, points in sets.items():
                rng = np.random.default_rng(spec.seed)
                index = np.sort(rng.choice(len(points), min(count, len(points)), replace=False))
                found = likelihood.bits_per_dim(points, index, flow, low, spec.seed)
                numbers |= {_NAMES[kind]: found.mean, f"{_NAMES[kind]}_se": found.error}
                about = {"points": len(index), "probes": found.probes}
                flows[kind] = about | {"bits_per_dim": found.mean, "standard_error": found.error}
            run.folder.write_json(
                BITS, {"sigma": [high, low], "discrete": likelihood.is_discrete(dataset), **flows}
            )
        return numbers
