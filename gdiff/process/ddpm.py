"""The discrete variance-preserving process of DDPM."""

from dataclasses import dataclass

import numpy as np

from gdiff.errors import require
from gdiff.process.base import VariancePreserving


@dataclass(frozen=True, kw_only=True)
class DDPM(VariancePreserving):
    """sigma² = 1/ᾱ_i - 1, ᾱ_i = Π_{j≤i} (1 - β_j), β linear (Ho et al., arXiv 2006.11239).

    Time is the index i = 0 … timesteps - 1. Between two indices log sigma is linear; outside
    the table time and sigma stay at its ends.

    Attributes:
        timesteps: number of noise levels, at least 2.
        beta_min: the first β, > 0.
        beta_max: the last β, at least beta_min and < 1.
    """

    timesteps: int = 1000
    beta_min: float = 1e-4
    beta_max: float = 0.02

    def __post_init__(self) -> None:
        require(self.timesteps >= 2, f"timesteps={self.timesteps} must be at least 2")
        require(
            0 < self.beta_min <= self.beta_max < 1,
            f"beta_min={self.beta_min} and beta_max={self.beta_max} must satisfy "
            "0 < beta_min <= beta_max < 1",
        )

    @property
    def time_range(self) -> tuple[float, float]:
        """The first and the last index."""
        return 0.0, self.timesteps - 1.0

    def sigma(self, t: np.typing.ArrayLike) -> np.ndarray:
        """Noise level at index `t`, which need not be whole."""
        index = np.arange(self.timesteps)
        return np.exp(np.interp(np.asarray(t, np.float64), index, self._log_sigma()))

    def time(self, sigma: np.typing.ArrayLike) -> np.ndarray:
        """Index, not rounded, at which the noise level is `sigma`."""
        log_sigma = self._log_sigma()
        inside = np.clip(np.asarray(sigma, np.float64), *np.exp(log_sigma[[0, -1]]))
        return np.interp(np.log(inside), log_sigma, np.arange(self.timesteps))

    def _log_sigma(self) -> np.ndarray:
        """[timesteps], increasing."""
        beta = np.linspace(self.beta_min, self.beta_max, self.timesteps)
        return 0.5 * np.log(np.expm1(-np.cumsum(np.log1p(-beta))))
