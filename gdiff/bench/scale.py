"""Data of any size: the full scan against what reading and arithmetic allow, and the golden one."""

import contextlib
import json
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array

from gdiff import report, rng
from gdiff.bench import scale_tables
from gdiff.bench.accuracy import relative_errors
from gdiff.bench.collectives import Program
from gdiff.bench.peers import machine
from gdiff.bench.turns import in_turn
from gdiff.dataset import Dataset
from gdiff.dataset.base import blocks
from gdiff.denoiser import Denoiser
from gdiff.errors import require
from gdiff.kernels.streamed import Streamed
from gdiff.parallel.mesh import BATCH, DATA, batch_sharding, place_rows
from gdiff.prepared import Experiment, Prepared
from gdiff.progress import track
from gdiff.score.exact import ExactScan
from gdiff.score.golden.scan import GoldenScan

# What is read at a time: about a chunk of a scan.
_BUFFER_BYTES = 2**23
# The products of one in so many chunks are timed, before a scan and after it.
_SHARE = 16

# Means [b, *event] and sizes of the subsets [b], or None, of queries at one level.
Ask = Callable[[Array, np.ndarray], tuple[Array, Array | None]]
# Does something and says how many seconds that took.
Timed = Callable[[], float]


@dataclass(frozen=True)
class Level:
    """What was measured at one noise level; seconds are those of [rounds] calls.

    Attributes:
        golden: of a golden scan.
        full: of a full scan.
        read: of reading all data, the mean of right before and right after the full scan.
        product: of the matrix products that the full scan needs, likewise.
        error: largest relative error of the golden mean.
        rows: [b] rows that were weighed in full for each query of the golden scan.
    """

    golden: np.ndarray
    full: np.ndarray
    read: np.ndarray
    product: np.ndarray
    error: float
    rows: np.ndarray


def main(
    experiment: Experiment, *, queries: int, repeats: int, output: Path | None, as_json: bool
) -> None:
    """Print how fast the golden and the full scan are, by what they are limited, and their memory.

    Args:
        experiment: its score must be `Golden`; `score.rows` says where both scans have the rows.
        queries: samples on their way through the noise levels of the schedule.
        repeats: rounds of measurements, of what is not slow.
        output: also write the numbers there, as JSON.
        as_json: print JSON instead of tables.

    Raises:
        UserError: the devices do not divide the queries; and what the parts raise.
    """
    with contextlib.redirect_stdout(sys.stderr):
        results = measure(experiment, queries, repeats)
    text = json.dumps(results, indent=2)
    if as_json:
        print(text)
    else:
        for table in scale_tables.tables(results):
            report.show(table)
    if output is not None:
        output.write_text(text + "\n")


def measure(experiment: Experiment, queries: int, repeats: int) -> dict:
    """All numbers, for JSON; lists run over the noise levels.

    The golden scan comes first and alone, so that the peak of memory is its own. Its samples go
    through the levels by DDIM; at their states everything is then timed, level by level.
    """
    with contextlib.suppress(OSError):  # the highest mark starts again from here
        forget_peak()
    prepared = Prepared(experiment)
    mesh, clock = prepared.mesh, prepared.clock
    parts = mesh.shape[BATCH]
    require(queries % parts == 0, f"--queries {queries} must be a multiple of {parts} devices")
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
    memory = _memory()
    full = golden.full
    with clock.phase("compile full"):
        ask_full, full_moves = _compiled(full, z)
    limits = _reading(dataset), _products(dataset, full, mesh, z)
    found = _measured(ask, ask_full, limits, states, levels, repeats)
    exchanged = np.array([full_moves, golden_moves]) / (queries // parts * dataset.dim)
    scans = _numbers(found, dataset, queries)
    scans["golden"] |= {
        "tolerance": experiment.score.tolerance,
        "fit_seconds": clock.seconds["fit golden"],
        "compile_seconds": clock.seconds["compile golden"],
        "trajectory_seconds": clock.seconds["golden trajectory"],
    }
    return {
        "machine": machine() | {"devices": [str(device) for device in mesh.devices.flat]},
        "dataset": dataset.name,
        "points": len(dataset),
        "dim": dataset.dim,
        "bytes": dataset.x.nbytes,
        "dtype": dataset.x.dtype.name,
        "rows": "host" if isinstance(full.rows.stored, Streamed) else "device",
        "queries": queries,
        "sigma": levels.tolist(),
        **scans,
        "memory": memory,
        "exchanged": dict(zip(("full", "golden"), exchanged.tolist(), strict=True)),
    }


def _compiled(denoiser: Denoiser, z: Array) -> tuple[Ask, int]:
    """The denoiser for batches like z and one level, and how many numbers a device receives."""

    @eqx.filter_jit
    def ask(denoiser: Denoiser, z: Array, sigma: Array) -> tuple[Array, Array | None]:
        posterior = denoiser(z, jnp.full(len(z), sigma))
        return posterior.mean, posterior.subset_size

    program = ask.lower(denoiser, z, np.ones((), z.dtype)).compile()
    moved = Program.of(program.compiled.as_text()).moved()
    return partial(program, denoiser), sum(moved)


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


def _reading(dataset: Dataset) -> Timed:
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
    return partial(_seconds, from_file if is_file else from_memory)


def _products(dataset: Dataset, full: ExactScan, mesh: Mesh, z: Array) -> Timed:
    """Computes the two products of a scan on rows of one chunk: seconds for those of all rows."""
    z = z.reshape(len(z), -1)
    rows = min(len(dataset), full.chunk_rows * mesh.shape[DATA])
    y = place_rows(dataset.rows(slice(rows)).reshape(rows, -1).astype(z.dtype), mesh)
    chunks = len(dataset) / rows
    calls = math.ceil(chunks / _SHARE)

    @jax.jit
    def product(z: Array, y: Array) -> Array:
        highest = jax.lax.Precision.HIGHEST
        return jnp.matmul(jnp.matmul(z, y.T, precision=highest), y, precision=highest)

    product = product.lower(z, y).compile()

    def some() -> None:
        for _ in range(calls):
            jax.block_until_ready(product(z, y))

    return lambda: _seconds(some) * chunks / calls


def _seconds(run: Callable[[], object]) -> float:
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def _measured(
    golden: Ask,
    full: Ask,
    limits: tuple[Timed, Timed],
    states: list[Array],
    levels: np.ndarray,
    repeats: int,
) -> list[Level]:
    """Time both scans at every level, and right beside the full one what limits it."""
    found = []
    read, product = limits
    with track("measuring", 2 * len(levels) * (1 + repeats), "calls") as progress:
        for z, sigma in zip(states, levels.astype(states[0].dtype), strict=True):
            beside = []

            def scanned(z: Array = z, sigma: np.ndarray = sigma, beside: list = beside) -> Array:
                before = product(), read()
                begin = time.perf_counter()
                mean = jax.block_until_ready(full(z, sigma)[0])
                seconds = time.perf_counter() - begin
                after = read(), product()
                products, reading = np.add(before, after[::-1]) / 2
                beside.append((seconds, reading, products))
                return mean

            tasks = {"golden": partial(golden, z, sigma), "full": scanned}
            timed = in_turn(tasks, repeats, progress.advance)
            # Those that count: not the first of several.
            rounds = np.array(beside[-len(timed["full"].seconds) :]).T
            mean, rows = timed["golden"].result
            means = mean, timed["full"].result
            found.append(
                Level(
                    timed["golden"].seconds,
                    *rounds,
                    error=float(relative_errors(*(np.asarray(x)[None] for x in means))[0]),
                    rows=np.asarray(rows),
                )
            )
    return found


def _numbers(found: list[Level], dataset: Dataset, queries: int) -> dict[str, dict]:
    """Of both scans and of what limits the full one, for JSON."""
    medians = {
        name: np.array([np.median(getattr(level, name)) for level in found])
        for name in ("golden", "full", "read", "product")
    }
    seconds = {
        name: {"seconds": each.tolist(), "total_seconds": float(each.sum())}
        for name, each in medians.items()
    }
    flops = 4 * queries * len(dataset) * dataset.dim
    rates = {name: (dataset.x.nbytes / medians[name] / 1e9).tolist() for name in ("read", "full")}
    ratios = {
        "times_read": [level.full / level.read for level in found],
        "times_product": [level.full / level.product for level in found],
        "times_slower_of_both": [
            level.full / np.maximum(level.read, level.product) for level in found
        ],
    }
    times_faster = [np.median(level.full) / np.median(level.golden) for level in found]
    total = medians["full"].sum()
    both = np.maximum(medians["read"], medians["product"]).sum()
    sums = (medians["read"].sum(), medians["product"].sum(), both)
    return {
        "read": {
            "from": "memory" if getattr(dataset.x, "filename", None) is None else "file",
            **seconds["read"],
            "gigabytes_per_second": rates["read"],
        },
        "product": seconds["product"] | {"gflops": (flops / medians["product"] / 1e9).tolist()},
        "full": {
            "calls": [len(level.full) for level in found],
            **seconds["full"],
            "gigabytes_per_second": rates["full"],
            **{name: [float(np.median(x)) for x in each] for name, each in ratios.items()},
            **{f"total_{n}": float(total / x) for n, x in zip(ratios, sums, strict=True)},
        },
        "golden": {
            "calls": [len(level.golden) for level in found],
            **seconds["golden"],
            "times_faster": [float(x) for x in times_faster],
            "total_times_faster": float(total / medians["golden"].sum()),
            "relative_error_max": [level.error for level in found],
            "rows": [int(np.median(level.rows)) for level in found],
            "queries_scanned_in_full": [int(np.sum(level.rows == len(dataset))) for level in found],
        },
    }
