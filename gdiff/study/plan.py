"""The cheapest setting whose budget meets a tolerance in nats."""

import time
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import numpy as np
from rich.table import Table

from gdiff import report
from gdiff.budget.initialization import Nats, Noised
from gdiff.budget.losses import effort, measure
from gdiff.budget.noised import draw
from gdiff.budget.terms import score_error
from gdiff.denoiser import Denoiser
from gdiff.errors import UserError, require
from gdiff.metrics.chunks import evenly
from gdiff.prepared import Experiment, Prepared
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
# Fewest samples at each level of the loss curve: the grid should be worth what it promises.
_LOSS_SAMPLES = 128


class Setting(NamedTuple):
    """A way to run, with what its budget is predicted to be.

    Attributes:
        prior: name of the prior.
        sigma_max: first noise level.
        evaluations: of the denoiser per sample; the last one takes the step onto 0.
        score_tolerance: of the golden score; None for the score as it is.
        initialization, discretization, score: terms of the budget, in nats.
    """

    prior: str
    sigma_max: float
    evaluations: int
    score_tolerance: float | None
    initialization: float
    discretization: float
    score: float

    @property
    def total(self) -> float:
        """Nats."""
        return self.initialization + self.discretization + self.score

    def numbers(self) -> dict[str, Any]:
        """All of it, for JSON."""
        return self._asdict() | {"total": self.total}


def _most(nats: Nats) -> float:
    """What a divergence is taken to be: its estimate and the standard error."""
    return max(nats.nats, 0) + nats.standard_error


@dataclass(frozen=True)
class _Search:
    """What all settings have in common."""

    prepared: Prepared
    curve: LossCurve
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
                    if nats.nats + nats.standard_error < self.tolerance:
                        found.append((name, sigma, nats))
                    else:
                        # It only grows as noise falls.
                        del still[name]
                progress.advance()
        return found

    def optimum(self, sigma_max: float) -> Optimum:
        """The best grids from a first level on."""
        return Optimum(self.curve, sigma_max, self.sigma_min, _FINE_LEVELS)

    def fewest(self, sigma_max: float, room: float) -> tuple[int, float] | None:
        """Fewest steps of the best grid that cost at most `room` nats, and what they cost."""
        optimum, most = self.optimum(sigma_max), 16
        while most <= _MOST_STEPS:
            nats = optimum.sums(most)
            for steps in np.flatnonzero(nats <= room) + 1:
                # By chance a curve flatters the grid that is made for it.
                error = self.curve.discretization_error(optimum.nodes(steps + 1))
                if nats[steps - 1] + error <= room:
                    return int(steps), float(nats[steps - 1])
            most *= 2
        return None

    def best(self, starts: Sequence[tuple[str, float, Nats]], spent: float) -> Setting | None:
        """The setting with the fewest evaluations when the score already costs `spent` nats."""
        # At one level only the nearest prior matters.
        nearest, found = {}, []
        for name, sigma, nats in sorted(starts, key=lambda start: start[2].nats):
            nearest.setdefault(sigma, (name, nats))
        for sigma, (name, nats) in nearest.items():
            room = self.tolerance - spent - _most(nats)
            steps = self.fewest(sigma, room) if room > 0 else None
            if steps is not None:
                count, cost = steps
                found.append(Setting(name, sigma, count + 1, None, nats.nats, cost, spent))
        # Of equals the longest horizon, whose prior matters least.
        return min(found, key=lambda s: (s.evaluations, -s.sigma_max), default=None)

    def usual(self) -> Setting | None:
        """The experiment's own schedule and prior with the fewest steps that meet the tolerance."""
        experiment, sigma = self.prepared.experiment, self.sigma_max
        nats = Noised.of(self.prepared.data, sigma).divergence(experiment.prior)
        room = self.tolerance - _most(nats)

        def cost(steps: int) -> float:
            spec = replace(experiment.schedule, steps=steps, to_zero=False)
            return self.curve.discretization(spec.grid(experiment.process))

        high = 1
        while cost(high) > room:
            high *= 2
            if high > 2**16:
                return None
        is_enough = {"lo": high // 2 + 1, "key": lambda steps: cost(steps) <= room}
        steps = bisect_left(range(high + 1), True, **is_enough)
        return Setting("its own", sigma, steps + 1, None, nats.nats, cost(steps), 0.0)

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
        levels = grid[:-1]
        for tolerance in _TOLERANCES:
            denoiser = replace(experiment.score, tolerance=tolerance).fit(data, levels)
            nats, error = score_error(data, levels, denoiser)
            setting = self.best(starts, nats + error)
            if setting is not None:
                setting = setting._replace(score_tolerance=tolerance, score=nats)
                seconds = self.seconds(denoiser, levels) * setting.evaluations
                found.append((setting, seconds))
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
            nats = {name: _most(noised.divergence(prior)) for name, prior in priors.items()}
            name = min(nats, key=nats.get)
            return (
                f"tolerance={self.tolerance:g} cannot be met from "
                f"schedule.sigma_max={self.sigma_max:g}: the nearest prior, {name}, is "
                f"{nats[name]:.3g} nats away; raise either"
            )
        name, sigma, nats = min(starts, key=lambda start: start[2].nats)
        least = self.optimum(sigma).sums(_MOST_STEPS)[-1]
        return (
            f"tolerance={self.tolerance:g} cannot be met in {_MOST_STEPS} steps: the least is "
            f"{least + max(nats.nats, 0):.3g} nats, with prior={name} at sigma = {sigma:g}; raise "
            "it, or schedule.sigma_min"
        )


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
    _, samples = effort(prepared.dataset, fewest=_LOSS_SAMPLES)
    curve = measure(Exact(), prepared.data, prepared.ends, samples=samples)
    search = _Search(prepared, curve, tolerance, *prepared.ends)
    starts = search.starts(priors)
    setting, seconds = search.best(starts, 0.0), None
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
