"""Plans of the golden scan, measured against the full scan on pilot queries."""

import dataclasses
import logging
from collections.abc import Sequence
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from gdiff.dataset import Dataset
from gdiff.kernels.fold import on_devices
from gdiff.parallel import processes
from gdiff.parallel.mesh import BATCH, batch_sharding
from gdiff.progress import track
from gdiff.score.golden.scan import AIM, FEW, QUERIES, REPAIRED, GoldenScan
from gdiff.score.golden.work import Plan, Work
from gdiff.store import cache

log = logging.getLogger(__name__)

# Noise levels at which plans are measured where a run has more of them, or names none.
_MOST_LEVELS = 16
_DEFAULT_RANGE = (0.01, 100.0)
# Errors below this part of the tolerance do not tell how good their estimate is; so many others do.
_NEGLIGIBLE, _TELLING = 0.1, 8
# Errors are reckoned to be this part of their estimate at least; this, until enough of them tell.
_LEAST_INFLATION, _FIRST_INFLATION = 1.5, 1.5
# Estimates are tried again with rows opened by what the first trial showed, where that is other
# than was reckoned with by more than this factor; so often at most.
_CLOSE, _TRIALS = 1.2, 3
# Cost in numbers read by the coarse scan; measured on CPU with 64 queries. A number of the tail's
# mean; a number of an opened row; what every row costs besides, with a tail and without.
_AVERAGED_COST, _OPENED_COST, _ROW_COST, _LEAST_COST = 1.3, 30, 600, 130
# What fewer queries cost more.
_READING_COST = 0.12
_VERSION = 32


class Pilot(NamedTuple):
    """How plans are measured: `queries` per level must meet `tolerance`."""

    tolerance: float
    queries: int
    seed: int


def planned(
    golden: GoldenScan, dataset: Dataset, pilot: Pilot, sigmas: Sequence[float]
) -> GoldenScan:
    """The scan with its plan for `sigmas`, from the cache where it is in it.

    At every level estimates are inflated by the largest ratio of an error to its estimate among the
    pilot queries; the work is chosen that costs least, together with the rows that are
    opened and the repair of queries whose estimate is beyond the tolerance; or the full scan.
    """
    levels = _levels(sigmas)
    basis = cache.digest(np.asarray(golden.mean, np.float32), np.asarray(golden.basis, np.float32))
    dtype = golden.mean.dtype
    parts = (dataset.fingerprint(), golden.index.ends, *pilot, levels.tolist(), basis, dtype.name)
    key = cache.key("golden-plan", _VERSION, *parts)
    table = np.asarray(cache.cached(key, lambda: _measure(golden, dataset, pilot, levels)))
    chosen = table[:, 0].astype(int)
    full = [f"{sigma:.3g}" for sigma in levels[chosen == 0]]
    if full:
        log.info("golden: full scan at sigma = %s", ", ".join(full))
    choice = _works(golden)
    used = sorted({int(work) for work in chosen if work})
    place = [used.index(work) if work else len(used) for work in chosen]
    plan = Plan(
        log_sigma=jnp.asarray(np.log(levels), dtype),
        place=jnp.asarray(place, jnp.int32),
        inflation=jnp.asarray(table[:, 1], dtype),
        works=tuple(choice[work - 1] for work in used),
        reserve=len(golden.index.ends),
    )
    return dataclasses.replace(golden, plan=plan)


def _levels(sigmas: Sequence[float]) -> np.ndarray:
    """Increasing noise levels to be measured: those of the run if they are few."""
    given = np.unique(np.asarray(sigmas, np.float64))
    if 0 < len(given) <= _MOST_LEVELS:
        return given
    low, high = (given[0], given[-1]) if len(given) else _DEFAULT_RANGE
    return np.geomspace(low, high, _MOST_LEVELS)


def _measure(golden: GoldenScan, dataset: Dataset, pilot: Pilot, levels: np.ndarray) -> np.ndarray:
    """Number of the work, 0 for the full scan, and inflation per level: [s, 2]."""
    table = []
    with track(f"measuring plans on {dataset.name}", len(levels), "levels") as progress:
        for level, sigma in enumerate(levels):
            z = _queries(dataset, golden.full.rows.mesh.shape[BATCH], pilot, level, sigma)
            z = z.astype(golden.mean.dtype)
            z = jax.device_put(z, batch_sharding(golden.full.rows.mesh))
            sigma = jnp.full(len(z), sigma, z.dtype)
            exact = _full(golden, z, sigma)
            table.append(_cheapest(golden, pilot.tolerance, z, sigma, exact))
            progress.reach(level + 1)
    return np.array(table)


def _works(golden: GoldenScan) -> list[Work]:
    """What a plan may choose from, from the cheapest on; the first is number 1."""
    ranks = range(1, len(golden.index.ends) + 1)
    works = [Work(ranked, nearest) for ranked in ranks for nearest in (True, False)]
    return sorted(works, key=lambda work: _cost(golden, work, 0))


def _cheapest(
    golden: GoldenScan, tolerance: float, z: Array, sigma: Array, exact: Array
) -> tuple[float, float]:
    """The number of the work that is cheapest with its repairs, and the inflation."""
    best, lowest = (0, 1.0), _full_cost(golden)
    for number, work in enumerate(_works(golden), 1):
        if _cost(golden, work, 0) >= lowest:
            break
        # What leaves rows out knows a bound rather than an estimate.
        first, least = (1.0, 1.0) if work.nearest else (_FIRST_INFLATION, _LEAST_INFLATION)
        guess, inflation = first, 0.0
        for _ in range(_TRIALS):
            aim = jnp.full_like(sigma, AIM * tolerance / guess)
            trial = _trial(golden, work, aim, z, sigma, exact)
            error, estimate, rows = processes.gathered(trial)
            telling = error > _NEGLIGIBLE * tolerance
            ratio = error[telling] / np.maximum(estimate[telling], 1e-9)
            surely = least if len(ratio) >= _TELLING else first
            inflation = max(inflation, float(np.max(ratio, initial=surely)))
            if inflation <= _CLOSE * guess:
                break
            guess = inflation
        # So written that NaN is doubtful.
        doubtful = float(np.mean(~(inflation * estimate <= tolerance)))
        cost = _cost(golden, work, float(np.mean(rows))) + _repairs(golden, doubtful)
        if cost < lowest:
            best, lowest = (number, inflation), cost
    return best


def _repairs(golden: GoldenScan, doubtful: float) -> float:
    """Cost of repairs of a part of the queries: by the reserve, and of half of them in full."""
    count = doubtful * QUERIES
    size = 1 if count <= FEW else REPAIRED
    work = Work(len(golden.index.ends))
    reserve = np.ceil(count / size) * _cost(golden, work, 0, size)
    return reserve + count / 2 / REPAIRED * _full_cost(golden, REPAIRED)


def _cost(golden: GoldenScan, work: Work, rows: float, queries: int = QUERIES) -> float:
    """In numbers that the coarse scan reads for a whole batch; `rows` are opened for a query."""
    end = golden.index.ends[work.ranked - 1]
    row = end + _LEAST_COST if work.nearest else (1 + _AVERAGED_COST) * end + _ROW_COST
    opened = _OPENED_COST * len(golden.mean) * rows * queries / QUERIES
    return golden.full.rows.n * row * _reading(queries) + opened


def _full_cost(golden: GoldenScan, queries: int = QUERIES) -> float:
    """Of the full scan, likewise."""
    return golden.full.rows.n * 2 * len(golden.mean) * _reading(queries)


def _reading(queries: int) -> float:
    """What a pass costs in passes with a whole batch: fewer queries share what is read."""
    share = queries / QUERIES
    return share if share == 1 else share + _READING_COST


def _queries(dataset: Dataset, devices: int, pilot: Pilot, level: int, sigma: float) -> np.ndarray:
    """Noised rows, and noised midpoints of two rows, half of each: [q, *event] float32."""
    rng = np.random.default_rng([pilot.seed, level])
    count = -(-pilot.queries // (2 * devices)) * 2 * devices
    a, b = (dataset.rows(rng.integers(0, len(dataset), count)) for _ in range(2))
    middle = np.arange(count).reshape(-1, *[1] * (a.ndim - 1)) % 2 == 0
    z = np.where(middle, (a + b) / 2, a)
    return (z + sigma * rng.standard_normal(z.shape)).astype(a.dtype)


@eqx.filter_jit
def _full(golden: GoldenScan, z: Array, sigma: Array) -> Array:
    return golden.full(z, sigma).mean


@eqx.filter_jit
def _trial(
    golden: GoldenScan, work: Work, aim: Array, z: Array, sigma: Array, exact: Array
) -> Array:
    """Relative error of the mean, its estimate, and how many rows are opened: [3, q]."""

    def run(golden: GoldenScan, z: Array, sigma: Array, exact: Array, aim: Array) -> Array:
        size = jnp.maximum(jnp.linalg.norm(exact, axis=1), jnp.finfo(z.dtype).tiny)
        posterior, estimate, _ = golden.worked(work, aim, z, sigma)
        error = jnp.linalg.norm(posterior.mean - exact, axis=1)
        rows = posterior.subset_size.astype(z.dtype)
        return jnp.stack([error / size, estimate / size, rows], axis=1)

    z, exact = (x.reshape(len(x), -1) for x in (z, exact))
    return on_devices(golden.full.rows.mesh, run, golden, z, sigma, exact, aim).T
