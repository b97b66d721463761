"""Compare grids of noise levels by the samples drawn on them, and by what is predicted for them.

    python scripts/schedule_table.py dataset=mnist score=wiener --samplers ddim,heun \
        --csv table.csv --figure grids.png

Arguments are Hydra overrides of all runs. Every grid has the same first and last positive level and
the same number K of steps, the last of them onto 0. The columns:

- frechet: squared Fréchet distance predicted in closed form, for the sampler on Gaussian data with
  the spectrum of these: what score=wiener does, but for the number of samples;
- kl_disc: what the steps between positive levels cost ancestral sampling in nats, by the loss of
  the score on points that no grid was made for;
- sliced_w2, frechet_pca, kid_pca: distances of the samples from the data, means over seeds with
  their standard errors;
- lowest: the columns in which this grid is the best of its sampler and K, `optimal` aside.

The last lines count, for `las`, the numbers of steps at which it is the best of these or within one
standard error of it, the worst ratio to the best; and the seconds that its loss curve took next to
the sampling of the longest run. A loss that was measured before comes from the cache: for the full
price set GDIFF_CACHE to an empty folder.
"""

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import sweeps

from gdiff import config, figures, report
from gdiff.budget.losses import JUDGE_SEED, measure
from gdiff.errors import UserError, require
from gdiff.metrics.features import fit_pca
from gdiff.metrics.frechet import frechet_distance
from gdiff.metrics.kid import KernelReference
from gdiff.prepared import Prepared
from gdiff.schedule.levels import Levels
from gdiff.study.schedule import run_grids

GRIDS = "optimal,las,las_nats,entropic,logsnr,edm,cosine,vp,uniform"
# Unless the command line says otherwise.
DEFAULTS = ("num_samples=1024", "batch_size=1024", "metrics.projections=256")
SAMPLED = ("sliced_w2", "frechet_pca", "kid_pca")
PREDICTED = ("frechet", "kl_disc")


class Row(NamedTuple):
    """A grid; distances of samples are None where nothing was drawn."""

    sampler: str
    steps: int
    schedule: str
    frechet: float | None
    kl_disc: float
    sliced_w2: float | None = None
    sliced_w2_error: float | None = None
    frechet_pca: float | None = None
    frechet_pca_error: float | None = None
    kid_pca: float | None = None
    kid_pca_error: float | None = None
    lowest: str = ""


class Distances:
    """The metrics of a run, with what they need of the data found once."""

    def __init__(self, prepared):
        dataset, spec = prepared.dataset, prepared.experiment.metrics
        self.dataset, (_, self.sliced, *_) = dataset, spec.parts
        rng = np.random.default_rng(spec.seed)
        count = min(spec.data_points, len(dataset))
        index = np.sort(rng.choice(len(dataset), count, replace=False))
        self.pca = fit_pca(dataset, index, spec.features)
        self.theirs = self.pca.of_data(dataset, index)
        self.kernel = KernelReference(self.theirs / self.pca.scale)

    def of(self, samples):
        """By name."""
        ours = self.pca.of_samples(samples)
        return {
            "sliced_w2": self.sliced.compute(samples, self.dataset)["sliced_w2"],
            "frechet_pca": frechet_distance(ours, self.theirs),
            "kid_pca": self.kernel.distance(ours / self.pca.scale).value,
        }


def draw(prepared, grid, seeds, distances):
    """Columns of the samples on a grid, and the seconds of sampling of one run."""
    values, seconds, first = {name: [] for name in SAMPLED}, [], None
    schedule = Levels(levels=grid[grid > 0].tolist(), to_zero=bool(grid[-1] == 0))
    for seed in range(seeds):
        run = Prepared(replace(prepared.experiment, schedule=schedule, seed=seed))
        run.mesh, run.dataset, run.data = prepared.mesh, prepared.dataset, prepared.data
        run.denoiser = (first or run).denoiser  # fitted to the levels, once
        first = first or run
        for name, value in distances.of(run.samples()).items():
            values[name].append(value)
        seconds.append(run.clock.seconds["sampling"])
    found = {}
    for name, each in values.items():
        found[name], found[f"{name}_error"] = sweeps.mean_and_error(each)
    return found, min(seconds)


def rows_of(prepared, judge, counts, names, options, distances):
    """All grids of a sampler, and the seconds of the longest run on the grid of las."""
    sampler, seconds = options
    rows, longest = [], 0.0
    for count in counts:
        has_optimal = "optimal" in names
        grids = run_grids(prepared, prepared.losses(), count, has_optimal=has_optimal)
        for name in names:
            if name not in grids:
                continue
            grid = grids[name]
            try:
                predicted = prepared.forecast("frechet").of(grid)
            except UserError:
                predicted = None
            found = {}
            if distances is not None:
                found, taken = draw(prepared, grid, seconds, distances)
                longest = taken if name == "las" else longest
            rows.append(Row(sampler, count, name, predicted, judge.discretization(grid), **found))
            print(rows[-1], flush=True)
    return rows, longest


def marked(rows):
    """The rows with what each is the best in; `optimal` knows the answer and does not count."""

    def is_best(row, key):
        rivals = [getattr(rival, key) for rival in others(rows, row)]
        return row.schedule != "optimal" and None not in rivals and getattr(row, key) == min(rivals)

    keys = (*PREDICTED, *SAMPLED)
    return [row._replace(lowest=" ".join(k for k in keys if is_best(row, k))) for row in rows]


def others(rows, row):
    """The rows that a row competes with, itself among them."""
    same = [r for r in rows if (r.sampler, r.steps) == (row.sampler, row.steps)]
    return [rival for rival in same if rival.schedule != "optimal"]


def verdict(rows, key, name="las"):
    """How often a grid is the best, or within an error of it, and the worst ratio to the best."""
    near, ratios = [], []
    for row in rows:
        if row.schedule != name:
            continue
        value = getattr(row, key)
        if value is None:
            return None
        best = min(others(rows, row), key=lambda rival: getattr(rival, key))
        errors = [getattr(each, f"{key}_error", None) or 0.0 for each in (row, best)]
        near.append(value <= getattr(best, key) + np.hypot(*errors))
        ratios.append(value / getattr(best, key))
    count = f"best or within one error in {sum(near)} of {len(near)}"
    return f"{name}, {key}: {count}, at most {max(ratios):.3g} times the best"


def picture(rows, title):
    """One panel a metric, one line a grid."""
    panels = {}
    for key in ("frechet", *SAMPLED[:2]):
        curves = {}
        for name in dict.fromkeys(row.schedule for row in rows):
            own = [r for r in rows if r.schedule == name and getattr(r, key) is not None]
            if own:
                steps, values = (np.array([getattr(r, k) for r in own]) for k in ("steps", key))
                errors = [getattr(r, f"{key}_error", None) for r in own]
                errors = None if None in errors else np.array(errors)
                curves[name] = (steps, values, errors)
        if curves:
            panels["squared Fréchet, closed form" if key == "frechet" else key] = curves
    return figures.grids_figure(panels, title, "las")


def parse(arguments):
    parser = sweeps.parser("Grids of noise levels, by their samples and by what is predicted.")
    parser.add_argument("--steps", default="5,10,20,50", help="numbers of steps")
    parser.add_argument("--grids", default=GRIDS, help="options of the group schedule, with las")
    parser.add_argument("--samplers", default="ddim", help="options of the group sampler")
    parser.add_argument("--seeds", type=int, default=5, help="how many")
    parser.add_argument("--points", type=int, default=128, help="noised points to measure nats on")
    parser.add_argument("--no-samples", action="store_true", help="only what is predicted")
    parser.add_argument("--figure", type=Path, metavar="FILE", help="also draw the first sampler")
    return parser.parse_intermixed_args(arguments)


def main(arguments=None):
    options = parse(arguments)
    names, samplers = options.grids.split(","), options.samplers.split(",")
    texts = options.steps.split(",")
    require(all(map(str.isdecimal, texts)), f"--steps {options.steps} has more than numbers")
    counts = [int(each) for each in texts]
    require("las" in names, f"--grids {options.grids}: las has to be among them")
    require(options.points >= 1, f"--points {options.points} must be at least 1")
    require(options.seeds >= 1, f"--seeds {options.seeds} must be at least 1")
    rows, judge, distances, longest = [], None, None, 0.0
    with config.composer() as composer:
        found = {}
        for sampler in samplers:
            ours = [f"sampler={sampler}", "schedule=las", f"schedule.steps={max(counts)}"]
            words = sweeps.words(options.overrides, ours, DEFAULTS)
            found[sampler] = Prepared(composer.experiment(words))
    first = found[samplers[0]]
    curve = first.losses((first.experiment.schedule.sigma_max, first.experiment.schedule.sigma_min))
    seconds = first.clock.seconds["losses"]
    own = first.experiment
    test = own.dataset.held_out().load() if own.schedule.loss_on == "test" else None
    judge = measure(
        own.score, first.data, first.ends, samples=options.points, test=test, seed=JUDGE_SEED
    )
    distances = None if options.no_samples else Distances(first)
    for sampler, prepared in found.items():
        prepared.mesh, prepared.dataset, prepared.data = first.mesh, first.dataset, first.data
        prepared.losses = lambda ends=None: curve
        grids = rows_of(prepared, judge, counts, names, (sampler, options.seeds), distances)
        rows += grids[0]
        longest = longest or grids[1]
    rows = marked(rows)
    report.show(report.rows_table(rows))
    sweeps.write(rows, options)
    if options.figure is not None:
        shown = [row for row in rows if row.sampler == samplers[0]]
        title = f"{first.dataset.name}, {type(own.score).__name__}, {samplers[0]}"
        options.figure.write_bytes(picture(shown, title))
    for key in ("frechet", *SAMPLED[:2]):
        if (line := verdict(rows, key)) is not None:
            print(line)
    line = f"loss of las: {seconds:.3g} s"
    if longest:
        share = f"{seconds / longest:.3g} times the {longest:.3g} s"
        line += f", {share} for sampling with {max(counts)} steps"
    print(line)
    return 0


if __name__ == "__main__":
    sweeps.end(main)
