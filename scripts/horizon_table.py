"""Compare short diffusions from auxiliary priors with long ones from the standard prior.

    python scripts/horizon_table.py dataset=mnist --csv table.csv

Arguments are Hydra overrides of all runs. The runs draw the same number of samples with the same
number of steps from every prior at every horizon, in the time of the run's process (Franzese et
al., arXiv 2206.05173). One more run, the yardstick, takes 2.5 times as many steps from the first
horizon with the first prior. Everything is repeated with several seeds; each column of numbers is a
mean over them, and `…_error` its standard error. The columns:

- kl_initialization: KL(p_T ‖ prior) in nats;
- sliced_w2, frechet_pca: distances of the samples from the data;
- nn_distance: mean distance of a sample from the nearest data point.

Below are the two targets, met or not: at the last horizon the last prior does better than the first
one, and it is within 10 % of the yardstick.

With the exact score (score=full) samples are data points, whatever the prior: that is what an exact
score of a data set does, nn_distance shows it, and a prior then decides only which ones are drawn.
Scores that do not memorise, such as score=wiener or score=pca_local, show what else a short
diffusion changes.
"""

import itertools
from typing import NamedTuple

import numpy as np
import sweeps

from gdiff import config, report
from gdiff.errors import require

# Unless the command line says otherwise.
DEFAULTS = ("sampler=ancestral", "num_samples=256", "batch_size=256", "metrics.score_error=never")
LONGER, WITHIN = 2.5, 1.1
DISTANCES = ("sliced_w2", "frechet_pca")


class Row(NamedTuple):
    """Runs that differ in their seeds only."""

    horizon: float
    prior: str
    steps: int
    kl_initialization: float
    sliced_w2: float
    sliced_w2_error: float | None
    frechet_pca: float
    frechet_pca_error: float | None
    nn_distance: float


def words(overrides, horizon, prior, steps, seed):
    """Overrides of a run or of a sweep."""
    ours = {"schedule.horizon": horizon, "prior": prior, "schedule.steps": steps, "seed": seed}
    return sweeps.words(overrides, [f"{key}={value}" for key, value in ours.items()], DEFAULTS)


def draw(overrides, folder):
    """The metrics of a sweep's runs by horizon and prior: lists over the seeds."""
    found = {}
    for row in sweeps.rows(overrides, folder):
        found.setdefault((float(row["schedule.horizon"]), row["prior"]), []).append(row)
    return found


def row_of(horizon, prior, steps, runs):
    """What runs with several seeds achieved."""
    columns = {key: [run[key] for run in runs] for key in ("kl_initialization", "nn_distance")}
    start, nearest = (float(np.mean(values)) for values in columns.values())
    distances = [sweeps.mean_and_error([run[key] for run in runs]) for key in DISTANCES]
    return Row(horizon, prior, steps, start, *distances[0], *distances[1], nearest)


def verdict(name, runs, others, limit):
    """A target for the ratios of mean distances, and whether they meet it."""
    parts = []
    for key in DISTANCES:
        x, y = (np.array([run[key] for run in each]) for each in (runs, others))
        ratio = x.mean() / y.mean()
        # Seeds are the same on both sides.
        _, error = sweeps.mean_and_error((x - ratio * y) / y.mean())
        margin = "" if error is None else f" ± {error:.2g}"
        parts.append(f"{key} {ratio:.3g}{margin} ({'met' if ratio <= limit else 'missed'})")
    return f"{name}: ratio at most {limit:g} wanted; {', '.join(parts)}"


def parse(arguments):
    parser = sweeps.parser("Short diffusions with and without an auxiliary prior.")
    parser.add_argument("--horizons", default="1,0.6,0.4,0.2", help="times of the process")
    parser.add_argument("--priors", default="standard,gaussian,gmm", help="options of the group")
    parser.add_argument("--steps", type=int, default=20, help="of all runs but the yardstick")
    parser.add_argument("--seeds", type=int, default=3, help="how many")
    return parser.parse_intermixed_args(arguments)


def main(arguments=None):
    options = parse(arguments)
    require(options.seeds >= 1, f"--seeds {options.seeds} must be at least 1")
    few, many = options.steps, round(LONGER * options.steps)
    seeds = ",".join(map(str, range(options.seeds)))
    times, priors = options.horizons.split(","), options.priors.split(",")
    with config.composer() as composer:  # finds mistakes before anything runs
        for horizon, prior in itertools.product(times, priors):
            composer.experiment(words(options.overrides, horizon, prior, few, 0))
    folder = sweeps.folder_of(options, "horizon_table")
    table = words(options.overrides, options.horizons, options.priors, few, seeds)
    found = draw(table, folder / "table")
    long = draw(words(options.overrides, times[0], priors[0], many, seeds), folder / "long")
    rows = [row_of(*key, few, runs) for key, runs in found.items()]
    rows += [row_of(*key, many, runs) for key, runs in long.items()]
    report.show(report.rows_table(rows))
    [yardstick] = long.values()
    print(f"sliced_w2 of as many data points: {yardstick[0]['sliced_w2_null']:.4g}")
    without, auxiliary = (found[float(times[-1]), prior] for prior in (priors[0], priors[-1]))
    short = f"T = {times[-1]}, {priors[-1]}, {few} steps"
    print(verdict(f"{short} / {priors[0]}", auxiliary, without, 1.0))
    name = f"{short} / T = {times[0]}, {priors[0]}, {many} steps"
    print(verdict(name, auxiliary, yardstick, WITHIN))
    sweeps.write(rows, options)
    print(folder)
    return 0


if __name__ == "__main__":
    sweeps.end(main)
