"""A score against the matrix products that it needs, and a job against its kernels."""

from collections.abc import Callable, Iterator
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from rich.table import Table

from gdiff import report, rng
from gdiff.bench.harness import compiled, in_turn, problem_of, title_of, two_products
from gdiff.experiment import Experiment
from gdiff.prepared import Prepared
from gdiff.sampler.drivers.sequential import Engine

_SIGMAS = (0.05, 1.0, 5.0, 50.0)
_JOB_STEPS = 10


def measure(experiment: Experiment, queries: int, repeats: int) -> dict:
    """All numbers, for JSON."""
    prepared = Prepared(experiment)
    results = problem_of(prepared, queries)
    denoiser = experiment.score.fit(prepared.data)
    z = jax.random.normal(rng.key(0), (queries, *prepared.dataset.event_shape))
    score = compiled(denoiser, z)
    grid = np.geomspace(80.0, 0.002, _JOB_STEPS)
    engine = Engine(denoiser, experiment.sampler.steps(np.append(grid, 0.0)))
    return results | {
        "score": measure_score(score, prepared, z, repeats),
        "job": measure_job(score, engine, grid, 80.0 * z, repeats),
    }


def measure_score(
    score: Callable, prepared: Prepared, z: jax.Array, repeats: int
) -> dict[str, float]:
    """Seconds of one scan at several noise levels, and of the products that it needs.

    The products are in the working precision with the data resident in that precision. Everything
    is measured in turn, and ratios are medians of the ratios of one turn.
    """
    dataset, flat = prepared.dataset, z.reshape(len(z), -1)
    data = jnp.asarray(dataset.rows(slice(None)).reshape(len(dataset), -1), z.dtype)
    product = two_products.lower(flat, data).compile()
    tasks: dict[str, Callable] = {"product": partial(product, flat, data)}
    for sigma in np.asarray(_SIGMAS, z.dtype):
        tasks[f"sigma={sigma:g}"] = partial(score, z, sigma)
    timed = in_turn(tasks, repeats)
    limit = timed.pop("product").seconds
    flops, seconds = 4 * z.size * len(dataset), float(np.median(limit))
    measured = {"product_seconds": seconds, "product_gflops": flops / seconds / 1e9}
    for name, each in timed.items():
        measured[f"{name} seconds"] = float(np.median(each.seconds))
        measured[f"{name} rate/product"] = float(np.median(limit / each.seconds))
    return measured


def measure_job(
    score: Callable, engine: Engine, grid: np.ndarray, z: jax.Array, repeats: int
) -> dict[str, float]:
    """The steps of the engine once compiled, against as many calls of the compiled score alone."""
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


def tables(results: dict) -> Iterator[Table]:
    """All numbers in one table."""
    rows = [*results["score"].items(), *results["job"].items()]
    yield report.table(("measurement", "value"), rows, title=title_of(results))
