"""The grid whose samples are nearest to the data, for the run's own sampler."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gdiff.errors import UserError, require_one_of
from gdiff.process.base import ProcessSpec
from gdiff.process.vp import VPLinear
from gdiff.schedule.base import AUTO, ScheduleSpec
from gdiff.schedule.edm import EDM
from gdiff.schedule.forecast import Forecast
from gdiff.schedule.las import LAS
from gdiff.schedule.levels import Levels
from gdiff.schedule.logsnr import LogSNR
from gdiff.schedule.time import UniformTime

OBJECTIVES = ("frechet", "sliced_w2", "kl")
# Descents from so many grids, the best ones known: methods of second order have several minima.
_STARTS = 2


@dataclass(frozen=True, kw_only=True)
class Optimal(ScheduleSpec):
    """Nodes that minimise a distance between the outputs and the data, in closed form.

    For Gaussian data with the spectrum of the run's, and their own linear denoiser, the law of the
    outputs follows from the sampler's table (`gdiff.budget.gaussian`), and its distance from the
    data can be differentiated in the noise levels. No score is evaluated. Our construction.

    Until it is found the grid is geometric.

    Attributes:
        sigma_max: the first noise level.
        sigma_min: the last one before 0, or "auto" to find that too.
        objective: "frechet", the squared Fréchet distance of the samples; "sliced_w2"; or "kl", the
            divergence of the data at sigma_min from the outputs there, in nats.
    """

    objective: str = "frechet"

    is_optimal: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        require_one_of("objective", self.objective, OBJECTIVES)
        if self.objective == "kl" and self.sigma_min == AUTO:
            raise UserError(f"sigma_min={AUTO}: divergences at different levels do not compare")

    def nodes(self, process: ProcessSpec, count: int) -> np.ndarray:
        """Geometric nodes, as a stand-in."""
        return np.geomspace(self.sigma_max, self.sigma_min, count)

    def found(self, forecast: Forecast, process: ProcessSpec) -> Levels:
        """The best nodes.

        Args:
            forecast: of this schedule's objective.
            process: of the run.
        """
        # Here, since every command would pay for importing it.
        from gdiff.schedule.descent import descended

        is_free, spec = self.sigma_min == AUTO, self.started(process)
        count = self.node_count
        lowest = self.lowest_levels(process)[::2] if is_free else [spec.sigma_min]
        if count < 2:
            return Levels.of(spec, [spec.sigma_max])
        if count == 2 and not is_free:
            return Levels.of(spec, [spec.sigma_max, spec.sigma_min])
        starts = [nodes for low in lowest for nodes in spec._starts(float(low), forecast)]
        end = [0.0] if spec.to_zero else []
        starts.sort(key=lambda nodes: forecast.quick(np.append(nodes, end)))
        known = starts[:_STARTS]
        moved = descended(forecast.at, known, is_free=is_free)
        best = min([*moved, known[0]], key=lambda nodes: forecast.of(np.append(nodes, end))).copy()
        best[0] = spec.sigma_max  # against rounding
        return Levels.of(spec, best if is_free else spec.pin(best))

    def _starts(self, low: float, forecast: Forecast) -> Iterator[np.ndarray]:
        """Grids that are known, down to a lowest level."""
        ends = {"sigma_max": self.sigma_max, "sigma_min": low, "to_zero": False}
        ends["steps"] = self.node_count - 1
        clock = VPLinear()
        yield LogSNR(**ends).grid(clock)
        yield EDM(**ends).grid(clock)
        losses = forecast.losses((self.sigma_max, low))
        yield LAS(**ends).adapted(losses, clock).grid(clock)
        try:
            yield UniformTime(**ends).grid(clock)
        except UserError:  # it does not reach so far
            return
