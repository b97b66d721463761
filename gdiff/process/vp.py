"""The variance-preserving process whose rate grows linearly."""

import math
from dataclasses import dataclass

import numpy as np

from gdiff.errors import require
from gdiff.process.base import VariancePreserving


@dataclass(frozen=True, kw_only=True)
class VPLinear(VariancePreserving):
    """dx = -β(t) x/2 dt + √β(t) dB, β linear on [0, 1] (Song et al., arXiv 2011.13456, App. C).

    So sigma² = e^B - 1 with B(t) = beta_min t + (beta_max - beta_min) t² / 2, the time of the
    Ornstein–Uhlenbeck process.

    Attributes:
        beta_min: β(0), > 0.
        beta_max: β(1), at least beta_min.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    def __post_init__(self) -> None:
        require(
            0 < self.beta_min <= self.beta_max < math.inf,
            f"beta_min={self.beta_min} and beta_max={self.beta_max} must be finite "
            "with 0 < beta_min <= beta_max",
        )

    @property
    def time_range(self) -> tuple[float, float]:
        """The unit interval."""
        return 0.0, 1.0

    def sigma(self, t: np.typing.ArrayLike) -> np.ndarray:
        """√(e^B(t) - 1)."""
        t = np.asarray(t, np.float64)
        return np.sqrt(np.expm1(t * (self.beta_min + 0.5 * (self.beta_max - self.beta_min) * t)))

    def time(self, sigma: np.typing.ArrayLike) -> np.ndarray:
        """The positive root of B(t) = log(1 + sigma²), in the form that does not cancel."""
        rate = np.log1p(np.square(np.asarray(sigma, np.float64)))
        slope = self.beta_max - self.beta_min
        return 2 * rate / (self.beta_min + np.sqrt(self.beta_min**2 + 2 * slope * rate))
