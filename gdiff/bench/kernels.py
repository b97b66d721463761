"""A score against the matrix products that it needs, and a job against its kernels."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from rich.table import Table

from gdiff import report, rng
from gdiff.bench.turns import Mean, compiled_mean, in_turn
from gdiff.dataset import Dataset
from gdiff.denoiser import Denoiser
from gdiff.errors import require
from gdiff.parallel.mesh import BATCH
from gdiff.prepared import Experiment, Prepared
from gdiff.sampler.drivers.sequential import Engine

_SIGMAS = (0.05, 1.0, 5.0, 50.0)
_JOB_STEPS = 10


def main(experiment: Experiment, *, queries: int, repeats: int, output: Path | None) -> None:
    """Print all measurements of an experiment's data set and score; write them as JSON if asked."""
    prepared = Prepared(experiment)
    mesh = prepared.mesh
    parts = mesh.shape[BATCH]
    require(queries % parts == 0, f"--queries {queries} must be a multiple of {parts} devices")
    dataset = prepared.dataset
    denoiser = experiment.score.fit(prepared.data)
    z = jax.random.normal(jax.random.key(0), (queries, *dataset.event_shape))
    score = compiled_mean(denoiser, z, np.ones((), z.dtype))
    results = {
        "dataset": dataset.name,
        "points": len(dataset),
        "dim": dataset.dim,
        "queries": queries,
        "devices": [str(device) for device in mesh.devices.flat],
        "score": measure_score(score, dataset, z, repeats),
        "job": measure_job(experiment, denoiser, score, 80.0 * z, repeats),
    }
    _show(results)
    if output is not None:
        output.write_text(json.dumps(results, indent=2) + "\n")


def measure_score(score: Mean, dataset: Dataset, z: jax.Array, repeats: int) -> dict[str, float]:
    """Seconds of one scan at several noise levels, and of the products that it needs.

    The products are [B, d] x [d, n] and [B, n] x [n, d] in the working precision with the data
    resident in that precision. Everything is measured in turn, `repeats` times, and ratios are
    medians of the ratios of one turn, so that a machine whose speed drifts is no matter.
    """
    flat = z.reshape(len(z), -1)
    data = jnp.asarray(dataset.rows(slice(None)).reshape(len(dataset), -1), z.dtype)

    @jax.jit
    def product(z: jax.Array, y: jax.Array) -> jax.Array:
        highest = jax.lax.Precision.HIGHEST
        return jnp.matmul(jnp.matmul(z, y.T, precision=highest), y, precision=highest)

    product = product.lower(flat, data).compile()
    tasks: dict[str, Callable[[], jax.Array]] = {"product": partial(product, flat, data)}
    tasks |= {
        f"sigma={sigma:g}": partial(score, z, sigma) for sigma in np.asarray(_SIGMAS, z.dtype)
    }
    seconds = {name: timed.seconds for name, timed in in_turn(tasks, repeats).items()}
    flops = 4 * len(z) * len(dataset) * dataset.dim
    measured = {"product_seconds": float(np.median(seconds["product"]))}
    measured["product_gflops"] = flops / measured["product_seconds"] / 1e9
    for name, times in seconds.items():
        if name != "product":
            measured[f"{name} seconds"] = float(np.median(times))
            measured[f"{name} rate/product"] = float(np.median(seconds["product"] / times))
    return measured


def measure_job(
    experiment: Experiment, denoiser: Denoiser, score: Mean, z: jax.Array, repeats: int
) -> dict[str, float]:
    """Ten steps of the engine once compiled, against ten calls of the compiled score alone."""
    grid = np.geomspace(80.0, 0.002, _JOB_STEPS)
    engine = Engine(denoiser, experiment.sampler.steps(np.append(grid, 0.0)))
    keys = rng.sample_keys(0, rng.Role.STEP, jnp.arange(len(z)))
    engine.compile(z, keys)

    def kernels() -> jax.Array:
        out = z
        for sigma in grid.astype(z.dtype):
            out = score(out, sigma)
        return out

    timed = in_turn({"job": lambda: engine.sample(z, keys), "kernels": kernels}, repeats)
    job, alone = timed["job"].seconds, timed["kernels"].seconds
    return {
        "job_seconds": float(np.median(job)),
        "kernel_seconds": float(np.median(alone)),
        "outside_kernels": float(np.median(1 - alone / job)),
    }


def _show(results: dict) -> None:
    title = f"{results['dataset']}: n = {results['points']}, d = {results['dim']}, "
    table = Table("measurement", "value", title=title + f"B = {results['queries']}")
    table.columns[1].justify = "right"
    for part in ("score", "job"):
        for name, value in results[part].items():
            table.add_row(name, f"{value:.4g}")
    report.show(table)
