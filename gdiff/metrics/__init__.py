"""Numbers that compare samples with the data set; pure functions, one idea a file."""

from dataclasses import dataclass

import numpy as np

from gdiff.dataset.base import Dataset
from gdiff.errors import require, require_one_of
from gdiff.metrics.features import fit_pca
from gdiff.metrics.frechet import frechet_distance
from gdiff.metrics.kid import kernel_distance
from gdiff.metrics.neighbours import copy_fraction, nearest_two, nn_distance
from gdiff.metrics.sliced import sliced_w2_with_null

# What `compute` gives where everything can be computed, in its order.
DISTANCES = (
    "nn_distance",
    "copy_fraction",
    "sliced_w2",
    "sliced_w2_null",
    "frechet_pca",
    "kid_pca",
)
# What a measurement of the score always gives; violations of bounds need a score that has some.
SCORE_ERRORS = ("score_relative_error_max", "score_relative_error_median")
_WHEN = ("auto", "always", "never")


@dataclass(frozen=True, kw_only=True)
class MetricsSpec:
    """Which metrics to compute, and how finely.

    Attributes:
        enabled: whether to compute any.
        projections: random directions of the sliced Wasserstein distance.
        features: principal components of the data in frechet_pca and kid_pca; fewer where the
            data have fewer coordinates or points.
        data_points: data points used for these components and as the reference in sliced_w2,
            frechet_pca and kid_pca, drawn at random where the data set has more.
        seed: of the directions and of the data points drawn.
        score_error: whether to measure the score against the exact one on the run's own
            trajectories: "auto" does so unless the score is the exact one, "always" and "never".
        score_queries: at most so many samples of the first batch serve as queries, each at up to
            16 noise levels; fewer for data so large that the exact score of these would take
            minutes; 0 for none.
        budget: also account for the divergence between data and samples, in nats.
    """

    enabled: bool = True
    projections: int = 512
    features: int = 64
    data_points: int = 10_000
    seed: int = 0
    score_error: str = "auto"
    score_queries: int = 32
    budget: bool = True

    def __post_init__(self) -> None:
        for key in ("projections", "features"):
            value = getattr(self, key)
            require(value >= 1, f"metrics.{key}={value} must be at least 1")
        require(self.data_points >= 2, f"metrics.data_points={self.data_points} must be at least 2")
        for key in ("seed", "score_queries"):
            value = getattr(self, key)
            require(value >= 0, f"metrics.{key}={value} must not be negative")
        require_one_of("metrics.score_error", self.score_error, _WHEN)

    @property
    def has_budget(self) -> bool:
        """Whether a run gets its account in nats."""
        return self.enabled and self.budget

    def measures_score(self, *, is_exact: bool) -> bool:
        """Whether a score is to be measured, given whether it is the exact one."""
        is_wanted = self.score_error == "always" or (self.score_error == "auto" and not is_exact)
        return self.enabled and self.score_queries > 0 and is_wanted


def compute(spec: MetricsSpec, samples: np.ndarray, dataset: Dataset) -> dict[str, float]:
    """All metrics of a set of samples: name → finite number.

    - nn_distance: mean Euclidean distance to the nearest data point;
    - copy_fraction: samples with d1 / d2 < 1/3 for the two nearest data points;
    - sliced_w2, and sliced_w2_null: the same for as many points drawn at random from the data;
    - frechet_pca: squared Fréchet distance in principal components of the data;
    - kid_pca: unbiased kernel distance on the same, scaled to mean square 1;
    - nonfinite_samples: how many samples hold NaN or infinity, if any do; the other metrics are
      then those of the rest.

    What cannot be computed is left out: frechet_pca and kid_pca for one sample; everything but
    nn_distance for a data set of one point; all but nonfinite_samples where no sample is finite.

    Args:
        spec: the options; with `enabled` False the result is empty.
        samples: [n, *event] float32, model coordinates.
        dataset: what they are compared with.
    """
    if not spec.enabled:
        return {}
    require(
        samples.shape[1:] == dataset.event_shape,
        f"the samples have shape {samples.shape[1:]} and the data set {dataset.name} "
        f"{dataset.event_shape}; evaluate them against the data set that they came from",
    )
    finite = np.isfinite(samples).reshape(len(samples), -1).all(1)
    metrics = {}
    if not finite.all():
        metrics["nonfinite_samples"] = float(np.sum(~finite))
        samples = samples[finite]
    if len(samples):
        metrics |= _nearest(samples, dataset)
    if len(samples) and len(dataset) > 1:
        metrics["sliced_w2"], metrics["sliced_w2_null"] = sliced_w2_with_null(
            samples, dataset, spec.projections, spec.seed, spec.data_points
        )
    if len(samples) > 1 and len(dataset) > 1:
        metrics |= _on_features(spec, samples, dataset)
    return {name: value for name, value in metrics.items() if np.isfinite(value)}


def _nearest(samples: np.ndarray, dataset: Dataset) -> dict[str, float]:
    """Metrics of the nearest neighbours."""
    neighbours = nearest_two(samples, dataset)
    metrics = {"nn_distance": nn_distance(neighbours)}
    if len(dataset) > 1:
        metrics["copy_fraction"] = copy_fraction(neighbours)
    return metrics


def _on_features(spec: MetricsSpec, samples: np.ndarray, dataset: Dataset) -> dict[str, float]:
    """Metrics on principal components, fitted to a random part of a large data set."""
    index = np.arange(len(dataset))
    if len(dataset) > spec.data_points:
        rng = np.random.default_rng(spec.seed)
        index = np.sort(rng.choice(len(dataset), spec.data_points, replace=False))
    pca = fit_pca(dataset, index, spec.features, spec.seed)
    ours, theirs = pca.of_samples(samples), pca.of_data(dataset, index)
    return {
        "frechet_pca": frechet_distance(ours, theirs),
        "kid_pca": kernel_distance(ours / pca.scale, theirs / pca.scale),
    }
