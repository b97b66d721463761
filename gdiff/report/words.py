"""What numbers of metrics.json mean, in a line each."""

from collections.abc import Iterable, Sequence

_MEANINGS = {
    "nn_distance": "mean distance of a sample to its nearest data point",
    "copy_fraction": "samples more than three times nearer to one data point than to any other",
    "sliced_w2": "sliced Wasserstein-2 distance of the samples to the data",
    "frechet_pca": "squared Fréchet distance on principal components; biased for few samples",
    "kid_pca": "unbiased kernel distance on principal components",
    "frechet_classifier": "squared Fréchet distance on features of a classifier of the data",
    "kid_classifier": "unbiased kernel distance on features of a classifier of the data",
    "precision": "samples that lie where data are, as a share",
    "recall": "data that lie where samples are, as a share",
    "density": "how many data points have a sample near, in parts of what data drawn again have",
    "coverage": "data that have a sample near, as a share; .97 for data drawn again, if k = 5",
    "score_relative_error_max": "largest relative error of the score's mean",
    "score_relative_error_median": "median relative error of the score's mean",
    "score_error_bound_violations": "queries whose error exceeds the score's own bound",
    "score_likely_bound_violations": "queries whose error exceeds the score's probable bound",
    "seconds_per_sample": "seconds of sampling per sample, without compilation",
    "denoiser_evaluations": "evaluations of the denoiser per sample",
    "rounds": "evaluations that had to wait for one another",
    "speedup_in_rounds": "how many times fewer rounds than one by one",
    "kl_initialization": "nats: the prior in place of the noised data",
    "kl_discretization": "nats: finitely many steps",
    "kl_score": "nats: an approximate score",
    "kl_picard": "nats: sweeps that stopped early",
    "kl_total": "nats: divergence of the samples from the data, at most",
    "bits_per_dim": "bits a dimension of held-out points, by the probability-flow ODE",
    "bits_per_dim_train": "the same of points that the score was made of",
    "clip_rate": "share of steps whose correction was clipped",
}


# What the names of numbers about a metric end with.
NULL, _SPREADS = "_null", ("_sd", "_se")


def meaning(name: str) -> str:
    """What a metric is; empty for one of a user's own."""
    metric = name.removesuffix("_se").removesuffix("_sd")
    if metric != name and meaning(metric):
        what = "standard error" if name.endswith("_se") else "standard deviation over draws"
        return f"{what} of {metric}"
    metric = name.removesuffix(NULL)
    if metric != name and metric in _MEANINGS:
        return f"what as many data points drawn at random score in {metric}"
    return _MEANINGS.get(name, "")


def spread_of(name: str, names: Iterable[str]) -> str | None:
    """The name among others of what stands behind ± in a metric; None if nothing does."""
    return next((name + end for end in _SPREADS if name + end in names), None)


def without_spreads(names: Sequence[str]) -> list[str]:
    """Names of metrics, less those of what stands behind ±."""
    spreads = {spread_of(name, names) for name in names}
    return [name for name in names if name not in spreads]
