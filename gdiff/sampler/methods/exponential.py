"""Exponential integrators of the reversed Ornstein–Uhlenbeck process."""

from dataclasses import dataclass

import numpy as np

from gdiff.sampler.base import SamplerSpec
from gdiff.sampler.steps import Steps


@dataclass(frozen=True, kw_only=True)
class Exponential(SamplerSpec):
    """The score is frozen over a step, the linear drift is exact (Chen et al., arXiv 2405.15986).

    In the coordinates y = z / √(1 + sigma²), with e^ε = (1 + sigma²) / (1 + s²):
    SDE, y' = e^{ε/2} y + 2 (e^{ε/2} - 1) score + √(e^ε - 1) ξ; ODE, half the score, no noise.
    From sigma to s: b = 2 (1 + sigma²) (1 - e^{-ε/2}) / sigma² (half of it for the ODE),
    a = 1 - b, c = √(sigma² - s²) (0 for the ODE).

    Attributes:
        stochastic: the SDE if true, the probability-flow ODE if false.
    """

    stochastic: bool = True

    def table(self, sigma: np.ndarray) -> Steps:
        """Coefficients on a grid [K + 1]."""
        sigma, s = sigma[:-1], sigma[1:]
        h = (sigma - s) * (sigma + s)
        # 1 - q = (1 - q²) / (1 + q) for q = e^{-ε/2}: no cancellation on fine grids
        b = h / (1 + np.sqrt((1 + s**2) / (1 + sigma**2))) / sigma**2
        if self.stochastic:
            return Steps(sigma=sigma, a=1 - 2 * b, b=2 * b, c=np.sqrt(h))
        return Steps(sigma=sigma, a=1 - b, b=b)
