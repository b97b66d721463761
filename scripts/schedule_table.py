"""Compare grids of noise levels: what their steps cost in nats, and the samples drawn on them.

    python scripts/schedule_table.py dataset=mnist score=wiener --steps 5,10,20,50 --csv table.csv

Arguments are Hydra overrides of all runs. Every schedule gets the same first and last noise level
and the same number of steps; `gdiff sample` draws on each grid with the ancestral sampler, and the
last step ends on schedule.sigma_min, so that a grid of K steps takes K evaluations. The columns:

- kl_disc, kl_disc_error: what the steps cost in nats (arXiv 2601.21943), by the denoising loss of
  the score on points and noise that no grid was made for, and its standard error;
- above_las, above_las_error: the same less that of `las`: the points are the same for all grids, so
  that this is known far better;
- sliced_w2, frechet_pca: distances of the samples from the data;
- lowest: the columns in which this grid is the best for its number of steps.

Nats weigh low noise heavily, and distances hardly see it: the best grid in nats can be a poor one
for the looks of few steps.

The last line says what the grid of `las` took, next to the sampling of the longest run. A loss that
was measured before comes from the cache: for the full price set GDIFF_CACHE to an empty folder.
"""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import sweeps

from gdiff import config, report
from gdiff.budget.losses import JUDGE_SEED, measure
from gdiff.errors import require
from gdiff.prepared import Prepared
from gdiff.schedule.compare import comparisons

GRIDS = "las,entropic,asymptotic,logsnr,edm,cosine,vp,uniform"
# Unless the command line says otherwise.
DEFAULTS = ("num_samples=256", "batch_size=256", "metrics.budget=false")
FIXED = ("sampler=ancestral", "schedule.to_zero=false", "metrics.score_error=never")
LOWEST = ("kl_disc", "sliced_w2", "frechet_pca")


class Row(NamedTuple):
    """A grid; distances are None where nothing was drawn."""

    steps: int
    schedule: str
    kl_disc: float
    kl_disc_error: float
    above_las: float
    above_las_error: float
    sliced_w2: float | None = None
    frechet_pca: float | None = None
    lowest: str = ""


def words(overrides, steps, grids):
    """Overrides of a sweep over grids and numbers of steps."""
    ours = [f"schedule={grids}", f"schedule.steps={steps}", *FIXED]
    return sweeps.words(overrides, ours, DEFAULTS)


def costs(experiment, counts, names, points):
    """KL_disc of grids: rows without distances, and the seconds that the grid of las took."""
    prepared = Prepared(experiment)
    ends = prepared.ends
    grids = comparisons(prepared.losses(), experiment.process, counts, *ends)
    for name in names:
        require(name in grids[0], f"{name} cannot go from sigma = {ends[0]:g} to {ends[1]:g}")
    held_out = experiment.schedule.loss_on == "test"
    test = experiment.dataset.held_out().load() if held_out else None
    options = {"samples": points, "test": test, "seed": JUDGE_SEED}
    judge = measure(experiment.score, prepared.data, ends, **options)
    parts = [replace(judge, loss=loss, replicates=None) for loss in judge.replicates]
    rows = []
    for count, found in zip(counts, grids, strict=True):
        nats = {n: np.array([c.discretization(found[n]) for c in [judge, *parts]]) for n in names}
        for name in names:
            above = nats[name] - nats["las"]
            rows.append(Row(count, name, *mean_and_error(nats[name]), *mean_and_error(above)))
    return rows, prepared.clock.seconds["losses"]


def mean_and_error(values):
    """The first value, and the standard error from the replicates after it."""
    return float(values[0]), float(np.std(values[1:], ddof=1) / np.sqrt(len(values) - 1))


def draw(overrides, folder):
    """Draw on all grids: metrics by number of steps and name."""
    rows = sweeps.rows(overrides, folder)
    return {(int(row["schedule.steps"]), row["schedule"]): row for row in rows}


def marked(rows):
    """The rows with what each is the best in."""

    def is_best(row, key):
        values = [getattr(rival, key) for rival in rows if rival.steps == row.steps]
        return None not in values and getattr(row, key) == min(values)

    return [row._replace(lowest=" ".join(k for k in LOWEST if is_best(row, k))) for row in rows]


def parse(arguments):
    parser = sweeps.parser("Grids of noise levels, in nats and by their samples.")
    parser.add_argument("--steps", default="5,10,20,50", help="numbers of steps")
    parser.add_argument("--grids", default=GRIDS, help="options of the group schedule, with las")
    parser.add_argument("--points", type=int, default=512, help="noised points to measure on")
    parser.add_argument("--no-samples", action="store_true", help="nats alone")
    return parser.parse_intermixed_args(arguments)


def main(arguments=None):
    options = parse(arguments)
    names = options.grids.split(",")
    texts = options.steps.split(",")
    require(all(map(str.isdecimal, texts)), f"--steps {options.steps} has more than numbers")
    counts = [int(each) for each in texts]
    require("las" in names, f"--grids {options.grids}: las has to be among them")
    require(options.points >= 1, f"--points {options.points} must be at least 1")
    with config.composer() as composer:
        for count in counts:
            experiment = composer.experiment(words(options.overrides, count, "las"))
    rows, seconds = costs(experiment, counts, names, options.points)
    if not options.no_samples:
        folder = sweeps.folder_of(options, "schedule_table")
        found = draw(words(options.overrides, options.steps, options.grids), folder)
        for i, row in enumerate(rows):
            run = found[row.steps, row.schedule]
            distances = {key: run.get(key) for key in ("sliced_w2", "frechet_pca")}
            rows[i] = row._replace(**distances)
    rows = marked(rows)
    report.show(report.rows_table(rows))
    sweeps.write(rows, options)
    line = f"loss and grid of las: {seconds:.3g} s"
    if not options.no_samples:
        whole = found[max(counts), "las"]["seconds_per_sample"] * experiment.num_samples
        line += f", {seconds / whole:.2%} of {whole:.3g} s for sampling; runs in {folder}"
    print(line)
    return 0


if __name__ == "__main__":
    sweeps.end(main)
