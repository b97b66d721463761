"""How far a denoiser is from the exact posterior mean, and how the posterior concentrates."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from gdiff.dataset.base import Dataset
from gdiff.denoiser import Posterior
from gdiff.metrics.exact import exact_posterior

# The curve's columns, in its order.
CURVE = (
    "sigma",
    "relative_error_median",
    "relative_error_max",
    "error_bound_median",
    "error_bound_violations",
    "likely_bound_median",
    "likely_bound_violations",
    "subset_size",
    "effective_sample_size",
    "rows_99",
)
_ROUNDING = 64  # units, see `score_errors`
# Of numbers, in one scan: about a minute on four CPU cores, and a few seconds.
_PRODUCTS, _MOMENT = 10**12, 2**36


def affordable_queries(dataset: Dataset, products: int, share: float = math.inf) -> int:
    """How many queries a scan of all rows answers in about a minute, 1 or more.

    Args:
        dataset: whose rows.
        products: of numbers, for each row and query; the dimension, for the exact score.
        share: as many as the run may have for it; what takes but a moment is never too much.
    """
    one = len(dataset) * products
    return max(1, int(min(_PRODUCTS // one, max(share, _MOMENT // one))))


class ScoreErrors(NamedTuple):
    """Errors of a denoiser, and the exact posterior, for q queries at each of L noise levels.

    Attributes:
        sigma: [L] noise levels.
        error: [L, q] distance ‖D̃ - D‖ of the denoiser's mean from the exact one.
        norm: [L, q] ‖D‖; where that is 0, the data's root mean square distance from their mean.
        rounding: [L, q] the part of `error` that may be the arithmetic's alone.
        error_bound, likely_bound: [L, q] the denoiser's own bounds of `error`, if it gives any.
        subset_size: [L, q] rows that it weighed in full, if it says so.
        effective_sample_size, rows_99: [L, q] as in `ExactPosterior`.
    """

    sigma: np.ndarray
    error: np.ndarray
    norm: np.ndarray
    rounding: np.ndarray
    error_bound: np.ndarray | None
    likely_bound: np.ndarray | None
    subset_size: np.ndarray | None
    effective_sample_size: np.ndarray
    rows_99: np.ndarray

    @classmethod
    def joined(cls, parts: "Sequence[ScoreErrors]") -> "ScoreErrors":
        """Those of all queries, from parts at the same levels; what one lacks is left out."""
        _, *columns = zip(*parts, strict=True)
        has_all = (all(each is not None for each in column) for column in columns)
        pairs = zip(columns, has_all, strict=True)
        return cls(parts[0].sigma, *(np.hstack(each) if has else None for each, has in pairs))

    def metrics(self) -> dict[str, float]:
        """Numbers over all queries: name → finite number.

        - score_relative_error_max, score_relative_error_median: of ‖D̃ - D‖ / ‖D‖;
        - score_error_bound_violations: queries with ‖D̃ - D‖ above the denoiser's `error_bound`,
          by more than rounding; left out where it gives none;
        - score_likely_bound_violations: the same for `likely_bound`.

        D is the exact mean, or that of the score on all rows where the denoiser is a subset's of
        another one. A denoiser that is another one by design has a large error: that is how far
        from exact it is.
        """
        relative = self.error / self.norm
        found = {
            "score_relative_error_max": float(relative.max()),
            "score_relative_error_median": float(np.median(relative)),
        }
        for name in ("error_bound", "likely_bound"):
            if getattr(self, name) is not None:
                found[f"score_{name}_violations"] = float(self._exceeds(name).sum())
        return {name: value for name, value in found.items() if np.isfinite(value)}

    def _exceeds(self, name: str) -> np.ndarray:
        """Whether an error is above a bound by more than rounding: [L, q]."""
        # So written that NaN exceeds any bound.
        return ~(self.error <= getattr(self, name) + self.rounding)

    def curve(self) -> list[dict[str, float]]:
        """One row a noise level, named as in `CURVE`; what the denoiser does not give is left out.

        Bounds are relative, as the errors are; violations count queries, relative_error_max is
        the largest, and all else are medians.
        """
        relative = self.error / self.norm
        columns = {
            "sigma": self.sigma,
            "relative_error_median": np.median(relative, axis=1),
            "relative_error_max": relative.max(axis=1),
        }
        for name in ("error_bound", "likely_bound"):
            if getattr(self, name) is not None:
                columns[f"{name}_median"] = np.median(getattr(self, name) / self.norm, axis=1)
                columns[f"{name}_violations"] = self._exceeds(name).sum(axis=1)
        for name in ("subset_size", "effective_sample_size", "rows_99"):
            if getattr(self, name) is not None:
                columns[name] = np.median(getattr(self, name), axis=1)
        rows = zip(*(column.tolist() for column in columns.values()), strict=True)
        return [dict(zip(columns, row, strict=True)) for row in rows]


def score_errors(
    dataset: Dataset,
    z: np.ndarray,
    sigma: np.ndarray,
    answers: Posterior,
    wanted: np.ndarray | None = None,
) -> ScoreErrors:
    """Compare a denoiser with a full scan of the data in float64, or with another denoiser.

    A bound speaks of the method, and the arithmetic adds to the error: weights and their sum are
    rounded to the precision of the mean. In units of ε (‖D‖ + R), with ε = 2⁻²⁴ for float32 and R
    the data's root mean square distance from their mean, the exact score in float32 is off by up
    to 21, where two or more rows compete, and by about 1 elsewhere (MNIST, CIFAR-10 and points of
    the plane, σ from .002 to 80). So 64 units, 4e-6 (‖D‖ + R), count as rounding.

    Args:
        dataset: whose posterior it is.
        z: [L, q, *event] queries, model coordinates.
        sigma: [L] their noise levels.
        answers: the denoiser's, with fields [L, q, ...].
        wanted: [L, q, *event] means that it should have; None for the exact ones.
    """
    levels, q = z.shape[:2]
    exact = exact_posterior(dataset, z.reshape(levels * q, -1), np.repeat(sigma, q))
    mean = np.asarray(answers.mean).reshape(levels * q, -1)
    truth = exact.mean if wanted is None else np.asarray(wanted).reshape(levels * q, -1)
    norm = np.linalg.norm(truth, axis=1)
    rounding = _ROUNDING * np.finfo(mean.dtype).eps / 2 * (norm + exact.radius)
    found = ScoreErrors(
        sigma=np.asarray(sigma),
        error=np.linalg.norm(mean - truth, axis=1),
        norm=np.where(norm > 0, norm, exact.radius or 1.0),
        rounding=rounding,
        error_bound=answers.error_bound,
        likely_bound=answers.likely_bound,
        subset_size=answers.subset_size,
        effective_sample_size=exact.effective_sample_size,
        rows_99=exact.rows_99,
    )
    return ScoreErrors(
        found.sigma,
        *(None if x is None else np.asarray(x, np.float64).reshape(levels, q) for x in found[1:]),
    )
