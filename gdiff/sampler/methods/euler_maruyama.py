"""The Euler–Maruyama scheme of the reverse-time equation."""

from dataclasses import dataclass

import numpy as np

from gdiff.sampler.base import SamplerSpec
from gdiff.sampler.steps import Steps


@dataclass(frozen=True, kw_only=True)
class EulerMaruyama(SamplerSpec):
    """z' = z + h score + √h ξ with h = sigma² - s² (Song et al., arXiv 2011.13456, eq. 6).

    From sigma to s: a = s²/sigma², b = 1 - a, c = √h.
    """

    def table(self, sigma: np.ndarray) -> Steps:
        """Coefficients on a grid [K + 1]."""
        sigma, s = sigma[:-1], sigma[1:]
        h = (sigma - s) * (sigma + s)
        return Steps(sigma=sigma, a=(s / sigma) ** 2, b=h / sigma**2, c=np.sqrt(h))
