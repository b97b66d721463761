"""Grids of noise levels side by side, by what their steps cost in nats and in distance."""

import json
import logging
import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from gdiff import figures, report
from gdiff.budget.initialization import Noised
from gdiff.budget.spectrum import Spectrum
from gdiff.errors import Failures, UserError
from gdiff.experiment import Experiment
from gdiff.metrics.chunks import evenly
from gdiff.prepared import Prepared
from gdiff.prior.base import PriorSpec
from gdiff.progress import track
from gdiff.schedule.compare import compare, comparisons
from gdiff.schedule.levels import read_numbers
from gdiff.schedule.losses import LossCurve
from gdiff.schedule.optimal import Optimal
from gdiff.store.outputs import RunFolder, write_csv

log = logging.getLogger(__name__)

RESULT, PICTURE, LEVELS = "schedule.json", "schedule.png", "schedule.csv"
HORIZON_PICTURE = "horizon.png"
_MOST_STEPS, _COUNTS = 1000, 18
_HORIZONS = 14
# Noise below this share of the data's own spread hides nothing of them from any prior.
_LEAST_NOISE = 0.05
# What is predicted for every grid.
DISTANCES = ("frechet", "sliced_w2")
_SNIPPET = """\
# {path} in other tools: all levels, the last of which is 0
import json, numpy as np, torch
{load}
# diffusers, schedulers that take sigmas (Euler, Heun, DPM++ …)
pipe.scheduler.set_timesteps(sigmas=sigmas, device="cuda")  # or pipe(prompt, sigmas=sigmas)
# k-diffusion
x = torch.randn(shape) * sigmas[0]
x = k_diffusion.sampling.sample_heun(model, x, torch.tensor(sigmas))"""
# Standard errors by which an estimate must be below the tolerance.
_ERRORS = 2.0


class _OfSpectrum(Prepared):
    """An experiment about Gaussian data, of which only the variances are given."""

    def losses(self, ends: tuple[float, float] | None = None) -> LossCurve:
        """In closed form, or read from the user's file."""
        if self.experiment.schedule.loss_file is not None:
            return super().losses(ends)
        return self.spectrum.losses(ends or self.ends)


def prepare(experiment: Experiment, spectrum: Path | None = None) -> Prepared:
    """The experiment, on its data or on Gaussian data with the variances in a file.

    Raises:
        UserError: the file holds no variances.
    """
    if spectrum is None:
        return Prepared(experiment)
    named = f"--spectrum {spectrum}"
    prepared = _OfSpectrum(experiment)
    try:
        prepared.spectrum = Spectrum.read(read_numbers(spectrum, named), experiment.prior)
    except UserError as error:
        raise UserError(f"{named}: {str(error).removeprefix(f'{named} ')}") from error
    return prepared


def main(
    prepared: Prepared,
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
    experiment = prepared.experiment
    prepared.require_span()
    count = experiment.schedule.steps or int(np.sum(prepared.grid > 0)) - 1
    curve = prepared.losses()
    is_given = isinstance(prepared, _OfSpectrum)
    entropy = None if is_given else math.log(len(prepared.dataset))
    kind = {"is_ancestral": experiment.sampler.is_ancestral}
    grids = compare(curve, experiment.process, count, *prepared.ends, **kind)
    run = run_grids(prepared, curve, count)
    if "optimal" in run:
        grids["optimal"] = _with_levels(run["optimal"], count + 1)
    result = _summary(curve, grids, entropy)
    result |= {"steps": count, "sigma": list(prepared.ends)}
    result |= _predictions(prepared, {name: run[name] for name in result["kl_disc"] if run})
    if priors:
        result["horizon"] = _horizons(prepared, priors)
    if folder is not None:
        own = RunFolder(folder)
        levels = zip(*(grid.tolist() for grid in grids.values()), strict=True)
        rows = [dict(zip(grids, each, strict=True)) for each in levels]
        write_csv(folder / LEVELS, list(grids), rows)
        failed = Failures()
        with failed.spare(PICTURE):
            draw = _picture(prepared, curve, grids, entropy, chosen)
            own.write_plot(PICTURE, draw, experiment.plot_kinds)
        if priors:
            with failed.spare(HORIZON_PICTURE):
                draw = partial(_horizon_picture(**result["horizon"]), title=prepared.title)
                own.write_plot(HORIZON_PICTURE, draw, experiment.plot_kinds)
        if failed:
            result["failed"] = failed
        own.write_json(RESULT, result)
    return result


def _optimal(prepared: Prepared, count: int) -> np.ndarray | None:
    """The optimal grid of so many steps; None where the sampler has no closed form."""
    own = prepared.experiment
    high, low = prepared.ends
    ends = {"sigma_max": high, "sigma_min": low, "to_zero": own.schedule.to_zero}
    try:
        with prepared.clock.phase("forecast"):
            found = Optimal(steps=count, **ends).found(prepared.forecast("frechet"), own.process)
        return found.grid(own.process)
    except UserError as error:
        log.info("no optimal grid: %s", error)
        return None


def _with_levels(grid: np.ndarray, count: int) -> np.ndarray:
    """The positive levels of a grid, or so many with the same spacing."""
    levels = grid[grid > 0]
    if len(levels) == count:
        return levels
    places = np.linspace(0, len(levels) - 1, count)
    inner = np.exp(np.interp(places, np.arange(len(levels)), np.log(levels)))[1:-1]
    return np.concatenate([levels[:1], inner, levels[-1:]])


def run_grids(
    prepared: Prepared, curve: LossCurve, count: int, *, has_optimal: bool = True
) -> dict[str, np.ndarray]:
    """Grids [K + 1] of every kind as a run has them, with `optimal` where the sampler allows it.

    Where a run ends with a step onto 0, its grid of K steps has one positive level less than that
    of a comparison in nats.
    """
    own, to_zero = prepared.experiment, prepared.experiment.schedule.to_zero
    inner = count - to_zero
    if not inner:  # a single level: all are the same
        return {}
    kind = {"is_ancestral": own.sampler.is_ancestral}
    found = compare(curve, own.process, inner, *prepared.ends, **kind)
    grids = {name: np.append(grid, [0.0] * to_zero) for name, grid in found.items()}
    best = _optimal(prepared, count) if has_optimal else None
    return grids if best is None else {"optimal": best} | grids


def _predictions(prepared: Prepared, grids: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Distances that the run's sampler will have on Gaussian data, for grids as a run has them."""
    distances: dict[str, dict[str, float]] = {name: {} for name in DISTANCES}
    for objective, values in distances.items():
        for name, grid in grids.items():
            try:
                values[name] = prepared.forecast(objective).of(grid)
            except UserError as error:
                log.info("no forecast for %s: %s", name, error)
    levels = {name: grid.tolist() for name, grid in grids.items()}
    sampler = type(prepared.experiment.sampler).__name__
    return distances | {"run_grids": levels, "sampler": sampler}


def export(prepared: Prepared, path: Path, chosen: str) -> str:
    """Write the grid of the run to a file; how other tools take it, as text.

    Args:
        prepared: whose grid it is.
        path: .json or .npy.
        chosen: name of the schedule.
    """
    sigmas = prepared.grid
    if path.suffix == ".npy":
        np.save(path, sigmas)
        load = f"sigmas = np.load({str(path)!r}).tolist()"
    else:
        sampler = type(prepared.experiment.sampler).__name__
        found = {"sigmas": sigmas.tolist(), "schedule": chosen, "sampler": sampler}
        path.write_text(json.dumps(found) + "\n", encoding="utf-8")
        load = f"sigmas = json.load(open({str(path)!r}))['sigmas']"
    return _SNIPPET.format(load=load, path=path)


def _summary(
    curve: LossCurve, grids: Mapping[str, np.ndarray], entropy: float | None
) -> dict[str, Any]:
    """The numbers of the comparison, best grid first."""
    nats = {name: curve.discretization(grid) for name, grid in grids.items()}
    nats = dict(sorted(nats.items(), key=lambda each: each[1]))
    first, error = grids[next(iter(nats))], curve.standard_error
    steps = len(first) - 1
    return {
        "kl_disc": nats,
        "kl_disc_standard_error": {n: curve.discretization_error(grids[n]) for n in nats},
        "entropy": entropy,
        "entropy_bound": None if entropy is None else entropy**2 / steps,
        "asymptotic": curve.asymptotic_constant(first[0], first[-1]) / steps,
        "loss": {
            "sigma": curve.sigma.tolist(),
            "loss": curve.loss.tolist(),
            "standard_error": None if error is None else error.tolist(),
        },
        "grids": {name: grids[name].tolist() for name in nats},
    }


def _picture(
    prepared: Prepared,
    curve: LossCurve,
    grids: Mapping[str, np.ndarray],
    entropy: float | None,
    chosen: str,
) -> Callable[..., bytes]:
    """The loss, the grids, and what they cost by the number of their steps."""
    counts = np.unique(np.geomspace(2, _MOST_STEPS, _COUNTS).round().astype(int))
    nats: dict[str, list[float]] = {name: [] for name in grids}
    process = prepared.experiment.process
    with track("grids"):
        kind = {"is_ancestral": prepared.experiment.sampler.is_ancestral}
        for found in comparisons(curve, process, counts.tolist(), *prepared.ends, **kind):
            for name, grid in found.items():
                nats[name].append(curve.discretization(grid))
    curves = {name: (counts, np.array(values)) for name, values in nats.items() if values}
    bound = None if entropy is None else (counts, entropy**2 / counts)
    loss = (curve.sigma, curve.loss, curve.standard_error)
    look = {"title": prepared.title}
    return partial(figures.schedule_figure, *loss, grids, curves, bound, chosen, **look)


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
) -> Callable[..., bytes]:
    """The picture of what `_horizons` found."""
    curves = {
        name: tuple(np.array(values[key], float) for key in ("nats", "standard_error"))
        for name, values in kl.items()
    }
    ends = np.array(sigma), np.array(time)
    return partial(figures.horizon_figure, *ends, process, curves, tolerance, shortest)


def tables(result: Mapping[str, Any]) -> Iterator[Table]:
    """The result for the screen."""
    high, low = result["sigma"]
    errors = result["kl_disc_standard_error"].values()
    bound = result["entropy_bound"]
    order = "" if bound is None else f"; order by entropy, H²/K: {bound:.4g}"
    yield report.table(
        ("schedule", "KL_disc, nats", "±", "Fréchet²", "sliced W2"),
        [
            (
                name,
                nats,
                report.cell(error, digits=2),
                *(report.cell(result[key].get(name), digits=4) for key in DISTANCES),
            )
            for (name, nats), error in zip(result["kl_disc"].items(), errors, strict=True)
        ],
        title=f"{result['steps']} steps from σ = {high:.4g} to {low:.4g}",
        caption=f"best grid, steps → ∞: {result['asymptotic']:.4g} nats{order}; distances: "
        f"predicted for {result['sampler']} on Gaussian data with this spectrum",
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
