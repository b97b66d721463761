"""What numbers of metrics.json mean, in a line each."""

_MEANINGS = {
    "nn_distance": "mean distance of a sample to its nearest data point",
    "copy_fraction": "samples more than three times nearer to one data point than to any other",
    "sliced_w2": "sliced Wasserstein-2 distance of the samples to the data",
    "sliced_w2_null": "what data points drawn at random would score in sliced_w2",
    "frechet_pca": "squared Fréchet distance on principal components; biased for few samples",
    "kid_pca": "unbiased kernel distance on principal components",
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
    "clip_rate": "share of steps whose correction was clipped",
}


def meaning(name: str) -> str:
    """What a metric is; empty for one of a user's own."""
    return _MEANINGS.get(name, "")
