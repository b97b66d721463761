"""A schedule: the noise levels at which a sampler evaluates the denoiser."""

import abc
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np

from gdiff.errors import UserError, require, require_one_of
from gdiff.memory import require_room
from gdiff.process.base import ProcessSpec
from gdiff.schedule.forecast import Forecast
from gdiff.schedule.losses import KINDS, LossCurve

# An end of the grid that is found from the data.
AUTO = "auto"
# What sigma_min is until it is found, and the least that is tried; how many are tried.
_LOWEST, _TRIED = 0.002, 25
# What a step takes at least in the grid, in the method's table and in run.json.
_STEP_BYTES = 160
LOSS_ON = ("train", "test")


@dataclass(frozen=True, kw_only=True)
class ScheduleSpec(abc.ABC):
    """Options common to all schedules; a subclass places the nodes.

    Attributes:
        steps: number of steps, so of denoiser evaluations of a method with one evaluation a
            step; at least 1. None for a schedule that finds it itself.
        sigma_max: the first noise level.
        sigma_min: the last noise level at which the denoiser is evaluated (`to_zero`), or on
            which the last step ends (otherwise); "auto" takes the one from which Gaussian data
            with the spectrum of the run's come out nearest to what they are.
        to_zero: end with a step from sigma_min onto 0, which returns the denoiser's mean.
        horizon: the first noise level as a time of the run's process, in place of sigma_max;
            "auto" leaves it to the experiment to find one, None is sigma_max.
        horizon_tolerance: of "auto": what the prior may cost there, in nats.
        loss_on: the images whose denoising loss is measured, "train" or "test".
        loss_file: CSV file of a loss that was measured elsewhere; see `LossCurve.read`.
        loss_type: what that file holds: the squared error of "x0", "eps", "v" or "flow".
        loss_samples: images that the loss is measured with; None lets the experiment choose.
        needs_losses: the nodes follow from the loss: see `adapted`.
        is_optimal: the nodes are found by descent: see `schedule.optimal`.
    """

    steps: int | None = 32
    sigma_max: float = 80.0
    sigma_min: float | int | str = 0.002
    to_zero: bool = True
    horizon: float | int | str | None = None
    horizon_tolerance: float = 0.1
    loss_on: str = "train"
    loss_file: Path | None = None
    loss_type: str = "x0"
    loss_samples: int | None = None

    finds_steps: ClassVar[bool] = False
    needs_losses: ClassVar[bool] = False
    is_optimal: ClassVar[bool] = False

    def __post_init__(self) -> None:
        is_count = self.steps is not None and self.steps >= 1
        require(is_count or self.finds_steps, f"steps={self.steps} must be at least 1")
        require_room(_STEP_BYTES * (self.steps or 0), f"steps={self.steps}")
        if isinstance(self.sigma_min, int):
            object.__setattr__(self, "sigma_min", float(self.sigma_min))
        ends = {"sigma_min": self.sigma_min, "sigma_max": self.sigma_max}
        given = {key: sigma for key, sigma in ends.items() if sigma not in (None, AUTO)}
        for key, sigma in given.items():
            require(not isinstance(sigma, str), f"{key}={sigma} is not a number, nor {AUTO}")
            require(0 < sigma < math.inf, f"{key}={sigma} must be positive and finite")
            require(0 < sigma * sigma < math.inf, f"{key}={sigma}: its square has no number")
        require(
            len(given) < 2 or self.sigma_min < self.sigma_max,
            f"sigma_min={self.sigma_min} must be below sigma_max={self.sigma_max}",
        )
        time = self.horizon
        require(
            time in (None, AUTO) if isinstance(time, str | None) else 0 < time < math.inf,
            f"horizon={time} must be a positive time of the process, {AUTO}, or null for sigma_max",
        )
        require(
            0 < self.horizon_tolerance < math.inf,
            f"horizon_tolerance={self.horizon_tolerance} must be positive and finite",
        )
        require_one_of("loss_on", self.loss_on, LOSS_ON)
        require_one_of("loss_type", self.loss_type, KINDS)
        require(
            self.loss_samples is None or self.loss_samples >= 1,
            f"loss_samples={self.loss_samples} must be at least 1, or null",
        )
        require(self.sigma_min != AUTO or not self.finds_steps, f"sigma_min={AUTO} needs steps")

    @property
    def needs_forecast(self) -> bool:
        """Whether the grid follows from what the sampler makes of Gaussian data."""
        return self.is_optimal or self.sigma_min == AUTO

    @property
    def known_ends(self) -> list[int]:
        """Which ends of the grid are known without the data, as indices."""
        return [0, *([-1] if self.to_zero or self.sigma_min != AUTO else [])]

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
        nodes = self.started(process).nodes(process, self.node_count)
        require(
            bool(np.all(np.diff(nodes) < 0)),
            f"schedule.steps={self.steps} asks for more distinct noise levels than there are: "
            "lower it, or widen schedule.sigma_max and schedule.sigma_min",
        )
        return np.append(nodes, 0.0) if self.to_zero else nodes

    @property
    def node_count(self) -> int:
        """Positive noise levels of the grid; 0 for a schedule that finds its steps."""
        steps = self.steps or 0
        return steps + (not self.to_zero)

    def blocks(self, process: ProcessSpec) -> tuple[int, ...] | None:
        """Numbers of steps after which the schedule's own blocks end; None if it has none."""
        return None

    def first_level(self, process: ProcessSpec) -> float:
        """The noise level on which the grid starts; that of sigma_max while horizon is "auto"."""
        return float(self.grid(process)[0])

    def starting_at(self, sigma: float) -> "ScheduleSpec":
        """The same schedule from another first noise level, whatever its horizon."""
        return replace(self, sigma_max=float(sigma), horizon=None)

    def reaching(self, sigma: float, process: ProcessSpec) -> "ScheduleSpec":
        """The same schedule from that noise level or, if it has no such one, the next above it."""
        return self.starting_at(sigma)

    def started(self, process: ProcessSpec) -> "ScheduleSpec":
        """The same schedule with the noise level of its horizon as sigma_max.

        While sigma_min is "auto", a low one takes its place.

        Raises:
            UserError: the process has no such time, or its noise level is not above sigma_min.
        """
        if self.sigma_min == AUTO:
            top = self.sigma_max if self.horizon in (None, AUTO) else math.inf
            return replace(self, sigma_min=min(_LOWEST, top / 2)).started(process)
        if self.horizon in (None, AUTO):
            return self
        low, high = process.time_range
        require(
            low <= self.horizon <= high,
            f"schedule.horizon={self.horizon} is outside the times {low:g} to {high:g} of the "
            f"process {type(process).__name__}",
        )
        sigma = float(process.sigma(self.horizon))
        named = f"schedule.horizon={self.horizon} is sigma = {sigma:.6g}"
        require(math.isfinite(sigma), f"{named}: choose an earlier time")
        least = self.sigma_min or 0.0
        require(
            sigma > least,
            f"{named}, {'below' if sigma < least else 'at'} schedule.sigma_min={self.sigma_min}: "
            "raise schedule.horizon or lower schedule.sigma_min",
        )
        return self.starting_at(sigma)

    def doubt(self, process: ProcessSpec) -> str | None:
        """One line on a grid that is hardly what was meant, or None."""
        return None

    def serving(self, *, is_ancestral: bool) -> "ScheduleSpec":
        """The schedule for a sampler that is, or is not, ancestral; itself if it serves all alike.

        Args:
            is_ancestral: as `SamplerSpec.is_ancestral` says.
        """
        return self

    def adapted(self, losses: LossCurve, process: ProcessSpec) -> "ScheduleSpec":
        """The schedule as the loss of the run's denoiser wants it; itself if it needs none."""
        return self

    def settled(
        self, forecast: Forecast, process: ProcessSpec, losses: LossCurve | None = None
    ) -> "ScheduleSpec":
        """The schedule with the sigma_min that serves Gaussian data best, where it is "auto".

        For few steps that is far above the usual ones, from which the step onto 0 is wasted.

        Args:
            forecast: the distance of the outputs from the data, for any grid.
            process: of the run.
            losses: of a schedule that needs them.
        """
        if self.sigma_min != AUTO:
            return self
        tried = [replace(self, sigma_min=sigma) for sigma in self.lowest_levels(process)]
        costs = []
        for spec in tried:
            adapted = spec if losses is None else spec.adapted(losses, process)
            try:
                costs.append(forecast.quick(adapted.grid(process)))
            except UserError:  # so few levels are above it
                costs.append(math.inf)
        require(
            min(costs) < math.inf,
            f"schedule.sigma_min={AUTO} finds no level below schedule.sigma_max: give a number",
        )
        return tried[int(np.argmin(costs))]

    def lowest_levels(self, process: ProcessSpec) -> np.ndarray:
        """Levels that are tried for sigma_min "auto"."""
        first = self.first_level(process)
        return np.geomspace(min(_LOWEST, first / 2), first / 2, _TRIED)

    def pin(self, nodes: np.ndarray) -> np.ndarray:
        """The same nodes with exact ends, against rounding; a single node is sigma_max."""
        nodes = nodes.copy()
        nodes[-1] = self.sigma_min
        nodes[0] = self.sigma_max
        return nodes
