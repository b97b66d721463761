"""What the loss-adaptive schedule tends to as its steps become many."""

from dataclasses import dataclass

import numpy as np

from gdiff.schedule.adaptive import Adaptive
from gdiff.schedule.losses import LossCurve
from gdiff.schedule.programme import smooth


@dataclass(frozen=True, kw_only=True)
class Asymptotic(Adaptive):
    """Nodes with density √(-dℓ/dγ) in the signal-to-noise ratio γ, ℓ the denoising loss.

    Where steps are small, a step Δ costs Δ²(-dℓ/dγ)/4 nats by the objective of Aghapour et al.
    (arXiv 2601.21943), whose sum this density makes least; that is our derivation. With few steps
    it is far from the best grid: use schedule=las_nats there. The slope of the loss must be known
    well.
    """

    def place(self, losses: LossCurve, count: int) -> np.ndarray:
        """Quantiles of ∫ √(-dℓ/dγ) dγ."""
        return smooth(losses, self.sigma_max, self.sigma_min, count)
