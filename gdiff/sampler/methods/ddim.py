"""DDIM, from the probability-flow ODE to ancestral sampling."""

from dataclasses import dataclass

import numpy as np

from gdiff.errors import require
from gdiff.sampler.base import SamplerSpec
from gdiff.sampler.steps import Steps

# Of eta, beyond which grids for ancestral sampling are nearer to the best.
_MOSTLY = 0.75


@dataclass(frozen=True, kw_only=True)
class DDIM(SamplerSpec):
    """Song, Meng & Ermon, arXiv 2010.02502, eq. 12 and 16, divided by the signal coefficient.

    From sigma to s: c = eta (s/sigma) √(sigma² - s²), a = √(s² - c²) / sigma, b = 1 - a.

    Attributes:
        eta: 0 is the first-order step of the probability-flow ODE, 1 is ancestral sampling.
    """

    eta: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.eta <= 1, f"eta={self.eta} must be between 0 and 1")

    @property
    def is_ancestral(self) -> bool:
        """With most of the noise: at 0.5 the grids of the ODE are the better ones still."""
        return self.eta > _MOSTLY

    def table(self, sigma: np.ndarray) -> Steps:
        """Coefficients on a grid [K + 1]."""
        sigma, s = sigma[:-1], sigma[1:]
        r = s / sigma
        u = (sigma - s) * (sigma + s) / sigma**2  # 1 - r², without cancellation
        a = r * np.sqrt(r**2 + (1 - self.eta**2) * u)
        b = u * (1 + (self.eta * r) ** 2) / (1 + a)  # (1 - a²) / (1 + a)
        return Steps(sigma=sigma, a=a, b=b, c=self.eta * s * np.sqrt(u))
