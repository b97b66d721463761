"""Compare scores as GoldDiff's paper does (Shang et al., arXiv 2602.16498), on any data set.

    python scripts/golddiff_table.py dataset=cifar10 dataset.data_dir=DIR --csv table.csv

Every score makes the same 128 samples in ten DDIM steps (`experiment=golddiff_table`), in a process
of its own, so that its peak memory is its own. Further arguments are Hydra overrides of all runs.
The columns:

- s/step: seconds of one step for all samples together, without compilation; ms/sample: the same
  for one sample;
- peak MiB: largest memory of the process, preparation, Python and JAX (250 MiB) included, or of
  the device where that keeps count; what measures the samples afterwards does not count;
- error max, median: relative error of the mean against the exact one in float64, over noise levels
  and queries on the score's own trajectories;
- rule/ours: time of the released rule's dense products alone, over that of one step; see
  golddiff_rule.py, and --k-min, --k-max for the fractions of another configuration;
- MSE, r²: against a network's images, with one standard error over images each.

A second table has the rule's rows, time and, with --rule-queries 4, its error by noise level beside
that of `pca_local_golden`, both against all rows and at the same states of that score's run.

`--network RUN`, a folder of `gdiff train`, makes the network's images in the same way first, and
its row comes last. Images of another network must be made from the same initial noise, with the
same steps. First write the noise, and give it to the network:

    python scripts/golddiff_table.py dataset=cifar10 dataset.data_dir=DIR --noise noise.npz

It holds `x` [n, h, w, c], the start in the coordinates of a variance-preserving network such as
DDPM's, and the same as `z` = x √(1 + sigma²) = x_0 + sigma ε, with `sigma` at the first index. Then
add --reference images.npy to the first command: images [n, h, w, c], uint8 or in [-1, 1], or an npz
file that begins with them, as samples.npz of a run does. MSE is per value, r² per image: with y the
network's image and x ours, 1 - Σ(x - y)² / Σ(y - mean y)² over the values of the image. Both are of
images clipped to [0, 1] and are averaged over them. This r² is no squared correlation, and it is
negative where the mean of y would be nearer than x.

Runs stay in the folder that is printed; with --folder DIR an interrupted table goes on there.
"""

import csv
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import NamedTuple

import golddiff_rule
import jax.numpy as jnp
import numpy as np
import sweeps

from gdiff import config, report, rng
from gdiff.artefacts.score_error import CURVE_FILE, QUERIES
from gdiff.bench.harness import level_table
from gdiff.bench.scores import overrides_by_score
from gdiff.errors import UserError, require
from gdiff.prepared import Prepared
from gdiff.score.golddiff import GoldDiff
from gdiff.store.outputs import METRICS, RUN, RunFolder, read_json

EXPERIMENT = "experiment=golddiff_table"
# Options of the group `score`, and what the paper calls them.
SCORES = {
    "full": "Optimal",
    "wiener": "Wiener",
    "patch_ls": "Kamb & Ganguli",
    "pca_local": "PCA",
    "pca_local_golden": "GoldDiff: PCA on a golden subset",
    "golden": "",
}
# Seconds per step, MSE and r² in the paper, with its authors' GPU and network.
PUBLISHED = {
    "cifar10": {
        "full": (2.35, 0.030, -0.401),
        "wiener": (0.011, 0.008, 0.553),
        "patch_ls": (5.98, 0.011, 0.411),
        "pca_local": (2.80, 0.008, 0.670),
        "pca_local_golden": (0.087, 0.007, 0.683),
    }
}
MIB = 2**20
LOCAL = "pca_local_golden"
NETWORK = "network"


class Row(NamedTuple):
    """What one score achieved; None where it was not measured, or the run failed."""

    score: str
    seconds_per_step: float | None = None
    seconds_per_sample_step: float | None = None
    rule_over_ours: float | None = None
    peak_memory_mib: float | None = None
    relative_error_max: float | None = None
    relative_error_median: float | None = None
    mse: float | None = None
    mse_error: float | None = None
    r2: float | None = None
    r2_error: float | None = None
    published_seconds_per_step: float | None = None
    published_mse: float | None = None
    published_r2: float | None = None


HEADERS = Row(
    *("score", "s/step", "ms/sample", "rule/ours", "peak MiB", "error max", "median"),
    *("MSE", "± MSE", "r²", "± r²"),
    *("published: s/step", "published: MSE", "published: r²"),
)


def initial_noise(overrides):
    """Where the trajectories of the runs start: arrays z, x [n, *event] and sigma []."""
    with config.composer() as composer:
        experiment = composer.experiment([EXPERIMENT, *overrides])
    prepared = Prepared(experiment)
    sigma, prior = float(prepared.grid[0]), prepared.prior
    index = jnp.arange(experiment.num_samples)
    z = np.asarray(prior.sample(rng.sample_keys(experiment.seed, rng.Role.PRIOR, index)))
    return {"z": z, "x": z / np.sqrt(1 + sigma**2).astype(z.dtype), "sigma": np.float64(sigma)}


def read_reference(path):
    """The images of a .npy file, or of the first array in an .npz file, as in samples.npz."""
    try:
        found = np.load(path, allow_pickle=False)
        if not isinstance(found, np.ndarray):
            found = found[found.files[0]]
    except (OSError, ValueError, EOFError, IndexError, zipfile.BadZipFile) as error:
        raise UserError(f"--reference {path} cannot be read: {error}") from error
    if found.dtype != np.uint8:
        require(found.dtype.kind == "f", f"{path} holds {found.dtype}: use uint8 or float32")
        require(bool(np.isfinite(found).all()), f"{path} holds NaN or infinity")
        require(
            found.min(initial=0) < 0,
            f"{path} has no value below 0: store images in [-1, 1], or as uint8",
        )
    return found


def unit_range(images):
    """Images as float64 in [0, 1]: uint8, or [-1, 1] with what is beyond clipped."""
    if images.dtype == np.uint8:
        return images / 255
    return np.clip((images.astype(np.float64) + 1) / 2, 0, 1)


def compare(samples, reference):
    """MSE and r² of samples against the reference, see the top, each with its standard error.

    r² of images of one value is not defined, and they are left out of its mean.
    """
    require(
        samples.shape == reference.shape,
        f"the reference has shape {reference.shape} and the samples {samples.shape}: make it from "
        "what --noise writes",
    )
    x, y = (unit_range(images).reshape(len(images), -1) for images in (samples, reference))
    errors = np.square(x - y).mean(1)
    spread = y.var(1)
    varied = spread > 0
    mse = sweeps.mean_and_error(errors)
    if not varied.any():
        return *mse, None, None
    return *mse, *sweeps.mean_and_error(1 - errors[varied] / spread[varied])


def plan(scores, overrides):
    """The overrides of every score's run; finds mistakes before anything runs."""
    with config.composer() as composer:
        given = [EXPERIMENT, *overrides]
        words = overrides_by_score(scores, given, composer.score_keys)
        for each in words.values():
            composer.experiment(each)
    return words


def run(words, folder):
    """Make the samples of one score in `folder`, or what is left to do; whether that went well."""
    if (folder / "config.yaml").is_file():
        words = ["--resume", str(folder), *words]
    else:
        quoted = str(folder).replace("'", "\\'")
        words.append(f"hydra.run.dir='{quoted}'")
    print(f"{folder.name}:", file=sys.stderr, flush=True)
    command = [sys.executable, "-m", "gdiff", "sample", *words]
    return subprocess.run(command, stdout=subprocess.DEVNULL).returncode == 0


def row_of(score, folder, reference, rule):
    """The numbers of a finished run, beside those of the rule by level."""
    record, metrics = read_json(folder / RUN), read_json(folder / METRICS)
    samples = RunFolder(folder).samples()
    seconds = record["sampling_seconds"] / record["denoiser_evaluations"]
    memory = record["peak_memory_bytes"]
    host = memory.pop("host", float("nan"))
    memory = max(memory.values(), default=host)
    published = PUBLISHED.get(record["dataset"]["name"], {}).get(score, (None, None, None))
    return Row(
        score,
        seconds,
        seconds / len(samples),
        float(np.mean([each.seconds for each in rule])) * len(samples) / seconds,
        memory / MIB,
        metrics.get("score_relative_error_max"),
        metrics.get("score_relative_error_median"),
        *((None,) * 4 if reference is None else compare(samples, reference)),
        *published,
    )


def as_text(rows):
    """Header and cells for people, without the columns that are empty."""
    label = SCORES.get
    lines = []
    for row in rows:
        named = f"{row.score} ({label(row.score)})" if label(row.score) else row.score
        cells = list(row._replace(score=named))
        if row.seconds_per_sample_step is not None:
            cells[2] = 1e3 * row.seconds_per_sample_step
        else:
            cells[1] = "failed"
        lines.append(["" if x is None else x if isinstance(x, str) else f"{x:.3g}" for x in cells])
    kept = [i for i, column in enumerate(zip(*lines, strict=True)) if any(column)]
    return [[line[i] for i in kept] for line in [list(HEADERS), *lines]]


def to_markdown(text):
    """A table from header and cells."""
    header, *lines = text
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "".join(f"| {' | '.join(line)} |\n" for line in [header, rule, *lines])


def rule_of(options):
    """The released rule in the run of the table, by noise level."""
    rule = GoldDiff(k_min=options.k_min, k_max=options.k_max)
    with config.composer() as composer:
        words = [EXPERIMENT, *options.overrides, f"score={LOCAL}"]
        prepared = Prepared(composer.experiment(words))
    data, grid = prepared.dataset, np.asarray(prepared.grid)[:-1]
    return prepared, rule, golddiff_rule.of_grid(rule, len(data), data.dim, grid)


def compare_with_rule(options, prepared, rule, levels, folder):
    """Print the levels of the rule, with errors where they were asked for."""
    shown = [
        ("rows of the rule", [str(each.rows) for each in levels]),
        ("ms a query, products alone", [f"{1e3 * each.seconds:.3g}" for each in levels]),
    ]
    if options.rule_queries and (folder / QUERIES).is_file():
        with np.load(folder / QUERIES, allow_pickle=False) as found:
            z, sigma = found["z"][:, : options.rule_queries], found["sigma"]
        errors = [
            (at, np.median(golddiff_rule.errors_of_rule(prepared, rule, states, float(at))))
            for states, at in zip(z, sigma, strict=True)
        ]
        shown.append(("error of the rule, median", by_level(levels, errors)))
        with (folder / CURVE_FILE).open(newline="") as file:
            ours = [(x["sigma"], x["relative_error_median"]) for x in csv.DictReader(file)]
        shown.append((LOCAL, by_level(levels, ours)))
    report.show(level_table([each.sigma for each in levels], shown, title="released rule"))


def by_level(levels, measured):
    """Cells for all levels, from pairs of sigma and a number; a run measures what it can."""
    return [
        next((f"{float(x):.2g}" for at, x in measured if np.isclose(float(at), each.sigma)), "")
        for each in levels
    ]


def title_of(folder):
    """What the runs in `folder` are about; they agree in it."""
    found = (read_json(path).get("dataset") for path in folder.glob(f"*/{RUN}"))
    about = next(filter(None, found), None)
    return "" if about is None else f"{about['name']}: n = {about['points']}"


def show_table(text, title):
    header, *lines = text
    source = "published: arXiv 2602.16498, its authors' GPU and network"
    caption = source if HEADERS.published_mse in header else None
    report.show(report.table(header, lines, title=title, caption=caption))


def parse(arguments):
    parser = sweeps.parser("GoldDiff's comparison of scores (arXiv 2602.16498).")
    parser.add_argument("--scores", default=",".join(SCORES), help="options of the group score")
    whose = parser.add_mutually_exclusive_group()
    whose.add_argument(
        "--network", type=Path, metavar="RUN", help="to compare with: a training run"
    )
    whose.add_argument("--reference", type=Path, metavar="FILE", help="images of a network")
    parser.add_argument("--k-min", type=float, default=0.05, help="of the rule: part of the rows")
    parser.add_argument("--k-max", type=float, default=0.1)
    parser.add_argument(
        "--rule-queries", type=int, default=0, help="for its errors, which take long"
    )
    parser.add_argument("--noise", type=Path, metavar="NPZ", help="write initial noise and stop")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="the same as Markdown")
    return parser.parse_intermixed_args(arguments)


def main(arguments=None):
    options = parse(arguments)
    if options.noise is not None:
        noise = initial_noise(options.overrides)
        with options.noise.open("wb") as file:
            np.savez(file, **noise)
        print(options.noise)
        return 0
    folder = sweeps.folder_of(options, "golddiff_table")
    planned = plan(options.scores.split(","), options.overrides)
    if options.network is not None:
        words = [EXPERIMENT, *options.overrides, "score=network", f"score.path={options.network}"]
        place = (folder / NETWORK).absolute()
        require(run([*words, "metrics=none"], place), f"{place} did not go well: see above")
        options.reference = place / "samples.npz"
    reference = None if options.reference is None else read_reference(options.reference)
    prepared, rule, levels = rule_of(options)
    rows = []
    for score, words in planned.items():
        place = (folder / score).absolute()
        is_done = run(words, place)
        rows.append(row_of(score, place, reference, levels) if is_done else Row(score))
    if options.network is not None:
        rows.append(row_of(NETWORK, folder / NETWORK, None, levels))
    text = as_text(rows)
    show_table(text, title_of(folder))
    sweeps.write(rows, options)
    if options.markdown is not None:
        options.markdown.write_text(to_markdown(text))
    compare_with_rule(options, prepared, rule, levels, folder / LOCAL)
    print(folder)
    return 0 if all(row.seconds_per_step is not None for row in rows) else 1


if __name__ == "__main__":
    sweeps.end(main)
