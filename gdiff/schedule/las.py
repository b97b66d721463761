"""The loss-adaptive schedule."""

from dataclasses import dataclass

import numpy as np

from gdiff.errors import require
from gdiff.schedule.adaptive import Adaptive
from gdiff.schedule.losses import LossCurve
from gdiff.schedule.optimal import FINE_LEVELS, Optimum


@dataclass(frozen=True, kw_only=True)
class LAS(Adaptive):
    """Nodes that minimise the discretisation's share of the path KL of ancestral sampling.

    The objective is that of Aghapour et al. (arXiv 2601.21943): the left Riemann sum of the
    denoising loss over the signal-to-noise ratio. How it is minimised is our construction and not
    the paper's own update of the nodes: dynamic programming, exact over candidate levels, after
    which the nodes move in between.

    Attributes:
        fine_levels: candidate levels, at least as many as nodes.
    """

    fine_levels: int = FINE_LEVELS

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.fine_levels >= max(2, self.node_count),
            f"fine_levels={self.fine_levels} must be at least 2 and no less than the "
            f"{self.node_count} noise levels of steps={self.steps}: raise it, or lower "
            "the steps",
        )

    def place(self, losses: LossCurve, count: int) -> np.ndarray:
        """The best nodes."""
        return Optimum(losses, self.sigma_max, self.sigma_min, self.fine_levels).nodes(count)
