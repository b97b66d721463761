"""The midpoint rule after a step back into the noise."""

from dataclasses import dataclass

import numpy as np

from gdiff.sampler.base import SamplerSpec
from gdiff.sampler.steps import Steps, interleave


@dataclass(frozen=True, kw_only=True)
class Midpoint(SamplerSpec):
    """Noise first, then the probability-flow ODE by the midpoint rule: our construction.

    From sigma to s in the clock sigma², where the ODE is dz = -score/2 dsigma². Noise of
    variance n = sigma² - s² raises the level to t² = sigma² + n, so that sigma² is half-way from
    there to s². With L = t² - s²:
    u = z + √n ξ, v = u + L/4 score(u, t), z' = u + L/2 score(v, sigma).

    Where t would exceed the first level of the grid, n is cut to reach just that, and the second
    evaluation stays half-way; so the first step adds no noise.
    """

    def table(self, sigma: np.ndarray) -> Steps:
        """Coefficients on a grid [K + 1]; two stages, noise in the first."""
        first, sigma, s = sigma[0], sigma[:-1], sigma[1:]
        h, room = (sigma - s) * (sigma + s), (first - sigma) * (first + sigma)
        is_free = h <= room
        n = np.minimum(h, room)
        top = np.where(is_free, np.sqrt(sigma**2 + n), first)
        middle = np.where(is_free, sigma, np.sqrt((first**2 + s**2) / 2))
        length = h + n
        q = length / (4 * top**2)  # v = (1 - q) u + q D
        w = length / (2 * middle**2)  # z' = u + w (D(v) - v)
        b = np.stack([w, -q / (1 - q)], axis=1)
        noise = np.sqrt(n)
        return interleave(
            Steps(sigma=top, a=1 - q, b=q, c=(1 - q) * noise, before=noise),
            Steps(sigma=middle, a=1 / (1 - q) - w, b=b),
        )
