"""DDPM with the variance of the forward process."""

from dataclasses import dataclass

import numpy as np

from gdiff.sampler.base import SamplerSpec
from gdiff.sampler.steps import Steps


@dataclass(frozen=True, kw_only=True)
class DDPM(SamplerSpec):
    """The choice σ² = β of Ho et al., arXiv 2006.11239, sec. 3.2, divided by the signal.

    From sigma to s: a = s²/sigma², b = 1 - a, c = √((sigma² - s²) (1 + s²) / (1 + sigma²)),
    where β = 1 - (1 + s²) / (1 + sigma²).
    """

    @property
    def is_ancestral(self) -> bool:
        """They do."""
        return True

    def table(self, sigma: np.ndarray) -> Steps:
        """Coefficients on a grid [K + 1]."""
        sigma, s = sigma[:-1], sigma[1:]
        h = (sigma - s) * (sigma + s)
        c = np.sqrt(h * (1 + s**2) / (1 + sigma**2))
        return Steps(sigma=sigma, a=(s / sigma) ** 2, b=h / sigma**2, c=c)
