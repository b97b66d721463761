"""The schedule that learns equally much about the data in every step."""

from dataclasses import dataclass

import numpy as np

from gdiff.schedule.adaptive import Adaptive
from gdiff.schedule.losses import LossCurve
from gdiff.schedule.quantiles import quantiles


@dataclass(frozen=True, kw_only=True)
class Entropic(Adaptive):
    """Nodes with equal integrals of the denoising loss over the signal-to-noise ratio between them.

    For the exact denoiser half of that integral is the information in nats that a step gains about
    the sample (Guo, Shamai & Verdú, arXiv cs/0412108), so that each step removes as much entropy as
    any other. Our construction, to compare with the loss-adaptive one.
    """

    def place(self, losses: LossCurve, count: int) -> np.ndarray:
        """Quantiles of ∫ ℓ dγ."""
        return quantiles(losses.integrals, self.sigma_max, self.sigma_min, count)
