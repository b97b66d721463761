"""A schedule: the noise levels at which a sampler evaluates the denoiser."""

import abc
import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gdiff.errors import require
from gdiff.process.base import ProcessSpec


@dataclass(frozen=True, kw_only=True)
class ScheduleSpec(abc.ABC):
    """Options common to all schedules; a subclass places the nodes.

    Attributes:
        steps: number of steps, so of denoiser evaluations of a method with one evaluation a
            step; at least 1. None for a schedule that finds it itself.
        sigma_max: the first noise level.
        sigma_min: the last noise level at which the denoiser is evaluated (`to_zero`), or on
            which the last step ends (otherwise).
        to_zero: end with a step from sigma_min onto 0, which returns the denoiser's mean.
    """

    steps: int | None = 32
    sigma_max: float = 80.0
    sigma_min: float = 0.002
    to_zero: bool = True

    finds_steps: ClassVar[bool] = False

    def __post_init__(self) -> None:
        is_count = self.steps is not None and self.steps >= 1
        require(is_count or self.finds_steps, f"schedule.steps={self.steps} must be at least 1")
        ends = {"sigma_min": self.sigma_min, "sigma_max": self.sigma_max}
        given = {key: sigma for key, sigma in ends.items() if sigma is not None}
        for key, sigma in given.items():
            require(0 < sigma < math.inf, f"schedule.{key}={sigma} must be positive and finite")
        require(
            len(given) < 2 or self.sigma_min < self.sigma_max,
            f"schedule.sigma_min={self.sigma_min} must be below "
            f"schedule.sigma_max={self.sigma_max}",
        )

    @abc.abstractmethod
    def nodes(self, process: ProcessSpec, count: int) -> np.ndarray:
        """`count` ≥ 1 positive noise levels in decreasing order; a single one is the largest.

        Args:
            process: the process of the run, for schedules that live in its time.
            count: how many.

        Returns:
            [count] float64, from sigma_max to sigma_min.
        """

    def grid(self, process: ProcessSpec) -> np.ndarray:
        """Noise levels of the run: [steps + 1] float64, strictly decreasing, the last maybe 0.

        Raises:
            UserError: two levels coincide, or the process does not reach them.
        """
        nodes = self.nodes(process, self.steps if self.to_zero else self.steps + 1)
        require(
            bool(np.all(np.diff(nodes) < 0)),
            f"schedule.steps={self.steps} asks for more distinct noise levels than there are: "
            "lower it, or widen schedule.sigma_max and schedule.sigma_min",
        )
        return np.append(nodes, 0.0) if self.to_zero else nodes

    def blocks(self, process: ProcessSpec) -> tuple[int, ...] | None:
        """Numbers of steps after which the schedule's own blocks end; None if it has none."""
        return None

    def pin(self, nodes: np.ndarray) -> np.ndarray:
        """The same nodes with exact ends, against rounding; a single node is sigma_max."""
        nodes = nodes.copy()
        nodes[-1] = self.sigma_min
        nodes[0] = self.sigma_max
        return nodes
