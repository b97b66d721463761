from dataclasses import dataclass

import numpy as np

from gdiff.sampler.base import SamplerSpec
from gdiff.sampler.steps import Steps


@dataclass(frozen=True, kw_only=True)
class Churned(SamplerSpec):
    """Euler's step towards the denoiser's mean, and some of the noise anew."""

    churn: float = 0.1

    def table(self, sigma):
        sigma, s = sigma[:-1], sigma[1:]
        kept = np.sqrt(1 - self.churn**2) * s / sigma
        return Steps(sigma=sigma, a=kept, b=1 - kept, c=self.churn * s)
