"""Compare samplers at equal numbers of evaluations of the score.

    python scripts/sampler_table.py experiment=acceleration_network score.path=net \
        --csv table.csv --figure samplers.png

Arguments are Hydra overrides of all runs. Every sampler has as many evaluations as --evaluations
says or one fewer, repeated with several seeds; numbers are means over these. The columns:

- error: of samplers without noise, the root mean square distance of a coordinate from the solution
  of the same equation from the same start, which is Heun's with --exact steps;
- sliced_w2, frechet_pca: distances of the samples from the data, and frechet_classifier with
  metrics.classifier=true;

each with its standard error. The line below the table has the distances of that solution's samples,
which is all that more steps can reach: what is left are the errors of the score. With --folder DIR
an interrupted table goes on there.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import sweeps

from gdiff import config, report
from gdiff.errors import require
from gdiff.figures.lines import lines_figure
from gdiff.store.outputs import RunFolder

ODE = ("ddim", "accelerated_ode", "dpmpp_2m", "heun")
SDE = ("ancestral", "accelerated_sde", "srk", "midpoint", "li_cai")
EXACT = "heun"
_TRIAL = 64  # steps
DISTANCES = ("sliced_w2", "frechet_pca", "frechet_classifier")


class Row(NamedTuple):
    """Runs that differ in their seeds only."""

    sampler: str
    evaluations: int
    error: float | None
    error_error: float | None
    sliced_w2: float
    sliced_w2_error: float | None
    frechet_pca: float
    frechet_pca_error: float | None
    frechet_classifier: float | None
    frechet_classifier_error: float | None


def words(overrides, samplers, steps, seeds):
    """Overrides of a run or of a sweep."""
    ours = {"sampler": samplers, "schedule.steps": steps, "seed": seeds}
    return sweeps.words(overrides, [f"{key}={value}" for key, value in ours.items()], ())


def steps_for(composer, overrides, sampler, count):
    """Steps that take `count` evaluations, or one fewer."""
    trial = composer.experiment(words(overrides, sampler, _TRIAL, 0))
    return round(count * _TRIAL / trial.blocks().steps.evaluations)


def by_setting(found, folder):
    """Metrics and samples of a sweep's runs, by sampler and evaluations: lists over the seeds."""
    runs = {}
    for row in found:
        row["samples"] = RunFolder(folder / row["run"]).samples()
        runs.setdefault((row["sampler"], row["denoiser_evaluations"]), []).append(row)
    return runs


def row_of(sampler, count, runs, exact):
    """What runs with several seeds achieved; `exact` are those of the solution, if it is theirs."""
    error = (None, None)
    if exact is not None:
        pairs = zip(runs, exact, strict=True)
        far = [np.sqrt(np.mean((a["samples"] - b["samples"]) ** 2)) for a, b in pairs]
        error = sweeps.mean_and_error(far)
    numbers = [*error]
    for key in DISTANCES:
        is_there = key in runs[0]
        numbers += sweeps.mean_and_error([run[key] for run in runs]) if is_there else (None, None)
    return Row(sampler, count, *numbers)


class Line(NamedTuple):
    """A sampler in the figure."""

    label: str
    x: list[int]
    y: list[float]
    error: list[float]


def picture(rows, kind):
    """Fréchet distances, one line a sampler: in features of the classifier where there are such."""
    name_of = DISTANCES[1] if rows[0].frechet_classifier is None else DISTANCES[2]
    lines = []
    for name in dict.fromkeys(row.sampler for row in rows):
        own = [row for row in rows if row.sampler == name]
        errors = [getattr(row, f"{name_of}_error") or 0.0 for row in own]
        found = ([row.evaluations for row in own], [getattr(row, name_of) for row in own])
        lines.append(Line(name, *found, errors))
    labels = ("evaluations", name_of)
    look = {"legend": "sampler", "names": (), "log": (True, True), "kind": kind}
    return lines_figure(lines, labels, **look)


def parse(arguments):
    parser = sweeps.parser("Samplers at equal numbers of evaluations.")
    parser.add_argument("--samplers", default=",".join(ODE + SDE), help="options of the group")
    parser.add_argument("--evaluations", default="10,20,40", help="numbers of them")
    parser.add_argument("--exact", type=int, default=200, help="steps of the solution")
    parser.add_argument("--seeds", type=int, default=3, help="how many")
    parser.add_argument("--figure", type=Path, metavar="FILE", help="also draw Fréchet distances")
    return parser.parse_intermixed_args(arguments)


def main(arguments=None):
    options = parse(arguments)
    names, texts = options.samplers.split(","), options.evaluations.split(",")
    require(
        all(map(str.isdecimal, texts)), f"--evaluations {options.evaluations} has more than numbers"
    )
    require(options.seeds >= 1, f"--seeds {options.seeds} must be at least 1")
    seeds = ",".join(map(str, range(options.seeds)))
    planned = {}
    with config.composer() as composer:  # finds mistakes before anything runs
        for count in map(int, texts):
            for name in names:
                steps = steps_for(composer, options.overrides, name, count)
                planned.setdefault(steps, []).append(name)
    folder = sweeps.folder_of(options, "sampler_table")
    sweep = folder / "exact"
    long = words(options.overrides, EXACT, options.exact, seeds)
    [exact] = by_setting(sweeps.rows(long, sweep), sweep).values()
    rows = []
    for steps, samplers in planned.items():
        sweep = folder / f"{steps} steps"
        found = sweeps.rows(words(options.overrides, ",".join(samplers), steps, seeds), sweep)
        for (name, count), runs in by_setting(found, sweep).items():
            rows.append(row_of(name, count, runs, exact if name in ODE else None))
    rows.sort(key=lambda row: (names.index(row.sampler), row.evaluations))
    report.show(report.rows_table(rows))
    limit = row_of(EXACT, 0, exact, None)
    named = {key: getattr(limit, key) for key in DISTANCES}
    shown = [f"{key} {value:.4g}" for key, value in named.items() if value is not None]
    print(f"the solution: {', '.join(shown)}")
    sweeps.write(rows, options)
    if options.figure is not None:
        kind = options.figure.suffix.lower().removeprefix(".")
        options.figure.write_bytes(picture(rows, kind))
    print(folder)
    return 0


if __name__ == "__main__":
    sweeps.end(main)
