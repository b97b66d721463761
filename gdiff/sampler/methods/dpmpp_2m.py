"""DPM-Solver++(2M): second order from the previous evaluation."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gdiff.sampler.base import SamplerSpec
from gdiff.sampler.steps import Steps


@dataclass(frozen=True, kw_only=True)
class DPMpp2M(SamplerSpec):
    """Lu et al., arXiv 2211.01095, algorithm 2: the denoiser is extrapolated in -log sigma.

    From sigma to s, with steps h = log(sigma / s) now and h' before, and w = h / (2 h'):
    z' = (s/sigma) z + (1 - s/sigma) [(1 + w) D - w D_previous]; the first step has w = 0.
    """

    is_multistep: ClassVar[bool] = True

    def table(self, sigma: np.ndarray) -> Steps:
        """Coefficients on a grid [K + 1]; the previous output."""
        sigma, s = sigma[:-1], sigma[1:]
        h = np.log1p((sigma - s) / s)
        w = np.zeros_like(h)
        w[1:] = h[1:] / (2 * h[:-1])
        b = ((sigma - s) / sigma)[:, None] * np.stack([1 + w, -w], axis=1)
        return Steps(sigma=sigma, a=s / sigma, b=b)
