"""The variance-preserving process on the quarter circle."""

from dataclasses import dataclass

import numpy as np

from gdiff.errors import require
from gdiff.process.base import VariancePreserving


@dataclass(frozen=True, kw_only=True)
class Cosine(VariancePreserving):
    """m = cos(πt/2), sigma = tan(πt/2) (Nichol & Dhariwal, arXiv 2102.09672, without offset).

    Attributes:
        clip: times are moved into [clip, 1 - clip], since sigma is 0 and infinite at the ends;
            0 < clip < 0.5.
    """

    clip: float = 1e-4

    def __post_init__(self) -> None:
        require(0 < self.clip < 0.5, f"clip={self.clip} must be between 0 and 0.5")

    @property
    def time_range(self) -> tuple[float, float]:
        """The unit interval without its ends."""
        return self.clip, 1 - self.clip

    def sigma(self, t: np.typing.ArrayLike) -> np.ndarray:
        """tan(πt/2)."""
        return np.tan(0.5 * np.pi * np.clip(np.asarray(t, np.float64), *self.time_range))

    def time(self, sigma: np.typing.ArrayLike) -> np.ndarray:
        """(2/π) arctan(sigma)."""
        return np.clip(2 / np.pi * np.arctan(np.asarray(sigma, np.float64)), *self.time_range)
