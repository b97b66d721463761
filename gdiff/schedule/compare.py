"""All kinds of grids between the same two noise levels."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from gdiff.errors import UserError
from gdiff.process.base import ProcessSpec
from gdiff.process.cosine import Cosine
from gdiff.process.vp import VPLinear
from gdiff.schedule.asymptotic import Asymptotic
from gdiff.schedule.base import ScheduleSpec
from gdiff.schedule.edm import EDM
from gdiff.schedule.entropic import Entropic
from gdiff.schedule.las import LAS
from gdiff.schedule.logsnr import LogSNR
from gdiff.schedule.losses import LossCurve
from gdiff.schedule.programme import FINE_LEVELS, Optimum
from gdiff.schedule.time import UniformTime
from gdiff.schedule.uniform import UniformSigma


def comparisons(
    losses: LossCurve,
    process: ProcessSpec,
    counts: Sequence[int],
    sigma_max: float,
    sigma_min: float,
    *,
    is_ancestral: bool = False,
) -> list[dict[str, np.ndarray]]:
    """Grids of every schedule that can start and end where it is told, by the schedule's name.

    Left out are grids of indices (ddpm) and of blocks (piadm), which have ends or numbers of steps
    of their own; times of processes that do not reach both ends; and `time` where it is the same
    as another. What all grids of a count share is computed once for all counts.

    Args:
        losses: what the adaptive ones go by.
        process: the run's, for `time`.
        counts: numbers of steps K, each at least 1.
        sigma_max: first level of all grids.
        sigma_min: last level of all grids.
        is_ancestral: whether the grids are for a sampler that is.

    Returns:
        For every count, names to grids [K + 1]; the loss-adaptive ones first.

    Raises:
        UserError: the curve does not cover sigma_max to sigma_min.
    """
    ends = {"sigma_max": sigma_max, "sigma_min": sigma_min, "to_zero": False}
    fine_levels = max(FINE_LEVELS, max(counts) + 1)
    optimum = Optimum(losses, sigma_max, sigma_min, fine_levels)
    las = LAS(fine_levels=fine_levels, steps=1).serving(is_ancestral=is_ancestral)
    return [
        {"las_nats": optimum.nodes(count + 1)}
        | {
            name: spec.adapted(losses, process).grid(process)
            for name, spec in _specs(process, ends | {"steps": count}, las).items()
        }
        for count in counts
    ]


def compare(
    losses: LossCurve,
    process: ProcessSpec,
    count: int,
    sigma_max: float,
    sigma_min: float,
    *,
    is_ancestral: bool = False,
) -> dict[str, np.ndarray]:
    """The grids of `comparisons` for a single count."""
    ends = (sigma_max, sigma_min)
    return comparisons(losses, process, [count], *ends, is_ancestral=is_ancestral)[0]


def _specs(process: ProcessSpec, ends: dict, las: LAS) -> dict[str, ScheduleSpec]:
    """The schedules that can have these ends."""
    clocks = {"cosine": Cosine(), "vp": VPLinear()}
    if process not in clocks.values():
        clocks["time"] = process
    timed = {name: UniformTime(process=clock, **ends) for name, clock in clocks.items()}
    return {
        "las": replace(las, **ends),
        "entropic": Entropic(**ends),
        "asymptotic": Asymptotic(**ends),
        "logsnr": LogSNR(**ends),
        "edm": EDM(**ends),
        "uniform": UniformSigma(**ends),
    } | {name: spec for name, spec in timed.items() if _reaches(spec, process)}


def _reaches(spec: UniformTime, process: ProcessSpec) -> bool:
    """Whether the schedule's process has the noise levels of its ends."""
    try:
        spec.grid(process)
    except UserError:
        return False
    return True
