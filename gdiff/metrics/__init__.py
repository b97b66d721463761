"""Numbers that compare samples with the data set, one idea a file."""

import math
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import numpy as np

from gdiff.dataset.base import Dataset
from gdiff.errors import require, require_one_of
from gdiff.metrics.base import Metric
from gdiff.metrics.classifier import ClassifierDistances
from gdiff.metrics.features import PcaDistances, PcaSupport
from gdiff.metrics.neighbours import NearestNeighbours
from gdiff.metrics.sliced import SlicedW2

# What a measurement of the score always gives; violations of bounds need a score that has some.
SCORE_ERRORS = ("score_relative_error_max", "score_relative_error_median")
SCORE_VIOLATIONS = ("score_error_bound_violations", "score_likely_bound_violations")
# How many samples were set aside, where any were.
NONFINITE = "nonfinite_samples"
_WHEN = ("auto", "always", "never")


@dataclass(frozen=True, kw_only=True)
class MetricsSpec:
    """Which metrics to compute, and how finely.

    Attributes:
        enabled: whether to compute any.
        projections: random directions of the sliced Wasserstein distance.
        features: principal components of the data in frechet_pca, kid_pca, precision, recall,
            density and coverage; fewer where the data have fewer coordinates or points.
        neighbours: k of precision, recall, density and coverage.
        data_points: data points used for these components and as the reference in sliced_w2 and
            in features, drawn at random where the data set has more.
        seed: of the directions and of the data points drawn.
        score_error: whether to measure the score against the exact one on the run's own
            trajectories: "auto" does so unless the score is the exact one, "always" and "never".
        score_queries: at most so many samples of the first batch serve as queries, each at up to
            16 noise levels; fewer for data so large that the exact score of these would take
            minutes; 0 for none.
        budget: whether to say where the divergence between data and samples comes from, in nats:
            "auto" does so where all terms apply, for the ancestral sampler; True also where only
            the first one does.
        share: of the run's evaluations of the score that the error of the score, and each term of
            the budget, may take at most; what takes but a moment is never cut.
        bits_per_dim: also measure the bits per dimension of training and held-out points under
            the law of the probability-flow ODE from the prior.
        bits_points: at most so many points of each for that; fewer where the data are so large
            that they would take minutes.
        bits_probes: random probes of the divergence, where the score does not give it; as many
            as coordinates, or more, are these, and it is exact.
        classifier: also measure the Fréchet and the kernel distance in features of a small
            classifier, trained on the data's labels.
        others: further metrics, under any names.
    """

    enabled: bool = True
    projections: int = 512
    features: int = 64
    neighbours: int = 5
    data_points: int = 10_000
    seed: int = 0
    score_error: str = "auto"
    score_queries: int = 32
    budget: bool | str = "auto"
    share: float = 0.25
    bits_per_dim: bool = False
    bits_points: int = 64
    bits_probes: int = 16
    classifier: bool = False
    others: dict[str, Metric] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for key in ("projections", "features", "neighbours"):
            value = getattr(self, key)
            require(value >= 1, f"{key}={value} must be at least 1")
        for key in ("data_points", "bits_points", "bits_probes"):
            value = getattr(self, key)
            require(value >= 2, f"{key}={value} must be at least 2")
        for key in ("seed", "score_queries"):
            value = getattr(self, key)
            require(value >= 0, f"{key}={value} must not be negative")
        require_one_of("score_error", self.score_error, _WHEN)
        require(
            self.budget == "auto" or isinstance(self.budget, bool),
            f"budget={self.budget} is none of auto, true and false",
        )
        require(0 < self.share < math.inf, f"share={self.share} must be positive and finite")
        twice = [name for name, count in Counter(self.names).items() if count > 1]
        require(not twice, f"others gives {', '.join(twice)} again: choose another name")

    @property
    def parts(self) -> tuple[Metric, ...]:
        """The metrics that are computed, in their order."""
        if not self.enabled:
            return ()
        drawn = {"data_points": self.data_points, "seed": self.seed}
        learned = [ClassifierDistances(**drawn)] if self.classifier else []
        return (
            NearestNeighbours(),
            SlicedW2(projections=self.projections, **drawn),
            PcaDistances(features=self.features, **drawn),
            PcaSupport(features=self.features, neighbours=self.neighbours, **drawn),
            *learned,
            *self.others.values(),
        )

    @property
    def names(self) -> tuple[str, ...]:
        """What `compute` gives where everything can be computed, in its order."""
        return tuple(name for part in self.parts for name in part.names)

    def require_data(self, dataset: Dataset) -> None:
        """Raise `UserError` if the data lack what the metrics ask for."""
        require(
            not (self.enabled and self.classifier) or dataset.labels is not None,
            f"metrics.classifier=true: {dataset.name} has no labels to train a classifier on",
        )

    @property
    def asks_for_budget(self) -> bool | None:
        """Whether a run gets its budget in nats; None where that is for the sampler to say."""
        if not self.enabled:
            return False
        return None if self.budget == "auto" else bool(self.budget)

    def measures_score(self, *, is_exact: bool) -> bool:
        """Whether a score is to be measured, given whether it is the exact one."""
        is_wanted = self.score_error == "always" or (self.score_error == "auto" and not is_exact)
        return self.enabled and self.score_queries > 0 and is_wanted


DISTANCES = MetricsSpec().names


def compute(
    spec: MetricsSpec,
    samples: np.ndarray,
    dataset: Dataset,
    spare: Callable[[str], AbstractContextManager[None]] = nullcontext,
) -> dict[str, float]:
    """All metrics of a set of samples: name → finite number.

    Samples that hold NaN or infinity are counted in nonfinite_samples, if there are any, and the
    metrics are those of the rest. What cannot be computed is left out.

    Args:
        spec: the metrics.
        samples: [n, *event] float32, model coordinates.
        dataset: what they are compared with.
        spare: gives the block in which the metrics named are computed, as `Failures.spare`.

    Raises:
        UserError: the samples are of another shape than the data.
    """
    spec.require_data(dataset)
    parts = spec.parts
    if not parts:
        return {}
    require(
        samples.shape[1:] == dataset.event_shape,
        f"the samples have shape {samples.shape[1:]} and the data set {dataset.name} "
        f"{dataset.event_shape}; evaluate them against the data set that they came from",
    )
    finite = np.isfinite(samples).reshape(len(samples), -1).all(1)
    metrics = {}
    if not finite.all():
        metrics[NONFINITE] = float(np.sum(~finite))
        samples = samples[finite]
    for part in parts:
        if len(samples) >= part.fewest_samples and len(dataset) >= part.fewest_points:
            # What stands behind ± fails with its metric, and need not be named.
            named = (name for name in part.names if not name.endswith(("_sd", "_se")))
            with spare(" and ".join(named)):
                metrics |= part.compute(samples, dataset)
    return {name: float(value) for name, value in metrics.items() if np.isfinite(value)}


__all__ = [
    "DISTANCES",
    "NONFINITE",
    "SCORE_ERRORS",
    "SCORE_VIOLATIONS",
    "Metric",
    "MetricsSpec",
    "compute",
]
