"""What a perfect sampler of the data would score: mean and spread over draws of data points."""

import numpy as np

from gdiff.dataset.base import Dataset

_DRAWS, _FEWEST_DRAWS = 8, 3
# Samples of all draws together up to which there are as many draws as that.
_DRAWN = 100_000


def with_null(name: str) -> tuple[str, ...]:
    """Names of a metric and of its null: `name`, `name_null` and `name_null_sd`."""
    return (name, f"{name}_null", f"{name}_null_sd")


def null_draws(n: int) -> int:
    """How often to draw n data points: 8 times, fewer where n is large, but at least 3."""
    return int(np.clip(_DRAWN // n, _FEWEST_DRAWS, _DRAWS))


def random_points(dataset: Dataset, n: int, seed: int, draw: int) -> np.ndarray:
    """Numbers [n] of data points drawn with replacement, in order; independent for each draw."""
    rng = np.random.default_rng([seed, draw])
    return np.sort(rng.integers(len(dataset), size=n))


def spread_of(null: np.ndarray) -> tuple[float, float]:
    """Mean, and standard deviation over draws, of a metric of data points [draws]."""
    return float(np.mean(null)), float(np.std(null, ddof=1))
