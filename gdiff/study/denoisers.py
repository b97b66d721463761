"""How far denoisers are from one another, from noise level to noise level.

On noised points that the scores were made of, and on points held out with the same noise. On the
first the exact score is the best there is, since it knows their law; on the others, which it does
not know, whatever generalises is better. The gap is memorisation.
"""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from rich.table import Table

from gdiff import figures, report
from gdiff.dataset import Dataset
from gdiff.dataset.base import NothingHeldOutError
from gdiff.errors import require
from gdiff.experiment import Experiment
from gdiff.metrics.chunks import evenly, flat_chunks
from gdiff.prepared import Prepared
from gdiff.progress import notice, track
from gdiff.score.exact import Exact
from gdiff.store.outputs import RunFolder, write_csv
from gdiff.trajectory import Queries

RESULT, PICTURE = "compare.csv", "compare.png"
# What the exact score of the training points is called, beside the scores compared.
EXACT = "exact"
TRAIN, HELD_OUT = "train", "held_out"
_LEVELS = 12


class Row(NamedTuple):
    """A score against another one at one noise level, on points of one kind.

    Attributes:
        sigma: the level.
        points: "train" or "held_out".
        score, reference: D and D'; the reference is a score that is compared, or "exact".
        distance: (Σ ‖D - D'‖² / Σ ‖D' - m‖²)^½ over points, m the mean of the training points.
        r2: 1 - Σ ‖D - D'‖² / Σ ‖D' - D̄'‖², over coordinates of all points, D̄' their mean.
        loss: mean of ‖D - x_0‖² / dim over points.
        seconds: of a call with all points, compiled.
    """

    sigma: float
    points: str
    score: str
    reference: str
    distance: float
    r2: float
    loss: float
    seconds: float


def main(experiments: Mapping[str, Experiment], queries: int, folder: Path) -> list[Row]:
    """Compare the scores of experiments that agree in all else; write a table and a picture.

    Args:
        experiments: by the name of their score.
        queries: points of each kind; as many at up to 12 levels of the schedule.
        folder: for the files.

    Raises:
        UserError: only one score, or a part that fails.
    """
    require(len(experiments) > 1, "gdiff compare needs several scores: gdiff compare full,wiener …")
    require(EXACT not in experiments, f"a score cannot be called {EXACT}, which is the exact one")
    for each in experiments.values():
        each.require_whole("gdiff compare")
    first = next(iter(experiments.values()))
    prepared = Prepared(first)
    rows = measure(experiments, prepared, _points(prepared, queries))
    run_folder = RunFolder(folder)
    write_csv(folder / RESULT, Row._fields, [row._asdict() for row in rows])
    run_folder.write_bytes(PICTURE, figures.denoisers_figure(rows, EXACT, prepared.dataset.name))
    return rows


def _points(prepared: Prepared, queries: int) -> dict[str, np.ndarray]:
    """Clean points of both kinds, as many as there are of `queries`; the second if it is there."""

    def drawn(dataset: Dataset) -> np.ndarray:
        count = min(queries, len(dataset))
        rng = np.random.default_rng(prepared.experiment.seed)
        return dataset.rows(np.sort(rng.choice(len(dataset), count, replace=False)))

    found = {TRAIN: drawn(prepared.dataset)}
    try:
        found[HELD_OUT] = drawn(prepared.experiment.dataset.load_held_out())
    except NothingHeldOutError as error:
        notice(f"training points only: {error}")
    return found


def measure(
    experiments: Mapping[str, Experiment], prepared: Prepared, points: Mapping[str, np.ndarray]
) -> list[Row]:
    """All pairs, by level and kind of points [n, *event]; the exact score is always a reference."""
    grid = prepared.steps.levels
    levels = grid[evenly(len(grid), _LEVELS)]
    counts = {kind: len(x) for kind, x in points.items()}
    noise = np.random.default_rng([prepared.experiment.seed, 1]).standard_normal(
        (max(counts.values()), *prepared.dataset.event_shape)
    )
    clean = np.concatenate(list(points.values()))
    noise = np.concatenate([noise[:count] for count in counts.values()])
    dtype = jnp.result_type(float)
    asked = Queries(
        np.stack([(clean + sigma * noise).astype(dtype) for sigma in levels]), levels.astype(dtype)
    )
    answers = _answers(experiments, prepared, asked)
    ends = np.cumsum([0, *counts.values()])
    kinds = {kind: slice(*ends[k : k + 2]) for k, kind in enumerate(counts)}
    dataset = prepared.dataset
    chunks = flat_chunks(dataset, np.arange(len(dataset)))
    centre = sum(rows.sum(0, dtype=np.float64) for _, rows in chunks) / len(dataset)
    rows = []
    for k, sigma in enumerate(levels.tolist()):
        for kind, where in kinds.items():
            for name in experiments:
                mean, seconds = answers[name][0][k, where], answers[name][1][k]
                loss = float(np.mean((mean - clean[where]) ** 2))
                for reference in answers:
                    if reference != name:
                        far = _far(mean, answers[reference][0][k, where], centre)
                        rows.append(Row(sigma, kind, name, reference, *far, loss, seconds))
    return rows


def _answers(
    experiments: Mapping[str, Experiment], prepared: Prepared, asked: Queries
) -> dict[str, tuple[np.ndarray, list[float]]]:
    """Means [levels, n, *event] and seconds [levels] of all scores and of the exact one."""
    specs = {name: each.score for name, each in experiments.items()} | {EXACT: Exact()}
    known: dict[str, tuple[np.ndarray, list[float]]] = {}
    with track("scores", len(specs) * len(asked.sigma), "levels") as progress:
        for name, spec in specs.items():
            denoiser = spec.fit(prepared.data, prepared.steps.levels.tolist())
            means, seconds = [], []
            for k, (z, sigma) in enumerate(zip(asked.z, asked.sigma, strict=True)):
                one = Queries(z[None], sigma[None])
                if k == 0:
                    one.ask(denoiser, prepared.mesh)  # compiles
                start = time.perf_counter()
                means.append(np.asarray(one.ask(denoiser, prepared.mesh).mean[0], np.float64))
                seconds.append(time.perf_counter() - start)
                progress.advance(1)
            known[name] = np.stack(means), seconds
    return known


def _far(mean: np.ndarray, wanted: np.ndarray, centre: np.ndarray) -> tuple[float, float]:
    """Relative distance and r² of means [n, *event]; NaN where there is nothing to explain."""
    mean, wanted = (x.reshape(len(x), -1) for x in (mean, wanted))
    error = np.sum((mean - wanted) ** 2)
    size, spread = np.sum((wanted - centre) ** 2), np.sum((wanted - wanted.mean()) ** 2)
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.sqrt(error / size)), float(1 - error / spread)


def tables(rows: list[Row]) -> Table:
    """What the screen shows: over all levels, by score and reference."""
    found: dict[tuple[str, str], dict[str, list[Row]]] = {}
    for row in rows:
        found.setdefault((row.score, row.reference), {}).setdefault(row.points, []).append(row)
    kinds = list(dict.fromkeys(row.points for row in rows))
    headers = ["score", "against"]
    headers += [f"{what}, {kind}" for kind in kinds for what in ("distance", "r²", "loss")]
    cells = []
    for pair, by_kind in found.items():
        numbers = [
            float(np.median([getattr(row, what) for row in by_kind[kind]]))
            for kind in kinds
            for what in ("distance", "r2", "loss")
        ]
        seconds = sum(row.seconds for row in by_kind[kinds[0]])
        cells.append((*pair, *(report.cell(n, 3) for n in numbers), report.cell(seconds, 3)))
    caption = "medians over noise levels; seconds of all levels and points"
    return report.table([*headers, "seconds"], cells, left=2, caption=caption)
