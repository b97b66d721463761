"""A stochastic sampler of second order with a clipped correction."""

from dataclasses import dataclass

import numpy as np

from gdiff.errors import require, require_one_of
from gdiff.sampler.base import SamplerSpec
from gdiff.sampler.steps import Clip, Steps, interleave


@dataclass(frozen=True, kw_only=True)
class LiCai(SamplerSpec):
    """Overshoot, a clipped second-order correction, noise: after Li & Cai, arXiv 2410.23285.

    The structure is the paper's, the coefficients are our construction and not the authors' exact
    algorithm. In the clock sigma², where the probability-flow ODE is dz = -score/2 dsigma², a
    deterministic step goes beyond s to o = s²/sigma, and noise of variance s² - o² leads back:
    with H = sigma² - o², the level t of a second evaluation and d = t² - sigma²,

        v = z - d/2 score(z, sigma),
        e = H² / (4 d) (score(z, sigma) - score(v, t)),
        z' = z + H/2 score(z, sigma) + e min(1, clip ‖H/2 score‖ / ‖e‖) + √(s² - o²) ξ.

    Attributes:
        look: the level t. "ahead" is s; "back" is sigma²/s, the level before on a geometric grid,
            where the correction is a momentum as in the paper, or s where that would be above the
            first level of the grid. Ahead is a few times more accurate.
        clip: the longest correction, in lengths of the first-order step; None does not clip.
    """

    look: str = "ahead"
    clip: float | None = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_one_of("look", self.look, ("ahead", "back"))
        require(
            self.clip is None or 0 < self.clip < np.inf,
            f"clip={self.clip} must be positive, or null for no limit",
        )

    def table(self, sigma: np.ndarray) -> Steps:
        """Coefficients on a grid [K + 1]; two stages, noise after the second."""
        first, sigma, s = sigma[0], sigma[:-1], sigma[1:]
        t = s
        if self.look == "back":
            above = sigma**2 / s
            is_inside = above <= first * (1 + 1e-9)  # equal, but for rounding, on a geometric grid
            t = np.where(is_inside, np.minimum(above, first), s)
        d = (t - sigma) * (t + sigma)
        h = (sigma - s) * (sigma + s)
        overshoot = h * (1 + (s / sigma) ** 2)
        g = overshoot / (2 * sigma**2)  # the first-order step is g (D - z)
        q = d / (2 * sigma**2)  # v = (1 + q) z - q D, so D - z = (D - v) / (1 + q)
        first_order = g / (1 + q)
        # e = x (D - z) - y (D(v) - v)
        x, y = overshoot**2 / (4 * d) / np.stack([sigma**2, t**2])
        x = x / (1 + q)
        part_a, part_b = y - x, np.stack([-y, x], axis=1)
        noise = (s / sigma) * np.sqrt(h)
        back_a, back_b = 1 / (1 + q), q / (1 + q)  # z = back_a v + back_b D
        step_a = back_a - first_order + part_a
        step_b = part_b + np.stack([np.zeros_like(g), back_b + first_order], axis=1)
        clip = None
        if self.clip is not None:
            bound = self.clip * first_order
            bound_b = np.stack([np.zeros_like(g), bound], axis=1)
            clip = Clip(a=part_a, b=part_b, bound_a=-bound, bound_b=bound_b)
        return interleave(
            Steps(sigma=sigma, a=1 + q, b=-q),
            Steps(sigma=t, a=step_a, b=step_b, c=noise, clip=clip),
        )
