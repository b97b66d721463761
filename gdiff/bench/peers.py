"""Posterior means and samplers side by side with what one would use instead."""

import logging
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import jax
import numpy as np
from rich.table import Table

from gdiff import report
from gdiff.bench import memory, samplers
from gdiff.bench.contenders import OTHERS, Ask, Peer, Problem, own
from gdiff.bench.harness import (
    Timed,
    by_level,
    exact_states,
    level_table,
    medians,
    problem_of,
    ratios,
    relative_errors,
    title_of,
)
from gdiff.errors import require
from gdiff.experiment import Experiment
from gdiff.memory import of_host
from gdiff.metrics.exact import exact_posterior
from gdiff.prepared import Prepared
from gdiff.progress import track
from gdiff.report import processors, version_of
from gdiff.score.exact import Exact
from gdiff.trajectory import Queries

log = logging.getLogger(__name__)

_PACKAGES = ("gdiff", "jax", "numpy", "torch", "faiss-cpu", "pykeops", "diffusers")


def measure(experiment: Experiment, queries: int, repeats: int) -> dict:
    """How fast, how exact and how large in memory this project and its peers are, for JSON.

    Peers are asked about the states of a run of the experiment, had it the exact score. The full
    scan always takes part, and the experiment's own score if it is another one. Means at all
    levels come first, then memory, then samplers; lists run over the levels.

    Raises:
        UserError: the devices are not CPUs.
    """
    # Read when a library with threads of its own is loaded.
    os.environ["OMP_NUM_THREADS"] = str(processors())
    prepared = Prepared(experiment)
    results = {"machine": machine()} | problem_of(prepared, queries)
    require(
        jax.default_backend() == "cpu",
        "gdiff bench peers compares on CPUs only: set the variable JAX_PLATFORMS=cpu",
    )
    states = exact_states(prepared, queries)
    z = states.z.reshape(*states.z.shape[:2], -1).astype(np.float32)
    points = Queries(z, states.sigma)
    specs = {type(spec): spec for spec in (Exact(), experiment.score)}
    peers = [own(spec, tuple(points.sigma.tolist())) for spec in specs.values()]
    asks, missing = _prepared(
        [*peers, *OTHERS], Problem(prepared.dataset, experiment.runtime), points
    )
    rounds = by_level({peer.name: ask for peer, ask in asks.items()}, points, repeats)
    peers = list(asks)
    del asks
    exact, means = _exact(prepared, points), {}
    # Memory is that at the highest and the lowest level.
    few = points.z[[0, -1]], points.sigma[[0, -1]]
    with track("memory", len(peers), "processes") as progress:
        for peer in peers:
            means[peer.name] = _numbers(peer, peers[0], rounds, exact)
            taken = memory.measure(peer, experiment.dataset, experiment.runtime, *few)
            means[peer.name]["memory_bytes"] = None if taken is None else taken._asdict()
            progress.advance()
    results |= {"sigma": points.sigma.tolist(), "means": means, "samplers": {}}
    try:
        spec, seed = experiment.score, experiment.seed
        results["samplers"] = samplers.measure(prepared.data, queries, spec, seed, repeats)
    except Exception as error:  # a library of others can fail in any way
        missing["samplers"] = _reason(error, "diffusers")
    return results | {"missing": missing}


def _prepared(
    peers: Sequence[Peer], problem: Problem, points: Queries
) -> tuple[dict[Peer, Ask], dict[str, str]]:
    """Those that answered once, and why the others cannot."""
    asks, missing = {}, {}
    with track("preparing", len(peers), "peers") as progress:
        for peer in peers:
            try:
                ask = peer.prepare(problem)
                ask(points.z[-1], points.sigma[-1])
                asks[peer] = ask
            except Exception as error:  # a library of others can fail in any way
                if peer.package is None:
                    raise
                missing[peer.name] = _reason(error, peer.package)
            progress.advance()
    return asks, missing


def _reason(error: Exception, package: str) -> str:
    """Why something cannot be measured, in one line."""
    if isinstance(error, ImportError) and not version_of(package):
        return f"not installed: pip install {package}, or 'gdiff[bench]' for all"
    log.info("%s", package, exc_info=error)
    return " ".join(f"{package} fails: {type(error).__name__}: {error}".split())[:200]


def _exact(prepared: Prepared, points: Queries) -> np.ndarray:
    """Posterior means in float64: [L, b, d]."""
    levels, count, _ = points.z.shape
    z = points.z.reshape(levels * count, *prepared.dataset.event_shape)
    mean = exact_posterior(prepared.dataset, z, np.repeat(points.sigma, count)).mean
    return mean.reshape(levels, count, -1)


def _numbers(
    peer: Peer, first: Peer, rounds: Sequence[Mapping[str, Timed]], exact: np.ndarray
) -> dict[str, object]:
    """Seconds of a contender, its ratio to the first one, and its errors."""
    seconds, others = ([each[p.name].seconds for each in rounds] for p in (peer, first))
    *middle, _ = medians(seconds)
    means = np.stack([each[peer.name].result for each in rounds])
    return {
        "calls": [len(each) for each in seconds],
        "seconds": middle,
        "seconds_per_call": float(np.mean(middle)),
        "times_slower": ratios(seconds, others)[-1],
        "relative_error_max": relative_errors(means, exact).tolist() if peer.is_mean else None,
    }


def machine() -> dict[str, object]:
    """What the numbers were taken on, for JSON."""
    cpu, file = platform.processor(), Path("/proc/cpuinfo")
    if file.exists():
        lines = (line.partition(":") for line in file.read_text().splitlines())
        cpu = next((value.strip() for key, _, value in lines if key.startswith("model name")), cpu)
    versions = {package: version_of(package) for package in _PACKAGES}
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "threads": processors(),
        "memory_bytes": of_host(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {package: found for package, found in versions.items() if found},
    }


def tables(results: Mapping) -> Iterator[Table | str]:
    """Means, their errors by level, samplers, and a line for each who is missing."""
    title = f"{title_of(results)}, {results['machine']['threads']} threads"
    means, pairs = results["means"], results["samplers"]
    errors = {name: peer["relative_error_max"] for name, peer in means.items()}
    errors = {name: error for name, error in errors.items() if error is not None}
    rows = []
    for name, peer in means.items():
        numbers = (f"{peer[key]:.3g}" for key in ("seconds_per_call", "times_slower"))
        error = f"{max(errors[name]):.1e}" if name in errors else ""
        sizes = (peer["memory_bytes"] or {"held": None, "peak": None}).values()
        memory = ("" if size is None else f"{size / 2**20:.0f}" for size in sizes)
        rows.append((name, *numbers, error, *memory))
    yield report.table(
        ("", "seconds\na call", "×", "worst\nerror", "MiB\nheld", "MiB\npeak"),
        rows,
        title=f"posterior mean\n{title}",
        caption=f"×: seconds over those of {next(iter(means))}\nMiB: beyond the data as stored",
    )
    yield level_table(
        results["sigma"],
        [(n.replace(" ", "\n", 1), [f"{x:.1e}" for x in error]) for n, error in errors.items()],
        title="largest relative error of the mean against float64",
    )
    rows = []
    for name, pair in pairs.items():
        keys = ("seconds", "scheduler_seconds", "times_slower")
        difference = pair["max_difference"]
        shown = "" if difference is None else f"{difference:.1e}"
        scheduler = pair["scheduler"].removesuffix("Scheduler")
        rows.append((name, scheduler, *(f"{pair[key]:.3g}" for key in keys), shown))
    if rows:
        yield report.table(
            ("method", "diffusers", "our\nseconds", "their\nseconds", "×", "largest\ndifference"),
            rows,
            left=2,
            title=f"samplers, {samplers.STEPS} steps\n{title}",
            caption="×: their seconds over ours\ndifference: of x = m z after any step",
        )
    for name, reason in results["missing"].items():
        yield f"{name}: {reason}"
