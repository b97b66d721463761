"""The schedule of EDM."""

import math
from dataclasses import dataclass

import numpy as np

from gdiff.errors import require
from gdiff.process.base import ProcessSpec
from gdiff.schedule.base import ScheduleSpec


@dataclass(frozen=True, kw_only=True)
class EDM(ScheduleSpec):
    """Nodes uniform in sigma^(1/rho) (Karras et al., arXiv 2206.00364, eq. 5).

    Attributes:
        rho: 1 is uniform in sigma, infinity would be uniform in log sigma; > 0.
    """

    rho: float = 7.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.rho < math.inf, f"rho={self.rho} must be positive and finite")

    def nodes(self, process: ProcessSpec, count: int) -> np.ndarray:
        """The rho-th powers of arithmetic nodes."""
        ends = np.array([self.sigma_max, self.sigma_min]) ** (1 / self.rho)
        return self.pin(np.linspace(*ends, count) ** self.rho)
