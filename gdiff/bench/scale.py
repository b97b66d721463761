"""Data of any size: the full scan against what reading and arithmetic allow, and the golden one."""

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from rich.table import Table

from gdiff import report, rng
from gdiff.bench.collectives import Program
from gdiff.bench.harness import (
    by_level,
    compiled,
    level_table,
    problem_of,
    relative_errors,
    timed,
    title_of,
    two_products,
)
from gdiff.bench.peers import machine
from gdiff.dataset import Dataset
from gdiff.dataset.base import blocks
from gdiff.denoiser import Denoiser
from gdiff.errors import require
from gdiff.experiment import Experiment
from gdiff.kernels.streamed import Streamed
from gdiff.memory import forget_peak, in_bytes, is_known
from gdiff.parallel.mesh import BATCH, DATA, batch_sharding, place_rows
from gdiff.prepared import Prepared
from gdiff.progress import track
from gdiff.score.exact import ExactScan
from gdiff.score.golden.scan import GoldenScan
from gdiff.trajectory import Queries

# What is read at a time: about a chunk of a scan.
_BUFFER_BYTES = 2**23
# The products of one in so many chunks are timed, before a scan and after it.
_SHARE = 16

# Means [b, *event] and sizes of the subsets [b], or None, of queries at one level.
Ask = Callable[[Array, np.ndarray], tuple[Array, Array | None]]
# Does something and says how many seconds that took.
Limit = Callable[[], float]


class Level(NamedTuple):
    """What was measured at one noise level; seconds are those of [rounds] calls.

    Attributes:
        golden, full: of the scans.
        read, product: of reading all data, and of the matrix products that the full scan needs;
            the mean of right before and right after that scan.
        error: largest relative error of the golden mean.
        rows: [b] rows that were weighed in full for each query of the golden scan.
    """

    golden: np.ndarray
    full: np.ndarray
    read: np.ndarray
    product: np.ndarray
    error: float
    rows: np.ndarray


def measure(experiment: Experiment, queries: int, repeats: int) -> dict:
    """How fast the golden and the full scan are, by what they are limited, and their memory.

    The golden scan comes first and alone, so that the peak of memory is its own. Its samples go
    through the levels by DDIM; at their states everything is then timed, level by level. Lists run
    over the levels. The score must be `Golden`; `score.rows` says where both scans have the rows.

    Raises:
        UserError: the devices do not divide the queries; and what the parts raise.
    """
    with contextlib.suppress(OSError):  # the highest mark starts again from here
        forget_peak()
    prepared = Prepared(experiment)
    mesh, clock = prepared.mesh, prepared.clock
    parts = mesh.shape[BATCH]
    require(queries % parts == 0, f"--queries {queries} must be a multiple of {parts} devices")
    problem = problem_of(prepared, queries)
    dataset, levels, prior = prepared.dataset, prepared.grid[:-1], prepared.prior
    with clock.phase("prior"):
        keys = rng.sample_keys(experiment.seed, rng.Role.PRIOR, jnp.arange(queries))
        z = jax.device_put(prior.sample(keys), batch_sharding(mesh))
    with clock.phase("fit golden"):
        golden = jax.block_until_ready(experiment.score.fit(prepared.data, levels.tolist()))
    require(
        isinstance(golden, GoldenScan),
        f"{dataset.name} is too small for gdiff bench scale: score=golden scans it in full",
    )
    with clock.phase("compile golden"):
        ask, golden_moves = _compiled(golden, z)
    with clock.phase("golden trajectory", shown=False):
        states = _trajectory(ask, z, levels)
    taken = _memory()
    full = golden.full
    with clock.phase("compile full"):
        ask_full, full_moves = _compiled(full, z)
    limits = _reading(dataset), _products(dataset, full, z)
    points = Queries(states, levels.astype(z.dtype))
    scans = _numbers(_measured(ask, ask_full, limits, points, repeats), dataset, queries)
    scans["golden"] |= {
        "tolerance": experiment.score.tolerance,
        "fit_seconds": clock.seconds["fit golden"],
        "compile_seconds": clock.seconds["compile golden"],
        "trajectory_seconds": clock.seconds["golden trajectory"],
    }
    own = queries // parts * dataset.dim
    return {
        "machine": machine() | {"devices": problem.pop("devices")},
        **problem,
        "bytes": dataset.x.nbytes,
        "dtype": dataset.x.dtype.name,
        "rows": "host" if isinstance(full.rows.stored, Streamed) else "device",
        "sigma": levels.tolist(),
        **scans,
        "memory": taken,
        "exchanged": {"full": full_moves / own, "golden": golden_moves / own},
    }


def _compiled(denoiser: Denoiser, z: Array) -> tuple[Ask, int]:
    """The denoiser for batches like z and one level, and how many numbers a device receives."""
    ask = compiled(denoiser, z, lambda posterior: (posterior.mean, posterior.subset_size))
    return ask, sum(Program.of(ask.func.compiled.as_text()).moved())


def _trajectory(ask: Ask, z: Array, levels: np.ndarray) -> list[Array]:
    """States of DDIM at all levels."""
    states = []
    with track("golden trajectory", len(levels), "steps") as progress:
        for sigma, following in zip(levels, [*levels[1:], 0.0], strict=True):
            states.append(z)
            mean, _ = ask(z, np.asarray(sigma, z.dtype))
            z = jax.block_until_ready(mean + z.dtype.type(following / sigma) * (z - mean))
            progress.advance()
    return states


def _memory() -> dict[str, int] | None:
    """Bytes of this process: the most that it had, and what now is no copy of a file.

    None where the system does not tell (it has to be Linux).
    """
    if not is_known():
        return None
    names = {"peak_bytes": "VmHWM", "anonymous_bytes": "RssAnon"}
    return {key: in_bytes(name) for key, name in names.items()}


def _reading(dataset: Dataset) -> Limit:
    """Reads all data into one buffer, from their file if they are mapped from one: seconds."""
    x, name = dataset.x, getattr(dataset.x, "filename", None)

    def from_file() -> None:
        buffer = np.empty(_BUFFER_BYTES, np.uint8)
        with open(name, "rb", buffering=0) as file:
            while file.readinto(buffer):
                pass

    def from_memory() -> None:
        for rows in blocks(x, _BUFFER_BYTES):
            np.array(x[rows])

    is_file = name is not None and Path(name).is_file()
    read = from_file if is_file else from_memory
    return lambda: timed(read).seconds[0]


def _products(dataset: Dataset, full: ExactScan, z: Array) -> Limit:
    """Computes the two products of a scan on rows of one chunk: seconds for those of all rows."""
    z, mesh = z.reshape(len(z), -1), full.rows.mesh
    rows = min(len(dataset), full.chunk_rows * mesh.shape[DATA])
    y = place_rows(dataset.rows(slice(rows)).reshape(rows, -1).astype(z.dtype), mesh)
    chunks = len(dataset) / rows
    calls = math.ceil(chunks / _SHARE)
    product = two_products.lower(z, y).compile()

    def some() -> None:
        for _ in range(calls):
            jax.block_until_ready(product(z, y))

    return lambda: timed(some).seconds[0] * chunks / calls


def _measured(
    golden: Ask, full: Ask, limits: tuple[Limit, Limit], points: Queries, repeats: int
) -> list[Level]:
    """Time both scans at every level, and right beside the full one what limits it."""
    read, product = limits
    beside: dict[float, list] = {float(sigma): [] for sigma in points.sigma}

    def scanned(z: Array, sigma: np.ndarray) -> Array:
        before = product(), read()
        (mean, _), seconds = timed(partial(full, z, sigma))
        after = read(), product()
        products, reading = np.add(before, after[::-1]) / 2
        beside[float(sigma)].append((seconds[0], reading, products))
        return mean

    found = []
    rounds = by_level({"golden": golden, "full": scanned}, points, repeats)
    for scans, calls in zip(rounds, beside.values(), strict=True):
        (mean, rows), seconds = scans["golden"]
        exact, counted = scans["full"]
        error = relative_errors(*(np.asarray(x)[None] for x in (mean, exact)))
        # The calls that count: not the first of several.
        full_and_limits = np.array(calls[-len(counted) :]).T
        found.append(Level(seconds, *full_and_limits, float(error[0]), np.asarray(rows)))
    return found


def _numbers(found: list[Level], dataset: Dataset, queries: int) -> dict[str, dict]:
    """Of both scans and of what limits the full one, for JSON."""
    medians = {
        name: np.array([np.median(getattr(level, name)) for level in found])
        for name in ("golden", "full", "read", "product")
    }
    scans = {
        name: {"seconds": each.tolist(), "total_seconds": float(each.sum())}
        for name, each in medians.items()
    }
    limits = {
        "times_read": lambda level: level.read,
        "times_product": lambda level: level.product,
        "times_slower_of_both": lambda level: np.maximum(level.read, level.product),
    }
    middle, total = Level(**medians, error=0.0, rows=None), medians["full"].sum()
    for name, limit in limits.items():
        ratios = [float(np.median(level.full / limit(level))) for level in found]
        scans["full"] |= {name: ratios, f"total_{name}": float(total / limit(middle).sum())}
    for name in ("read", "full"):
        scans[name]["gigabytes_per_second"] = (dataset.x.nbytes / medians[name] / 1e9).tolist()
    for name in ("full", "golden"):
        scans[name]["calls"] = [len(getattr(level, name)) for level in found]
    is_file = getattr(dataset.x, "filename", None) is not None
    scans["read"]["from"] = "file" if is_file else "memory"
    flops = 4 * queries * len(dataset) * dataset.dim
    scans["product"]["gflops"] = (flops / medians["product"] / 1e9).tolist()
    scans["golden"] |= {
        "times_faster": (medians["full"] / medians["golden"]).tolist(),
        "total_times_faster": float(total / medians["golden"].sum()),
        "relative_error_max": [level.error for level in found],
        "rows": [int(np.median(level.rows)) for level in found],
        "queries_scanned_in_full": [int(np.sum(level.rows == len(dataset))) for level in found],
    }
    return scans


def tables(results: Mapping) -> Iterator[Table]:
    """The full scan, the golden scan, and what holds for the whole run."""
    title = f"{title_of(results)}, {results['bytes'] / 1e9:.3g} GB {results['dtype']}"
    yield _full(results, title)
    yield _golden(results, title)
    yield report.table(("measurement", "value"), _run(results), title="the run")


def _full(results: Mapping, title: str) -> Table:
    """One row a level, and one for all."""
    full, read, sigma = results["full"], results["read"], results["sigma"]
    bytes_in_all = len(sigma) * results["bytes"] / 1e9
    speeds = (
        [*each["gigabytes_per_second"], bytes_in_all / each["total_seconds"]]
        for each in (full, read)
    )
    keys = ("seconds", "times_read", "times_product", "times_slower_of_both")
    seconds, *ratios = ([*full[key], full[f"total_{key}"]] for key in keys)
    columns = {"seconds": seconds}
    columns |= zip(("GB/s", f"{read['from']}\nGB/s"), speeds, strict=True)
    columns |= zip(("× reading", "× products", "× slower\nof both"), ratios, strict=True)
    return level_table(
        sigma,
        [(name, [f"{x:.3g}" for x in each]) for name, each in columns.items()],
        title=f"full scan, rows on the {results['rows']}\n{title}",
        caption="×: seconds over those of reading all data, of two\n"
        "plain matrix products, and of the slower of both",
    )


def _golden(results: Mapping, title: str) -> Table:
    """One row a level, and one for all."""
    golden = results["golden"]
    errors, left = golden["relative_error_max"], golden["queries_scanned_in_full"]
    seconds, times = (
        [f"{x:.3g}" for x in (*golden[key], golden[f"total_{key}"])]
        for key in ("seconds", "times_faster")
    )
    columns = {
        "seconds": seconds,
        "×": times,
        "largest\nerror": [f"{x:.2g}" for x in (*errors, max(errors))],
        "rows": [*golden["rows"], None],
        "queries\nin full": [*left, sum(left)],
    }
    return level_table(
        results["sigma"],
        columns.items(),
        title=f"golden scan, tolerance {golden['tolerance']:g}\n{title}",
        caption="×: times faster than the full scan\nrows: weighed in full, median of queries",
    )


def _run(results: Mapping) -> Iterator[tuple[str, str]]:
    """What holds for all levels."""
    golden, taken = results["golden"], results["memory"]
    for name in ("fit", "compile", "trajectory"):
        yield f"golden: {name}, seconds", f"{golden[f'{name}_seconds']:.3g}"
    if taken is not None:
        for name, key in (("peak", "peak_bytes"), ("anonymous, at its end", "anonymous_bytes")):
            yield f"golden: memory, {name}, GiB", f"{taken[key] / 2**30:.3g}"
    for name, multiple in results["exchanged"].items():
        yield f"{name}: numbers exchanged, at most, × B d", f"{multiple:.3g}"
