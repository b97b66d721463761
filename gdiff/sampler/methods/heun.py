"""The deterministic sampler of EDM."""

from dataclasses import dataclass

import numpy as np

from gdiff.sampler.base import SamplerSpec
from gdiff.sampler.steps import Steps, interleave


@dataclass(frozen=True, kw_only=True)
class Heun(SamplerSpec):
    """Heun's method for dz/dsigma = (z - D) / sigma (Karras et al., arXiv 2206.00364, alg. 1).

    From sigma to s: an Euler step to v, then the mean of the slopes at both ends. Since
    (z - D) / sigma = (v - D) / s, the second stage is z' = v + (sigma - s) / (2 s) (D(v, s) - D).
    """

    def table(self, sigma: np.ndarray) -> Steps:
        """Coefficients on a grid [K + 1]; two stages."""
        sigma, s = sigma[:-1], sigma[1:]
        w = (sigma - s) / (2 * s)
        return interleave(
            Steps(sigma=sigma, a=s / sigma, b=(sigma - s) / sigma),
            Steps(sigma=s, a=np.ones_like(s), b=np.stack([w, -w], axis=1)),
        )
