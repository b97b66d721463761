"""Scores side by side: seconds of a call and error of its mean, noise level by noise level."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence

import jax.numpy as jnp
import numpy as np
from rich.table import Table

from gdiff.bench.harness import (
    by_level,
    compiled,
    exact_states,
    level_table,
    medians,
    problem_of,
    ratios,
    relative_errors,
    title_of,
)
from gdiff.errors import UserError, require
from gdiff.experiment import Experiment
from gdiff.prepared import Prepared
from gdiff.trajectory import Queries


def overrides_by_score(
    names: Sequence[str],
    overrides: Sequence[str],
    keys_of: Callable[[list[str]], set[str]],
) -> dict[str, list[str]]:
    """Overrides that choose each score; score.key=value is for the scores that have the key.

    `overrides` are all but the choice of the score; `keys_of` gives the keys of the one chosen.

    Raises:
        UserError: a score is named twice, or none has a key; and what `keys_of` raises.
    """
    require(len(set(names)) == len(names), f"score={','.join(names)} names a score twice")
    found = (re.match(r"\W*score\.(\w+)", override) for override in overrides)
    keys = {match.string: match[1] for match in found if match}
    common = [override for override in overrides if override not in keys]
    known = {name: keys_of([f"score={name}", *common]) for name in names}
    for override, key in keys.items():
        if not any(key in fields for fields in known.values()):
            raise UserError(f"{override}: none of {', '.join(names)} has the key score.{key}")
    return {
        name: [f"score={name}", *common, *(o for o, key in keys.items() if key in fields)]
        for name, fields in known.items()
    }


def measure(experiments: Mapping[str, Experiment], queries: int, repeats: int) -> dict:
    """How fast and how exact the scores of experiments are that agree in all else, for JSON.

    Experiments go by the name of their score, and ratios are to the first one. Lists run over the
    levels.
    """
    prepared = Prepared(next(iter(experiments.values())))
    problem = problem_of(prepared, queries)
    points = exact_states(prepared, queries)
    results = problem | {"sigma": points.sigma.tolist()}
    return results | {"scores": measure_scores(experiments, prepared, points, repeats)}


def measure_scores(
    experiments: Mapping[str, Experiment], prepared: Prepared, points: Queries, repeats: int
) -> dict[str, dict]:
    """Time the scores in turn at every level; they are all in memory at once.

    Errors are those of the mean against the exact one in the working precision, or against what the
    score approximates, where that is another one and among the scores.
    """
    clock, exact = prepared.clock, np.asarray(points.ask(prepared.exact, prepared.mesh).mean)
    placed = Queries([jnp.asarray(z) for z in points.z], points.sigma.astype(points.z.dtype))
    programs = {}
    for name, experiment in experiments.items():
        with clock.phase(f"fit {name}"):
            denoiser = experiment.score.fit(prepared.data, points.sigma.tolist())
        with clock.phase(f"compile {name}"):
            programs[name] = compiled(denoiser, placed.z[0])
    rounds = by_level(programs, placed, repeats)
    means = {
        name: np.stack([np.asarray(each[name].result) for each in rounds]) for name in programs
    }
    first, found = [each[next(iter(programs))].seconds for each in rounds], {}
    for name, experiment in experiments.items():
        of_all = experiment.score.of_all_rows
        full = next((name for name, each in experiments.items() if each.score == of_all), None)
        wanted = exact if full is None else means[full]
        errors = relative_errors(means[name], wanted).tolist()
        errors = None if experiment.score.is_exact else errors
        seconds = [each[name].seconds for each in rounds]
        numbers = numbers_of(seconds, first)
        fit_seconds = clock.seconds[f"fit {name}"]
        found[name] = {"fit_seconds": fit_seconds, **numbers, "relative_error_max": errors}
    return found


def numbers_of(seconds: Sequence[np.ndarray], first: Sequence[np.ndarray]) -> dict:
    """Medians of the seconds of a score, and how many times it is faster than the first one."""
    *middle, total = medians(seconds)
    *times_faster, total_times_faster = ratios(first, seconds)
    return {
        "calls": [len(each) for each in seconds],
        "seconds": middle,
        "times_faster": times_faster,
        "total_seconds": total,
        "total_times_faster": total_times_faster,
    }


def tables(results: Mapping) -> Iterator[Table]:
    """Seconds and errors."""
    yield _seconds(results)
    errors = {name: score["relative_error_max"] for name, score in results["scores"].items()}
    columns = [
        (name, [f"{x:.2g}" for x in (*each, max(each))])
        for name, each in errors.items()
        if each is not None
    ]
    if columns:
        yield level_table(results["sigma"], columns, title="relative error of the mean, largest")


def _seconds(results: Mapping) -> Table:
    """Seconds, and how many times faster than the first score."""
    reference, columns, is_once = next(iter(results["scores"])), [], False
    for name, score in results["scores"].items():
        marks = ["*" if calls < results["repeats"] else "" for calls in score["calls"]]
        is_once |= any(marks)
        seconds = zip(
            [*score["seconds"], score["total_seconds"]], [*marks, max(marks)], strict=True
        )
        columns.append((f"{name}\nseconds", [f"{each:.3g}{mark}" for each, mark in seconds]))
        if name != reference:
            times = [*score["times_faster"], score["total_times_faster"]]
            columns.append(("\n×", [f"{ratio:.3g}" for ratio in times]))
    notes = [f"×: times faster than {reference}", "at states of a run with the exact score"]
    caption = "\n".join([*notes, *["* called only once"] * is_once])
    return level_table(results["sigma"], columns, title=title_of(results), caption=caption)
