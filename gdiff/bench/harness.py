"""What benchmarks share: calls in turn, errors of means, tables and JSON.

A benchmark is a module that measures into a dict, which is its JSON, and makes its tables of that.
"""

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array
from rich.table import Table

from gdiff import memory, report
from gdiff.denoiser import Denoiser, Posterior
from gdiff.prepared import Prepared
from gdiff.progress import track
from gdiff.trajectory import Queries, States

# A call that takes longer is not worth repeating.
SLOW_SECONDS = 3.0


def present(
    benchmark: ModuleType,
    experiment: Any,
    queries: int,
    repeats: int,
    output: Path | None = None,
    *,
    as_json: bool = False,
) -> None:
    """Measure, print tables and lines, or JSON instead, and write the JSON to `output`.

    Args:
        benchmark: has `measure(experiment, queries, repeats)`, and `tables` of what that gives.
        experiment: what is measured, in the benchmark's own terms.
        queries: how many noisy points to ask about at a time.
        repeats: rounds of measurements.

    Raises:
        UserError: memory runs out.
    """
    # Some libraries print.
    with contextlib.redirect_stdout(sys.stderr), memory.remedied("benchmark"):
        results = {"repeats": repeats} | benchmark.measure(experiment, queries, repeats)
    text = json.dumps(results, indent=2)
    if as_json:
        print(text)
    else:
        for each in benchmark.tables(results):
            show = print if isinstance(each, str) else report.show
            show(each)
    if output is not None:
        output.write_text(text + "\n")


def problem_of(prepared: Prepared, queries: int) -> dict[str, Any]:
    """What all benchmarks say of the problem, for JSON."""
    dataset = prepared.dataset
    # Queries and what a score says of them, at the least.
    memory.require_room(8 * queries * dataset.dim, f"--queries={queries}")
    sizes = {"points": len(dataset), "dim": dataset.dim, "queries": queries}
    devices = [str(device) for device in prepared.mesh.devices.flat]
    return {"dataset": dataset.name, **sizes, "devices": devices}


def title_of(results: Mapping) -> str:
    """The problem in words."""
    size = f"n = {results['points']}, d = {results['dim']}, B = {results['queries']}"
    return f"{results['dataset']}: {size}"


def level_table(
    sigma: Sequence[float], columns: Iterable[tuple[str, Sequence[object]]], **options: Any
) -> Table:
    """One row a noise level and, where columns have one value more, one for all of them."""
    names, cells = zip(*columns, strict=True)
    levels = [f"{level:.3g}" for level in sigma]
    is_longer = len(cells[0]) > len(levels)
    rows = zip([*levels, *["all"] * is_longer], *cells, strict=True)
    table = report.table(("σ", *names), rows, left=0, **options)
    table.rows[len(levels) - 1].end_section = is_longer
    return table


class Timed(NamedTuple):
    """What calls of one task gave.

    Attributes:
        result: of the first call.
        seconds: [repeats], or [1] where the task was called only once.
    """

    result: Any
    seconds: np.ndarray


def in_turn(
    tasks: Mapping[str, Callable[[], Any]],
    repeats: int,
    report: Callable[[int], None] = lambda calls: None,
) -> dict[str, Timed]:
    """Time tasks that are compiled already: round after round, each task once a round.

    On a machine whose speed drifts, calls made side by side still compare. A first round does not
    count, but for a task that took longer than `SLOW_SECONDS` in it: that one is not called again.

    `report` is told after every call how many of the 1 + repeats calls of a task it settles.
    """
    found = {}
    for name, task in tasks.items():
        found[name] = timed(task)
        report(1 if found[name].seconds <= SLOW_SECONDS else 1 + repeats)
    quick = {name: [] for name, first in found.items() if first.seconds <= SLOW_SECONDS}
    for _ in range(repeats):
        for name, seconds in quick.items():
            seconds += [*timed(tasks[name]).seconds]
            report(1)
    return found | {name: Timed(found[name].result, np.array(s)) for name, s in quick.items()}


def timed(task: Callable[[], Any]) -> Timed:
    """A task's result, once it is there, and the seconds that took."""
    begin = time.perf_counter()
    result = jax.block_until_ready(task())
    return Timed(result, np.array([time.perf_counter() - begin]))


def by_level(
    asks: Mapping[str, Callable[[Any, Any], Any]], queries: Queries, repeats: int
) -> list[dict[str, Timed]]:
    """`in_turn` at every level, of functions of points [q, ...] and one level."""
    rounds = []
    calls = len(queries.sigma) * len(asks) * (1 + repeats)
    with track("measuring", calls, "calls") as progress:
        for z, sigma in zip(*queries, strict=True):
            tasks = {name: partial(ask, z, sigma) for name, ask in asks.items()}
            rounds.append(in_turn(tasks, repeats, progress.advance))
    return rounds


def medians(seconds: Sequence[np.ndarray]) -> list[float]:
    """Median over rounds of the seconds of every level, and of all levels together."""
    return [float(np.median(each)) for each in [*seconds, sum(seconds)]]


def ratios(seconds: Sequence[np.ndarray], others: Sequence[np.ndarray]) -> list[float]:
    """Median over rounds of seconds / others, by level and in all.

    A single call stands for all rounds of the other side.
    """
    pairs = [*zip(seconds, others, strict=True), (sum(seconds), sum(others))]
    return [float(np.median(a / b)) for a, b in pairs]


def compiled(
    denoiser: Denoiser, z: Array, of: Callable[[Posterior], Any] = lambda posterior: posterior.mean
) -> Callable[[Array, np.ndarray], Any]:
    """A part of the posterior as a compiled program of points like z [b, *event] and one level."""

    @eqx.filter_jit
    def ask(denoiser: Denoiser, z: Array, sigma: Array) -> Any:
        return of(denoiser(z, sigma))

    return partial(ask.lower(denoiser, z, np.ones((), z.dtype)).compile(), denoiser)


@jax.jit
def two_products(z: Array, y: Array) -> Array:
    """z yᵀ and its product with y: what a scan of rows y [n, d] for z [b, d] cannot do without."""
    highest = jax.lax.Precision.HIGHEST
    return jax.numpy.matmul(jax.numpy.matmul(z, y.T, precision=highest), y, precision=highest)


def exact_states(prepared: Prepared, count: int) -> Queries:
    """The first `count` samples of an experiment on their way, had it the exact score.

    They are those at all noise levels but the last of the grid.
    """
    levels = prepared.grid[:-1]
    states = States(range(len(levels)), count)
    with track("exact trajectory", len(levels), "steps") as progress:
        batches = prepared.drawing(prepared.exact, count)
        batches.draw(np.arange(count), [states], progress.reach)
    return Queries(states.stacked(), levels)


def relative_errors(mean: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """Largest relative error among the queries of every level: means [levels, b, *event]."""
    mean, exact = (x.reshape(*x.shape[:2], -1).astype(np.float64) for x in (mean, exact))
    length = np.linalg.norm(exact, axis=-1)
    # Where the posterior is centred on 0, errors are relative to the spread of the means.
    length = np.where(length > 0, length, length.max() or 1.0)
    return (np.linalg.norm(mean - exact, axis=-1) / length).max(axis=1)
