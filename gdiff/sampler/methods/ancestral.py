"""Ancestral sampling with the variance of the posterior."""

from dataclasses import dataclass

import numpy as np

from gdiff.sampler.base import SamplerSpec
from gdiff.sampler.steps import Steps


@dataclass(frozen=True, kw_only=True)
class Ancestral(SamplerSpec):
    """Draw from the law of z_s given z_sigma and x_0 = D (Ho et al., arXiv 2006.11239, eq. 6-7).

    From sigma to s: a = s²/sigma², b = 1 - a, c = (s/sigma) √(sigma² - s²).
    """

    @property
    def is_ancestral(self) -> bool:
        """They do."""
        return True

    def table(self, sigma: np.ndarray) -> Steps:
        """Coefficients on a grid [K + 1]."""
        sigma, s = sigma[:-1], sigma[1:]
        h = (sigma - s) * (sigma + s)
        r = s / sigma
        return Steps(sigma=sigma, a=r**2, b=h / sigma**2, c=r * np.sqrt(h))
