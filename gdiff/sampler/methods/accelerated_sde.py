"""The accelerated stochastic sampler of Li et al."""

from dataclasses import dataclass

import numpy as np

from gdiff.sampler.base import SamplerSpec
from gdiff.sampler.steps import Steps


@dataclass(frozen=True, kw_only=True)
class AcceleratedSDE(SamplerSpec):
    """Half of a step's noise comes before the score (Li et al., arXiv 2403.03852).

    From sigma to s with h = sigma² - s²: u = z + √(h/2) ξ_0, then
    z' = u + h (D(u, sigma) - u) / sigma² + √(h/2) ξ_1.

    In the variables of the paper both noises are divided by √α with the rest of the step. The
    README of its code leaves the second one outside; the variance of Gaussian data is then of
    first order only, and here it is of second.
    """

    def table(self, sigma: np.ndarray) -> Steps:
        """Coefficients on a grid [K + 1]; two noises."""
        sigma, s = sigma[:-1], sigma[1:]
        h = (sigma - s) * (sigma + s)
        a, half = (s / sigma) ** 2, np.sqrt(h / 2)
        return Steps(
            sigma=sigma,
            a=a,
            b=h / sigma**2,
            c=np.stack([a * half, half], axis=1),
            before=np.stack([half, np.zeros_like(half)], axis=1),
        )
