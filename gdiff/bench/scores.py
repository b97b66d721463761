"""Scores side by side: seconds of a call and error of its mean, noise level by noise level."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jax
import numpy as np
from rich.table import Table

from gdiff import report
from gdiff.bench.accuracy import relative_errors
from gdiff.bench.turns import compiled_mean, in_turn
from gdiff.clock import Clock
from gdiff.dataset.placed import Placed
from gdiff.errors import UserError, require
from gdiff.parallel.mesh import BATCH, batch_sharding
from gdiff.prepared import Experiment, Prepared
from gdiff.progress import track
from gdiff.score.base import ScoreSpec
from gdiff.trajectory import Queries, States


@dataclass(frozen=True)
class Measured:
    """One score.

    Attributes:
        fit_seconds: to prepare it for the data; little where the cache holds what it needs.
        seconds: one array a level, of the seconds of [repeats] calls, or of the only one.
        error: [L] largest relative error of the mean; None where the score is the exact one.
    """

    fit_seconds: float
    seconds: list[np.ndarray]
    error: np.ndarray | None

    def times_faster(self, first: "Measured") -> list[float]:
        """Median of the ratio of the first score's seconds to these, by level and in all."""
        pairs = list(zip(first.seconds, self.seconds, strict=True))
        pairs.append((sum(first.seconds), sum(self.seconds)))
        return [float(np.median(theirs / ours)) for theirs, ours in pairs]

    def medians(self) -> list[float]:
        """Median seconds of a call by level, and of calls at all levels together."""
        return [float(np.median(seconds)) for seconds in [*self.seconds, sum(self.seconds)]]


def overrides_by_score(
    names: Sequence[str],
    overrides: Sequence[str],
    spec_of: Callable[[list[str]], ScoreSpec],
) -> dict[str, list[str]]:
    """Overrides that choose each score; score.key=value is for the scores that have the key.

    Args:
        names: options of the group score.
        overrides: all but the choice of the score.
        spec_of: the score that a list of overrides describes.

    Raises:
        UserError: a score is named twice, or none has a key; and what `spec_of` raises.
    """
    require(len(set(names)) == len(names), f"score={','.join(names)} names a score twice")
    found = (re.match(r"\W*score\.(\w+)", override) for override in overrides)
    keys = {match.string: match[1] for match in found if match}
    common = [override for override in overrides if override not in keys]
    known = {name: set(vars(spec_of([f"score={name}", *common]))) for name in names}
    for override, key in keys.items():
        if not any(key in fields for fields in known.values()):
            raise UserError(f"{override}: none of {', '.join(names)} has the key score.{key}")
    return {
        name: [f"score={name}", *common, *(o for o, key in keys.items() if key in fields)]
        for name, fields in known.items()
    }


def main(
    experiments: Mapping[str, Experiment], *, queries: int, repeats: int, output: Path | None
) -> None:
    """Print how fast and how exact the scores of experiments are that agree in all else.

    Args:
        experiments: by the name of their score; ratios are to the first one.
        queries: how many noisy points to ask about at each level.
        repeats: rounds of measurements.
        output: also write the numbers there, as JSON.
    """
    first = next(iter(experiments.values()))
    prepared = Prepared(first)
    mesh = prepared.mesh
    parts = mesh.shape[BATCH]
    require(queries % parts == 0, f"--queries {queries} must be a multiple of {parts} devices")
    dataset = prepared.dataset
    points, exact = exact_trajectory(prepared, queries)
    measured = measure(experiments, prepared.data, points, exact, repeats)
    sizes = {"points": len(dataset), "dim": dataset.dim, "queries": queries}
    title = f"{dataset.name}: n = {len(dataset)}, d = {dataset.dim}, B = {queries}"
    show_seconds(measured, points.sigma, title, repeats)
    show_errors(measured, points.sigma)
    if output is not None:
        devices = [str(device) for device in mesh.devices.flat]
        found = {"dataset": dataset.name, **sizes, "devices": devices}
        found |= {"sigma": points.sigma.tolist(), "scores": _numbers(measured)}
        output.write_text(json.dumps(found, indent=2) + "\n")


def exact_trajectory(prepared: Prepared, count: int) -> tuple[Queries, np.ndarray]:
    """The first `count` samples of an experiment on their way, had it the exact score.

    Returns:
        The states at all noise levels but the last of the grid, and the exact means there in the
        working precision: [L, count, *event].
    """
    levels = prepared.grid[:-1]
    states = States(range(len(levels)), count)
    with track("exact trajectory", len(levels), "steps") as progress:
        batches = prepared.drawing(prepared.exact, count)
        batches.draw(np.arange(count), [states], progress.reach)
    queries = Queries(states.stacked(), levels)
    return queries, np.asarray(queries.ask(prepared.exact, prepared.mesh).mean)


def measure(
    experiments: Mapping[str, Experiment],
    data: Placed,
    queries: Queries,
    exact: np.ndarray,
    repeats: int,
) -> dict[str, Measured]:
    """Time the scores in turn at every level; they are all in memory at once.

    Args:
        experiments: by the name of their score.
        data: what they are fitted to.
        queries: points [L, q, *event] and their levels.
        exact: [L, q, *event] the exact means.
        repeats: calls that count, of scores that are not slow.
    """
    clock = Clock()
    levels = queries.sigma.astype(queries.z.dtype)
    placed = [jax.device_put(z, batch_sharding(data.mesh)) for z in queries.z]
    programs = {}
    for name, experiment in experiments.items():
        with clock.phase(f"fit {name}"):
            denoiser = experiment.score.fit(data, queries.sigma.tolist())
        with clock.phase(f"compile {name}"):
            programs[name] = compiled_mean(denoiser, placed[0], levels[0])
    rounds = []
    calls = len(levels) * len(programs) * (1 + repeats)
    with track("measuring", calls, "calls") as progress:
        for z, sigma in zip(placed, levels, strict=True):
            tasks = {name: partial(program, z, sigma) for name, program in programs.items()}
            rounds.append(in_turn(tasks, repeats, progress.advance))
    found = {}
    for name, experiment in experiments.items():
        means = np.stack([np.asarray(each[name].result) for each in rounds])
        is_exact = experiment.score.is_exact
        found[name] = Measured(
            fit_seconds=clock.seconds[f"fit {name}"],
            seconds=[each[name].seconds for each in rounds],
            error=None if is_exact else relative_errors(means, exact),
        )
    return found


def _numbers(measured: Mapping[str, Measured]) -> dict[str, dict]:
    """All that was measured, for JSON; lists run over the levels."""
    first = next(iter(measured.values()))
    numbers = {}
    for name, score in measured.items():
        *seconds, total = score.medians()
        *ratios, ratio = score.times_faster(first)
        numbers[name] = {
            "fit_seconds": score.fit_seconds,
            "calls": [len(each) for each in score.seconds],
            "seconds": seconds,
            "times_faster": ratios,
            "total_seconds": total,
            "total_times_faster": ratio,
            "relative_error_max": None if score.error is None else score.error.tolist(),
        }
    return numbers


def show_seconds(
    measured: Mapping[str, Measured], sigma: np.ndarray, title: str, repeats: int
) -> None:
    """One row a level and one for their sum: seconds, and how many times faster than the first."""
    reference = next(iter(measured))
    table = Table(title=title)
    cells = [[f"{level:.3g}" for level in sigma] + ["all"]]
    table.add_column("σ", justify="right")
    notes = [f"×: times faster than {reference}", "at states of a run with the exact score"]
    is_once = False
    for name, score in measured.items():
        table.add_column(f"{name}\nseconds", justify="right")
        marks = ["*" if len(each) < repeats else "" for each in score.seconds]
        pairs = zip(score.medians(), [*marks, max(marks)], strict=True)
        cells.append([f"{seconds:.3g}{mark}" for seconds, mark in pairs])
        is_once |= "*" in marks
        if name != reference:
            table.add_column("\n×", justify="right")
            ratios = score.times_faster(measured[reference])
            cells.append([f"{ratio:.3g}" for ratio in ratios])
    for number, row in enumerate(zip(*cells, strict=True)):
        table.add_row(*row, end_section=number == len(sigma) - 1)
    if is_once:
        notes.append("* called only once")
    table.caption = "\n".join(notes)
    report.show(table)


def show_errors(measured: Mapping[str, Measured], sigma: np.ndarray) -> None:
    """One row a level, and one for their maximum."""
    errors = {name: score.error for name, score in measured.items() if score.error is not None}
    if not errors:
        return
    table = Table(title="relative error of the mean, largest")
    for name in ("σ", *errors):
        table.add_column(name, justify="right")
    rows = zip(sigma, *errors.values(), strict=True)
    for number, (level, *row) in enumerate(rows):
        is_last = number == len(sigma) - 1
        table.add_row(f"{level:.3g}", *(f"{x:.2g}" for x in row), end_section=is_last)
    table.add_row("all", *(f"{error.max():.2g}" for error in errors.values()))
    report.show(table)
