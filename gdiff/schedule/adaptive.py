"""What schedules that follow the data's denoising loss have in common."""

import abc
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gdiff.process.base import ProcessSpec
from gdiff.schedule.base import ScheduleSpec
from gdiff.schedule.levels import Levels
from gdiff.schedule.losses import LossCurve


@dataclass(frozen=True, kw_only=True)
class Adaptive(ScheduleSpec):
    """A schedule that places its nodes by a loss curve; `place` is all that a subclass adds.

    Until it is adapted its nodes are geometric, so that all else of an experiment can be checked
    before the data are read.
    """

    needs_losses: ClassVar[bool] = True

    @abc.abstractmethod
    def place(self, losses: LossCurve, count: int) -> np.ndarray:
        """`count` ≥ 2 nodes from sigma_max to sigma_min in decreasing order.

        Args:
            losses: the curve, which covers sigma_max to sigma_min.
            count: how many.
        """

    def nodes(self, process: ProcessSpec, count: int) -> np.ndarray:
        """Geometric nodes, as a stand-in."""
        return np.geomspace(self.sigma_max, self.sigma_min, count)

    def adapted(self, losses: LossCurve, process: ProcessSpec) -> Levels:
        """The schedule with the nodes that the loss asks for.

        Raises:
            UserError: the curve does not cover sigma_max to sigma_min.
        """
        spec, count = self.started(process), self.node_count
        return Levels.of(spec, spec.place(losses, count) if count > 1 else [spec.sigma_max])
