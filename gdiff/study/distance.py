"""The fewest evaluations with which Gaussian data come out within a distance of what they are."""

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from gdiff.errors import UserError, require
from gdiff.experiment import Experiment
from gdiff.prepared import Prepared
from gdiff.progress import track
from gdiff.schedule.base import AUTO
from gdiff.schedule.optimal import Optimal
from gdiff.study.plan import Found

_MOST_STEPS = 512


class Setting(NamedTuple):
    """A grid for the experiment's sampler.

    Attributes:
        steps: of the grid.
        evaluations: of the denoiser, per sample.
        sigma_min: the last positive level.
        distance: what is predicted.
    """

    steps: int
    evaluations: int
    sigma_min: float
    distance: float


def main(experiment: Experiment, tolerance: float, objective: str) -> Found:
    """Find the shortest optimal grid; sampler, prior and first level stay those of the experiment.

    In closed form, for Gaussian data with the spectrum of the experiment's (`budget.gaussian`). A
    Gaussian prior would be exact there from any level on, so that the horizon is not searched.

    Args:
        experiment: the data, the sampler, the prior, and the schedule to compare with.
        tolerance: of the distance: squared for "frechet".
        objective: "frechet" or "sliced_w2".

    Raises:
        UserError: no grid meets the tolerance.
    """
    require(0 < tolerance < np.inf, f"tolerance={tolerance} must be positive and finite")
    experiment.require_whole("gdiff plan")
    spec, process = experiment.schedule, experiment.process
    require(
        spec.steps is not None and not (spec.needs_losses or spec.needs_forecast),
        "gdiff plan finds the grid itself, and compares it with the usual one: use schedule=edm, "
        "logsnr or another that does not follow the data",
    )
    prepared = Prepared(experiment)
    forecast = prepared.forecast(objective)
    ends = {"sigma_max": prepared.ends[0], "sigma_min": AUTO}
    found: dict[int, Setting] = {}

    def setting(grid: np.ndarray) -> Setting:
        evaluations = experiment.sampler.steps(grid).evaluations
        low = float(grid[grid > 0][-1])
        return Setting(len(grid) - 1, evaluations, low, forecast.of(grid))

    def usual(steps: int) -> Setting:
        return setting(replace(spec, steps=steps).grid(process))

    def optimal(steps: int) -> Setting:
        if steps not in found:
            grid = Optimal(steps=steps, to_zero=spec.to_zero, objective=objective, **ends)
            found[steps] = setting(grid.found(forecast, process).grid(process))
        return found[steps]

    with track("grids"):
        compared = _fewest(usual, tolerance, _MOST_STEPS)
        most = compared.steps if compared else _MOST_STEPS
        best = _fewest(optimal, tolerance, most)
    require(
        best is not None,
        f"tolerance={tolerance:g} cannot be met in {most} steps by this sampler from this prior: "
        "raise it, or use another sampler, prior=gaussian or a larger schedule.sigma_max",
    )
    result: dict[str, Any] = {
        "tolerance": tolerance,
        "objective": objective,
        "setting": best._asdict(),
        "usual": compared and compared._asdict(),
        "times_fewer_evaluations": compared and compared.evaluations / best.evaluations,
    }
    grid = Optimal(steps=best.steps, to_zero=spec.to_zero, objective=objective, **ends)
    return Found(result, replace(experiment, schedule=grid), {"schedule": "optimal"})


def _fewest(of: Callable[[int], Setting], tolerance: float, most: int) -> Setting | None:
    """The setting of the fewest steps within a tolerance; None if none has."""

    def meets(steps: int) -> bool:
        try:
            return of(steps).distance <= tolerance
        except UserError:  # too few steps for the sampler
            return False

    high = 2
    while not meets(high):
        if high >= most:
            return None
        high = min(2 * high, most)
    low = 2 if high == 2 else high // 2 + 1
    return of(low + bisect_left(range(low, high + 1), True, key=meets))
