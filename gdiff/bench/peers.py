"""Posterior means and samplers side by side with what one would use instead."""

import contextlib
import json
import logging
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import jax
import numpy as np
from rich.table import Table

from gdiff import report
from gdiff.bench import peer_diffusers, peer_faiss, peer_keops, peer_memory, peer_own, peer_torch
from gdiff.bench.accuracy import relative_errors
from gdiff.bench.peer import Ask, Peer, Problem, processors
from gdiff.bench.peer_diffusers import Compared
from gdiff.bench.peer_memory import Memory
from gdiff.bench.scores import exact_trajectory
from gdiff.bench.turns import in_turn
from gdiff.errors import require
from gdiff.metrics.exact import exact_posterior
from gdiff.parallel.mesh import BATCH
from gdiff.prepared import Experiment, Prepared
from gdiff.progress import track
from gdiff.score.exact import Exact
from gdiff.trajectory import Queries

log = logging.getLogger(__name__)

# The first is gdiff's full scan, to which all are compared.
OTHERS = (
    *(peer_torch.CDIST, peer_torch.ATTENTION, peer_keops.REDUCTION),
    *(peer_faiss.EXACT, peer_faiss.INVERTED, peer_own.PRODUCTS, peer_torch.PRODUCTS),
)
_PACKAGES = ("gdiff", "jax", "numpy", "torch", "faiss-cpu", "pykeops", "diffusers")


@dataclass(frozen=True)
class Measured:
    """One way to compute the posterior mean.

    Attributes:
        seconds: one array a level, of the seconds of [repeats] calls, or of the only one.
        error: [L] largest relative error of the mean against float64; None for what is no mean.
        memory: None where it cannot be told.
    """

    seconds: list[np.ndarray]
    error: np.ndarray | None
    memory: Memory | None

    def medians(self) -> list[float]:
        """Median seconds of a call by level."""
        return [float(np.median(seconds)) for seconds in self.seconds]

    def slower_than(self, first: "Measured") -> float:
        """Median of the ratio of these seconds, of all levels together, to the first one's."""
        return float(np.median(sum(self.seconds) / sum(first.seconds)))


@dataclass(frozen=True)
class Results:
    """All that was measured.

    Attributes:
        title: the problem in words.
        sigma: [L] noise levels of the queries.
        means: by name; the first is the full scan.
        samplers: by name of the method.
        missing: why a library was not measured, by the name of what needs it.
    """

    title: str
    sigma: np.ndarray
    means: dict[str, Measured]
    samplers: dict[str, Compared]
    missing: dict[str, str]


def main(
    experiment: Experiment, *, queries: int, repeats: int, output: Path | None, as_json: bool
) -> None:
    """Print how fast, how exact and how large in memory this project and its peers are.

    Peers are asked about the states of a run of the experiment, had it the exact score. The full
    scan always takes part, and the experiment's own score if it is another one.

    Args:
        experiment: its levels, data set, score and runtime.
        queries: how many noisy points to ask about at each level.
        repeats: rounds of measurements.
        output: also write the numbers there, as JSON.
        as_json: print JSON instead of tables.

    Raises:
        UserError: the devices are not CPUs, or do not divide the queries.
    """
    # Read when a library with threads of its own is loaded.
    os.environ["OMP_NUM_THREADS"] = str(processors())
    with contextlib.redirect_stdout(sys.stderr):  # some libraries print
        problem = Problem(experiment.dataset.load(), experiment.runtime, queries)
        parts = problem.mesh.shape[BATCH]
        require(queries % parts == 0, f"--queries {queries} must be a multiple of {parts} devices")
        require(
            jax.default_backend() == "cpu",
            "gdiff bench peers compares on CPUs only: set the variable JAX_PLATFORMS=cpu",
        )
        results = measure(experiment, problem, repeats)
    text = json.dumps(_numbers(results, problem), indent=2)
    if as_json:
        print(text)
    else:
        _show(results)
    if output is not None:
        output.write_text(text + "\n")


def measure(experiment: Experiment, problem: Problem, repeats: int) -> Results:
    """Means at all levels, then memory, then samplers."""
    dataset, count = problem.dataset, problem.queries
    points, _ = exact_trajectory(Prepared(experiment), count)
    specs = {type(spec): spec for spec in (Exact(), experiment.score)}
    own = [peer_own.score(spec, tuple(points.sigma.tolist())) for spec in specs.values()]
    peers, asks, missing = _prepared([*own, *OTHERS], problem, points)
    rounds = _timed(peers, asks, points, repeats)
    del asks
    exact = _exact(problem, points)
    means = {}
    with track("memory", len(peers), "processes") as progress:
        for peer in peers:
            error = None
            if peer.is_mean:
                error = relative_errors(np.stack([r[peer.name].result for r in rounds]), exact)
            memory = _memory(peer, experiment, points)
            means[peer.name] = Measured([r[peer.name].seconds for r in rounds], error, memory)
            progress.advance()
    samplers = {}
    try:
        spec, seed = experiment.score, experiment.seed
        samplers = peer_diffusers.measure(problem, spec, seed, repeats)
    except Exception as error:  # a library of others can fail in any way
        missing["samplers"] = _reason(error, "diffusers")
    title = f"{dataset.name}: n = {len(dataset)}, d = {dataset.dim}, B = {count}"
    return Results(f"{title}, {processors()} threads", points.sigma, means, samplers, missing)


def _prepared(
    peers: Sequence[Peer], problem: Problem, points: Queries
) -> tuple[list[Peer], dict[str, Ask], dict[str, str]]:
    """Those that answered once, and why the others cannot."""
    asks, missing = {}, {}
    with track("preparing", len(peers), "peers") as progress:
        for peer in peers:
            try:
                ask = peer.prepare(problem)
                ask(_flat(points)[-1], float(points.sigma[-1]))
                asks[peer.name] = ask
            except Exception as error:  # a library of others can fail in any way
                if peer.package is None:
                    raise
                missing[peer.name] = _reason(error, peer.package)
            progress.advance()
    return [peer for peer in peers if peer.name in asks], asks, missing


def _reason(error: Exception, package: str) -> str:
    """Why something cannot be measured, in one line."""
    if isinstance(error, ImportError) and not _version(package):
        return f"not installed: pip install {package}, or 'gdiff[bench]' for all"
    log.info("%s", package, exc_info=error)
    return " ".join(f"{package} fails: {type(error).__name__}: {error}".split())[:200]


def _timed(
    peers: Sequence[Peer], asks: Mapping[str, Ask], points: Queries, repeats: int
) -> list[dict]:
    """What calls gave and took, by level and name."""
    rounds = []
    calls = len(points.sigma) * len(peers) * (1 + repeats)
    with track("measuring", calls, "calls") as progress:
        for z, sigma in zip(_flat(points), points.sigma, strict=True):
            tasks = {peer.name: partial(asks[peer.name], z, float(sigma)) for peer in peers}
            rounds.append(in_turn(tasks, repeats, progress.advance))
    return rounds


def _flat(points: Queries) -> np.ndarray:
    """[L, b, d] float32."""
    return points.z.reshape(*points.z.shape[:2], -1).astype(np.float32)


def _exact(problem: Problem, points: Queries) -> np.ndarray:
    """Posterior means in float64: [L, b, d]."""
    levels, count = points.z.shape[:2]
    z = _flat(points).reshape(levels * count, *problem.dataset.event_shape)
    mean = exact_posterior(problem.dataset, z, np.repeat(points.sigma, count)).mean
    return mean.reshape(levels, count, -1)


def _memory(peer: Peer, experiment: Experiment, points: Queries) -> Memory | None:
    """At the highest and the lowest level; None also for a library that fails there."""
    ends = [0, -1]
    z, sigma = _flat(points)[ends], points.sigma[ends]
    try:
        return peer_memory.measure(peer, experiment.dataset, experiment.runtime, z, sigma)
    except Exception as error:
        if peer.package is None:
            raise
        log.info("%s", peer.package, exc_info=error)
        return None


def machine() -> dict[str, object]:
    """What the numbers were taken on, for JSON."""
    cpu, file = platform.processor(), Path("/proc/cpuinfo")
    if file.exists():
        lines = (line.partition(":") for line in file.read_text().splitlines())
        cpu = next((value.strip() for key, _, value in lines if key.startswith("model name")), cpu)
    versions = {package: _version(package) for package in _PACKAGES}
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "threads": processors(),
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {package: found for package, found in versions.items() if found},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _numbers(results: Results, problem: Problem) -> dict[str, object]:
    """For JSON; lists run over the levels."""
    first = next(iter(results.means.values()))
    means, samplers = {}, {}
    for name, peer in results.means.items():
        means[name] = {
            "calls": [len(each) for each in peer.seconds],
            "seconds": peer.medians(),
            "seconds_per_call": float(np.mean(peer.medians())),
            "times_slower": peer.slower_than(first),
            "memory_bytes": None if peer.memory is None else asdict(peer.memory),
            "relative_error_max": None if peer.error is None else peer.error.tolist(),
        }
    for name, pair in results.samplers.items():
        samplers[name] = {
            "scheduler": pair.scheduler,
            "steps": peer_diffusers.STEPS,
            "seconds": float(np.median(pair.ours)),
            "scheduler_seconds": float(np.median(pair.theirs)),
            "times_slower": pair.times_slower,
            "max_difference": pair.difference,
        }
    dataset = problem.dataset
    return {
        "machine": machine(),
        "dataset": dataset.name,
        "points": len(dataset),
        "dim": dataset.dim,
        "queries": problem.queries,
        "sigma": results.sigma.tolist(),
        "means": means,
        "samplers": samplers,
        "missing": results.missing,
    }


def _show(results: Results) -> None:
    report.show(_means_table(results))
    report.show(_errors_table(results))
    if results.samplers:
        report.show(_samplers_table(results))
    for name, reason in results.missing.items():
        print(f"{name}: {reason}")


def _means_table(results: Results) -> Table:
    """One row a contender: seconds, ratio, worst error at any level, and memory."""
    reference, first = next(iter(results.means.items()))
    table = Table(title=f"posterior mean\n{results.title}")
    table.add_column("")
    for name in ("seconds\na call", "×", "worst\nerror", "MiB\nheld", "MiB\npeak"):
        table.add_column(name, justify="right")
    for name, peer in results.means.items():
        error = "" if peer.error is None else f"{peer.error.max():.1e}"
        memory = ["", ""]
        if peer.memory is not None:
            memory = [f"{size / 2**20:.0f}" for size in (peer.memory.held, peer.memory.peak)]
        seconds, ratio = np.mean(peer.medians()), peer.slower_than(first)
        table.add_row(name, f"{seconds:.3g}", f"{ratio:.3g}", error, *memory)
    table.caption = f"×: seconds over those of {reference}\nMiB: beyond the data as stored"
    return table


def _errors_table(results: Results) -> Table:
    """One row a level."""
    table = Table(title="largest relative error of the mean against float64")
    table.add_column("σ", justify="right")
    errors = [peer.error for peer in results.means.values() if peer.error is not None]
    for name, peer in results.means.items():
        if peer.error is not None:
            table.add_column(name.replace(" ", "\n", 1), justify="right")
    for sigma, *row in zip(results.sigma, *errors, strict=True):
        table.add_row(f"{sigma:.3g}", *(f"{error:.1e}" for error in row))
    return table


def _samplers_table(results: Results) -> Table:
    """One row a method."""
    table = Table(
        "method", "diffusers", title=f"samplers, {peer_diffusers.STEPS} steps\n{results.title}"
    )
    for name in ("our\nseconds", "their\nseconds", "×", "largest\ndifference"):
        table.add_column(name, justify="right")
    for name, pair in results.samplers.items():
        seconds = [f"{np.median(each):.3g}" for each in (pair.ours, pair.theirs)]
        difference = "" if pair.difference is None else f"{pair.difference:.1e}"
        scheduler = pair.scheduler.removesuffix("Scheduler")
        table.add_row(name, scheduler, *seconds, f"{pair.times_slower:.3g}", difference)
    table.caption = "×: their seconds over ours\ndifference: of x = m z after any step"
    return table
