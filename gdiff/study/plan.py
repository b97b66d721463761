"""The cheapest setting whose budget meets a tolerance in nats.

A grid does better on the points that its loss was measured on than on others, and the cheapest of
many settings is cheapest by luck too. So a setting is chosen by one loss curve and judged by
another, of other draws, and it is taken for two standard errors more than it seems to cost.
"""

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import numpy as np
from rich.table import Table

from gdiff import report
from gdiff.budget.initialization import Nats, Noised
from gdiff.budget.losses import GRID_SEED, PLAN_SEED, effort, measure
from gdiff.budget.noised import Effort, affordable, draw
from gdiff.budget.terms import score_error
from gdiff.denoiser import Denoiser
from gdiff.errors import UserError, require
from gdiff.experiment import Experiment
from gdiff.metrics.chunks import evenly
from gdiff.prepared import Prepared
from gdiff.prior.base import PriorSpec
from gdiff.progress import track
from gdiff.sampler.methods.ancestral import Ancestral
from gdiff.schedule.las import LAS
from gdiff.schedule.losses import LossCurve
from gdiff.schedule.programme import Optimum
from gdiff.score.exact import Exact
from gdiff.score.golden.spec import Golden
from gdiff.trajectory import Queries

# Noise levels tried as the first one, geometric between the schedule's and the least.
_STARTS = 14
_LEAST_NOISE = 0.02  # of the data's own spread
# Candidate levels of a grid, and most steps of one.
_FINE_LEVELS, _MOST_STEPS = 2048, 1024
_TOLERANCES = (0.1, 0.03, 0.01, 0.003, 0.001)
_QUERIES = 64
# Samples at each level of a loss curve, and products of numbers for them: seconds.
_LOSS_SAMPLES, _MOST_SAMPLES, _PRODUCTS = 128, 4096, 2**36
# Standard errors that are added to an estimate.
_ERRORS = 2.0
# Seconds after which no other tolerance of the score is tried, if one is good enough.
_PATIENCE = 120.0

log = logging.getLogger(__name__)


class Setting(NamedTuple):
    """A way to run, with what its budget is predicted to be.

    Attributes:
        prior: name of the prior.
        sigma_max: first noise level.
        evaluations: of the denoiser per sample; the last one takes the step onto 0.
        score_tolerance: of the golden score; None for the score as it is.
        initialization, discretization, score: terms of the budget, in nats.
        standard_error: of their sum.
    """

    prior: str
    sigma_max: float
    evaluations: int
    score_tolerance: float | None
    initialization: float
    discretization: float
    score: float
    standard_error: float

    @property
    def total(self) -> float:
        """Nats."""
        return self.initialization + self.discretization + self.score

    def numbers(self) -> dict[str, Any]:
        """All of it, for JSON; `at_most` is what the total was taken for."""
        at_most = self.total + _ERRORS * self.standard_error
        return self._asdict() | {"total": self.total, "at_most": at_most}


def _at_most(*terms: Nats) -> float:
    """What a sum of estimates is taken for; a divergence is not negative."""
    error = math.hypot(*(term.standard_error for term in terms))
    return sum(max(term.nats, 0) for term in terms) + _ERRORS * error


_NOTHING = Nats(0.0, 0.0)


@dataclass(frozen=True)
class _Search:
    """What all settings have in common.

    Attributes:
        prepared: the experiment.
        curve: the loss that grids are made for.
        judge: the loss on other draws.
        tolerance: in nats.
        sigma_max, sigma_min: the ends of the experiment's schedule.
    """

    prepared: Prepared
    curve: LossCurve
    judge: LossCurve
    tolerance: float
    sigma_max: float
    sigma_min: float

    def starts(self, priors: Mapping[str, PriorSpec]) -> list[tuple[str, float, Nats]]:
        """Priors and first levels whose initialization leaves room for steps."""
        top, dataset = self.sigma_max, self.prepared.dataset
        part = dataset.rows(evenly(len(dataset), 1024))
        least = max(1.01 * self.sigma_min, _LEAST_NOISE * float(part.std()))
        levels = np.geomspace(top, min(least, top), _STARTS)
        levels = [top, *(float(f"{level:.3g}") for level in levels[1:])]
        found, still = [], dict(priors)
        with track("priors", len(levels), "levels") as progress:
            for sigma in levels:
                noised = Noised.of(self.prepared.data, sigma)
                for name, prior in list(still.items()):
                    nats = noised.divergence(prior)
                    if _at_most(nats) < self.tolerance:
                        found.append((name, sigma, nats))
                    else:
                        # It only grows as noise falls.
                        del still[name]
                progress.advance()
        return found

    def optimum(self, sigma_max: float) -> Optimum:
        """The best grids from a first level on."""
        return Optimum(self.curve, sigma_max, self.sigma_min, _FINE_LEVELS)

    def judged(self, grid: np.ndarray) -> Nats:
        """What the steps of a grid cost, on draws that it was not made for."""
        return Nats(self.judge.discretization(grid), self.judge.discretization_error(grid))

    def fewest(
        self, sigma_max: float, others: Sequence[Nats], most: int
    ) -> tuple[int, Nats] | None:
        """Fewest steps, up to `most`, of a grid that meets the tolerance beside other terms.

        Returns:
            The number of steps and what they cost; None if there is no such grid.
        """
        optimum, found = self.optimum(sigma_max), {}

        def meets(steps: int) -> bool:
            found[steps] = self.judged(optimum.nodes(steps + 1))
            return _at_most(*others, found[steps]) <= self.tolerance

        # By chance a curve flatters the grid that is made for it: one with fewer steps than these
        # is not good enough even by its own account.
        room = self.tolerance - sum(max(term.nats, 0) for term in others)
        some = min(16, most)
        while some < most and optimum.sums(some)[-1] > room:
            some = min(2 * some, most)
        hopeful = np.flatnonzero(optimum.sums(some) <= room)
        steps = _first(meets, int(hopeful[0]) + 1, most) if len(hopeful) else None
        return None if steps is None else (steps, found[steps])

    def best(self, starts: Sequence[tuple[str, float, Nats]], score: Nats) -> Setting | None:
        """The setting with the fewest evaluations when the score already costs so much."""
        # At one level only the nearest prior matters.
        nearest, best, most = {}, None, _MOST_STEPS
        for name, sigma, nats in sorted(starts, key=lambda start: start[2].nats):
            nearest.setdefault(sigma, (name, nats))
        # Of equals the longest horizon, whose prior matters least: it comes first.
        for sigma, (name, nats) in sorted(nearest.items(), reverse=True):
            found = self.fewest(sigma, (nats, score), most) if most else None
            if found is not None:
                count, cost = found
                error = math.hypot(*(term.standard_error for term in (nats, cost, score)))
                terms = (max(nats.nats, 0), cost.nats, score.nats, error)
                best, most = Setting(name, sigma, count + 1, None, *terms), count - 1
        return best

    def usual(self) -> Setting | None:
        """The experiment's own schedule and prior with the fewest steps that meet the tolerance."""
        experiment, sigma, found = self.prepared.experiment, self.sigma_max, {}
        nats = Noised.of(self.prepared.data, sigma).divergence(experiment.prior)

        def meets(steps: int) -> bool:
            spec = replace(experiment.schedule, steps=steps, to_zero=False)
            found[steps] = self.judged(spec.grid(experiment.process))
            return _at_most(nats, found[steps]) <= self.tolerance

        steps = _first(meets, 1, 2**16) if _at_most(nats) < self.tolerance else None
        if steps is None:
            return None
        error = math.hypot(nats.standard_error, found[steps].standard_error)
        terms = (max(nats.nats, 0), found[steps].nats, 0.0, error)
        return Setting("its own", sigma, steps + 1, None, *terms)

    def las(self, setting: Setting) -> LAS:
        """The schedule of a setting."""
        ends = {"sigma_max": setting.sigma_max, "sigma_min": self.sigma_min}
        return LAS(steps=setting.evaluations, measure="snr", **ends)

    def with_golden(
        self, starts: Sequence[tuple[str, float, Nats]], exact: Setting
    ) -> tuple[Setting, float]:
        """The quickest setting with a tolerance of the score, and its seconds per sample.

        Args:
            starts: as for `best`.
            exact: the setting for the exact score, whose levels are asked about.

        Raises:
            UserError: no tolerance is good enough.
        """
        experiment, data, found = self.prepared.experiment, self.prepared.data, []
        grid = self.las(exact).adapted(self.curve, experiment.process).grid(experiment.process)
        levels, begin = grid[:-1], time.perf_counter()
        for tolerance in _TOLERANCES:
            denoiser = replace(experiment.score, tolerance=tolerance).fit(data, levels)
            score = Nats(*score_error(data, levels, denoiser))
            setting = self.best(starts, score) if _at_most(score) < self.tolerance else None
            if setting is not None:
                setting = setting._replace(score_tolerance=tolerance)
                seconds = self.seconds(denoiser, levels) * setting.evaluations
                found.append((setting, seconds))
                # A smaller one only makes evaluations dearer, once there are no more than needed.
                if setting.evaluations <= exact.evaluations:
                    break
                if time.perf_counter() - begin > _PATIENCE:
                    log.info("no tolerance below %g was tried, for want of time", tolerance)
                    break
        require(
            bool(found),
            f"tolerance={self.tolerance:g} cannot be met by score=golden with score.tolerance "
            f"from {_TOLERANCES[-1]} on: raise it, or use score=full, which needs "
            f"{exact.evaluations} evaluations",
        )
        return min(found, key=lambda pair: pair[1])

    def seconds(self, denoiser: Denoiser, levels: np.ndarray) -> float:
        """Of an evaluation per sample, on average over some of the levels."""
        dataset, mesh = self.prepared.dataset, self.prepared.mesh
        points = draw(dataset, _QUERIES, 3)
        clean, noise = (x.reshape(-1, *dataset.event_shape) for x in points[:2])
        few = levels[np.linspace(0, len(levels) - 1, min(len(levels), 8)).astype(int)]
        queries = Queries(np.stack([clean + np.float32(sigma) * noise for sigma in few]), few)
        queries.ask(denoiser, mesh)  # compiles
        begin = time.perf_counter()
        jax.block_until_ready(queries.ask(denoiser, mesh))
        return (time.perf_counter() - begin) / (len(few) * _QUERIES)

    def unmet(
        self, starts: Sequence[tuple[str, float, Nats]], priors: Mapping[str, PriorSpec]
    ) -> str:
        """Why no setting is good enough, and what can be had."""
        if not starts:
            noised = Noised.of(self.prepared.data, self.sigma_max)
            nats = {name: _at_most(noised.divergence(prior)) for name, prior in priors.items()}
            name = min(nats, key=nats.get)
            return (
                f"tolerance={self.tolerance:g} cannot be met from "
                f"schedule.sigma_max={self.sigma_max:g}: the nearest prior, {name}, is "
                f"{nats[name]:.3g} nats away; raise either"
            )
        name, sigma, nats = min(starts, key=lambda start: start[2].nats)
        least = self.judged(self.optimum(sigma).nodes(_MOST_STEPS + 1))
        total = max(nats.nats, 0) + least.nats
        error = math.hypot(nats.standard_error, least.standard_error)
        return (
            f"tolerance={self.tolerance:g} cannot be met in {_MOST_STEPS} steps: the least is "
            f"{total:.3g} ± {error:.2g} nats, with prior={name} at sigma = {sigma:g}; raise "
            "it, or schedule.sigma_min"
        )


def _first(meets: Callable[[int], bool], low: int, high: int) -> int | None:
    """The first number from `low` to `high` that meets a condition, as all after it do."""
    step, below = 1, low - 1
    while low < high and not meets(low):
        below, low, step = low, min(low + step, high), 2 * step
    if low > high or (low == high and not meets(high)):
        return None
    while low - below > 1:
        middle = (below + low) // 2
        below, low = (below, middle) if meets(middle) else (middle, low)
    return low


def _loss_samples(prepared: Prepared) -> int:
    """At each level of a loss curve: more than a run takes, where that is a matter of seconds."""
    dataset = prepared.dataset
    levels, usual = effort(dataset, fewest=_LOSS_SAMPLES)
    affordable_ones = np.clip(_PRODUCTS // (levels * dataset.x.size), usual, _MOST_SAMPLES)
    return Effort(levels, int(affordable_ones)).within(affordable(dataset)).draws


class Found(NamedTuple):
    """The outcome of a search.

    Attributes:
        result: the setting found, the experiment's own one for comparison, and seconds.
        experiment: what the setting is: the parts that were measured, and else the one given.
        choices: the options of groups that it takes, by group.
    """

    result: dict[str, Any]
    experiment: Experiment
    choices: dict[str, str]


def main(experiment: Experiment, priors: Mapping[str, PriorSpec], tolerance: float) -> Found:
    """Search for the cheapest setting.

    Args:
        experiment: the data, the ends of the schedule, and the score: the exact one, or golden
            with a tolerance to be found.
        priors: among which to choose, by name; those trained for one level are left out.
        tolerance: in nats, for the total of the budget.

    Raises:
        UserError: no setting meets the tolerance.
    """
    require(0 < tolerance < np.inf, f"tolerance={tolerance} must be positive and finite, in nats")
    experiment.require_whole("gdiff plan")
    is_golden = isinstance(experiment.score, Golden)
    require(
        experiment.score.is_exact or is_golden,
        "gdiff plan is about the exact score of the data: use score=full or score=golden",
    )
    spec = experiment.schedule
    require(
        not spec.needs_losses and not spec.finds_steps,
        "gdiff plan finds the grid itself, and compares it with the usual one: use schedule=edm, "
        "logsnr or another that does not follow the data",
    )
    priors = {name: prior for name, prior in priors.items() if not prior.is_trained}
    prepared = Prepared(experiment)
    prepared.require_span()
    samples = _loss_samples(prepared)
    what = (Exact(), prepared.data, prepared.ends)
    curve = measure(*what, samples=samples, seed=GRID_SEED)
    judge = measure(*what, samples=samples, seed=PLAN_SEED, is_lifted=False)
    search = _Search(prepared, curve, judge, tolerance, *prepared.ends)
    starts = search.starts(priors)
    setting, seconds = search.best(starts, _NOTHING), None
    if setting is None:
        raise UserError(search.unmet(starts, priors))
    usual = search.usual()
    if is_golden:
        setting, seconds = search.with_golden(starts, setting)
    result = {
        "tolerance": tolerance,
        "setting": setting.numbers(),
        "usual": usual and usual.numbers(),
        "times_fewer_evaluations": usual and usual.evaluations / setting.evaluations,
        "seconds": seconds,
    }
    choices = {"sampler": "ancestral", "schedule": "las_nats", "prior": setting.prior}
    schedule = replace(search.las(setting), loss_samples=samples)
    parts = {"prior": priors[setting.prior], "sampler": Ancestral(), "schedule": schedule}
    if is_golden:
        parts["score"] = replace(experiment.score, tolerance=setting.score_tolerance)
    return Found(result, replace(experiment, **parts), choices)


def table(result: Mapping[str, Any]) -> Table:
    """The result for the screen."""
    found, usual = result["setting"], result["usual"] or {}
    ratio = result["times_fewer_evaluations"]
    of = result.get("objective")
    return report.table(
        ("", "found", "usual"),
        [(key.replace("_", " "), value, usual.get(key)) for key, value in found.items()],
        title=f"budget of {result['tolerance']:g} {'nats' if of is None else f'by {of}'}",
        caption=None if ratio is None else f"{ratio:.3g} times fewer evaluations",
    )
