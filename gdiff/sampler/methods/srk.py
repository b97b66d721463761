"""A stochastic Runge–Kutta sampler with one evaluation a step."""

from dataclasses import dataclass

import numpy as np

from gdiff.sampler.base import SamplerSpec
from gdiff.sampler.steps import Steps


@dataclass(frozen=True, kw_only=True)
class SRK(SamplerSpec):
    """The score at the mean of the step's Brownian path, after Wu et al., arXiv 2410.04760.

    From sigma to s with h = sigma² - s²: z' = z + h score(z + m, sigma) + W, where W ~ N(0, h) is
    the end of a Brownian path and m its mean over the step, so m = W / 2 + e, e ~ N(0, h/12)
    independent of W. The idea is the paper's; this form, in sigma², is our construction and not
    the authors' exact algorithm.
    """

    def table(self, sigma: np.ndarray) -> Steps:
        """Coefficients on a grid [K + 1]; two noises: W = √h ξ_0, e = √(h/12) ξ_1."""
        sigma, s = sigma[:-1], sigma[1:]
        h = (sigma - s) * (sigma + s)
        b = h / sigma**2
        mean = np.stack([np.sqrt(h) / 2, np.sqrt(h / 12)], axis=1)
        end = np.stack([np.sqrt(h), np.zeros_like(h)], axis=1)
        return Steps(sigma=sigma, a=(s / sigma) ** 2, b=b, c=end - b[:, None] * mean, before=mean)
