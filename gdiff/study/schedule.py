"""Grids of noise levels side by side, by the KL divergence that their steps cost."""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from gdiff import figures, report
from gdiff.budget.initialization import Noised
from gdiff.errors import Failures
from gdiff.metrics.chunks import evenly
from gdiff.prepared import Experiment, Prepared
from gdiff.prior.base import PriorSpec
from gdiff.progress import track
from gdiff.schedule.compare import compare, comparisons
from gdiff.schedule.losses import LossCurve
from gdiff.store.outputs import RunFolder, write_csv

RESULT, PICTURE, LEVELS = "schedule.json", "schedule.png", "schedule.csv"
HORIZON_PICTURE = "horizon.png"
_MOST_STEPS, _COUNTS = 1000, 18
_HORIZONS = 14
# Noise below this share of the data's own spread hides nothing of them from any prior.
_LEAST_NOISE = 0.05
# Standard errors by which an estimate must be below the tolerance.
_ERRORS = 2.0


def main(
    experiment: Experiment,
    priors: Mapping[str, PriorSpec],
    folder: Path | None,
    *,
    chosen: str,
) -> dict[str, Any]:
    """Compare grids, and priors if there are any: the content of schedule.json.

    The experiment's score gives the loss, its schedule the ends and the number of steps; `chosen`
    is the name of that schedule. Without a folder nothing is written. A picture that fails is named
    as `failed`.
    """
    prepared = Prepared(experiment)
    prepared.require_span()
    count = experiment.schedule.steps or int(np.sum(prepared.grid > 0)) - 1
    curve = prepared.losses()
    grids = compare(curve, experiment.process, count, *prepared.ends)
    result = _summary(curve, grids, math.log(len(prepared.dataset)))
    result |= {"steps": count, "sigma": list(prepared.ends)}
    if priors:
        result["horizon"] = _horizons(prepared, priors)
    if folder is not None:
        own = RunFolder(folder)
        levels = zip(*(grid.tolist() for grid in grids.values()), strict=True)
        rows = [dict(zip(grids, each, strict=True)) for each in levels]
        write_csv(folder / LEVELS, list(grids), rows)
        failed = Failures()
        with failed.spare(PICTURE):
            own.write_bytes(PICTURE, _picture(prepared, curve, grids, chosen))
        if priors:
            with failed.spare(HORIZON_PICTURE):
                own.write_bytes(HORIZON_PICTURE, _horizon_picture(**result["horizon"]))
        if failed:
            result["failed"] = failed
        own.write_json(RESULT, result)
    return result


def _summary(curve: LossCurve, grids: Mapping[str, np.ndarray], entropy: float) -> dict[str, Any]:
    """The numbers of the comparison, best grid first."""
    nats = {name: curve.discretization(grid) for name, grid in grids.items()}
    nats = dict(sorted(nats.items(), key=lambda each: each[1]))
    first, error = grids[next(iter(nats))], curve.standard_error
    steps = len(first) - 1
    return {
        "kl_disc": nats,
        "kl_disc_standard_error": {n: curve.discretization_error(grids[n]) for n in nats},
        "entropy": entropy,
        "entropy_bound": entropy**2 / steps,
        "asymptotic": curve.asymptotic_constant(first[0], first[-1]) / steps,
        "loss": {
            "sigma": curve.sigma.tolist(),
            "loss": curve.loss.tolist(),
            "standard_error": None if error is None else error.tolist(),
        },
        "grids": {name: grids[name].tolist() for name in nats},
    }


def _picture(
    prepared: Prepared, curve: LossCurve, grids: Mapping[str, np.ndarray], chosen: str
) -> bytes:
    """The loss, the grids, and what they cost by the number of their steps."""
    counts = np.unique(np.geomspace(2, _MOST_STEPS, _COUNTS).round().astype(int))
    nats: dict[str, list[float]] = {name: [] for name in grids}
    process = prepared.experiment.process
    with track("grids"):
        for found in comparisons(curve, process, counts.tolist(), *prepared.ends):
            for name, grid in found.items():
                nats[name].append(curve.discretization(grid))
    curves = {name: (counts, np.array(values)) for name, values in nats.items()}
    bound = (counts, math.log(len(prepared.dataset)) ** 2 / counts)
    return figures.schedule_figure(
        curve.sigma, curve.loss, curve.standard_error, grids, curves, bound, chosen
    )


def _horizons(prepared: Prepared, priors: Mapping[str, PriorSpec]) -> dict[str, Any]:
    """KL(p_T ‖ prior) of all priors from the first noise level down."""
    experiment, dataset, ends = prepared.experiment, prepared.dataset, prepared.ends
    part = dataset.rows(evenly(len(dataset), 1024))
    least = max(ends[1], _LEAST_NOISE * float(part.std()))
    sigma = np.geomspace(ends[0], min(least, ends[0]), _HORIZONS)
    found: dict[str, list] = {name: [] for name in priors}
    with track("priors", len(sigma) * len(priors), "divergences") as progress:
        for level in sigma:
            noised = Noised.of(prepared.data, float(level))
            for name, prior in priors.items():
                # What is trained for one level is asked about the run's alone.
                is_asked = not prior.is_trained or level == sigma[0]
                found[name].append(noised.divergence(prior) if is_asked else (None, None))
                progress.advance()
    tolerance = experiment.schedule.horizon_tolerance
    time = experiment.process.time(sigma)
    shortest = {}
    for name, values in found.items():
        meets = [n is not None and n + _ERRORS * e <= tolerance for n, e in values]
        if meets[0]:
            shortest[name] = float(time[meets.index(False) - 1 if False in meets else -1])
    return {
        "sigma": sigma.tolist(),
        "time": time.tolist(),
        "process": type(experiment.process).__name__,
        "tolerance": tolerance,
        "shortest": shortest,
        "kl": {
            name: {"nats": [n for n, _ in values], "standard_error": [e for _, e in values]}
            for name, values in found.items()
        },
    }


def _horizon_picture(
    sigma: list, time: list, process: str, tolerance: float, shortest: dict, kl: dict
) -> bytes:
    """The picture of what `_horizons` found."""
    curves = {
        name: tuple(np.array(values[key], float) for key in ("nats", "standard_error"))
        for name, values in kl.items()
    }
    ends = np.array(sigma), np.array(time)
    return figures.horizon_figure(*ends, process, curves, tolerance, shortest)


def tables(result: Mapping[str, Any]) -> Iterator[Table]:
    """The result for the screen."""
    high, low = result["sigma"]
    errors = result["kl_disc_standard_error"].values()
    yield report.table(
        ("schedule", "KL_disc, nats", "±"),
        [
            (name, nats, report.cell(error, digits=2))
            for (name, nats), error in zip(result["kl_disc"].items(), errors, strict=True)
        ],
        title=f"{result['steps']} steps from σ = {high:.4g} to {low:.4g}",
        caption=f"best grid, steps → ∞: {result['asymptotic']:.4g}; order by entropy, "
        f"H²/K: {result['entropy_bound']:.4g}",
    )
    if "horizon" not in result:
        return
    horizon = result["horizon"]
    columns = [horizon["sigma"], horizon["time"], *(x["nats"] for x in horizon["kl"].values())]
    shortest = ", ".join(f"{name} {time:.3g}" for name, time in horizon["shortest"].items())
    yield report.table(
        ("σ", f"time of {horizon['process']}", *horizon["kl"]),
        [[report.cell(x, digits=3) for x in row] for row in zip(*columns, strict=True)],
        left=0,
        title="KL(p_T ‖ prior) in nats",
        caption=f"shortest time within {horizon['tolerance']:g} nats: {shortest or 'none'}",
    )


def show(result: Mapping[str, Any], *, as_json: bool) -> None:
    """Print the result as tables, or as JSON."""
    if as_json:
        print(json.dumps(result))
        return
    for table in tables(result):
        report.show(table)
