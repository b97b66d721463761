"""Plans of the golden scan, measured against the full scan on pilot queries."""

import dataclasses
import functools
import logging
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from gdiff.dataset import Dataset
from gdiff.kernels.fold import on_devices
from gdiff.kernels.leading import leading, without
from gdiff.parallel import processes
from gdiff.parallel.mesh import BATCH, batch_sharding
from gdiff.progress import track
from gdiff.score.golden import bounds
from gdiff.score.golden.scan import FEW, QUERIES, REPAIRED, GoldenScan
from gdiff.score.golden.sums import Head, Tail
from gdiff.score.golden.work import Plan, Work
from gdiff.store import cache

log = logging.getLogger(__name__)

# Noise levels at which plans are measured where a run has more of them, or names none.
_MOST_LEVELS = 16
_DEFAULT_RANGE = (0.01, 100.0)
# Pilot queries with estimates above this part of the tolerance count as repaired.
# Without a tail estimates differ by orders of magnitude, and other queries may do much worse.
_MARGIN, _WIDE_MARGIN = 0.85, 0.2
# Errors below this part of the tolerance do not tell how good their estimate is.
_NEGLIGIBLE = 0.1
_SMALL_HEAD, _LARGEST_HEAD = 256, 4096
_HEADS = (0, 16, 64, 256, 1024, _LARGEST_HEAD)
# Cost in numbers read by the coarse scan; measured on CPU with 64 queries. A number of the tail's
# mean; a number of a row of the head; what every row costs besides: in any case, for a head, and
# for a tail.
_AVERAGED_COST, _HEAD_COST = 1.7, 35
_ROW_COST, _RANKING_COST, _TAIL_COST = 60, 300, 300
_LEAST_RESERVE = 64
# What fewer queries cost more.
_READING_COST = 0.12
_VERSION = 19


class Pilot(NamedTuple):
    """How plans are measured: `queries` per level must meet `tolerance`."""

    tolerance: float
    queries: int
    seed: int


def planned(
    golden: GoldenScan, dataset: Dataset, pilot: Pilot, sigmas: Sequence[float]
) -> GoldenScan:
    """The scan with its plan for `sigmas`, from the cache where it is in it.

    At every level the estimates of all works' errors are inflated by the largest ratio of an
    error to its estimate among the pilot queries; the work is taken that costs least, together
    with the repair of queries whose estimate is near the tolerance or above, or the full scan.
    """
    levels = _levels(sigmas)
    basis = cache.digest(np.asarray(golden.mean, np.float32), np.asarray(golden.basis, np.float32))
    dtype = golden.mean.dtype
    parts = (dataset.fingerprint(), golden.index.ends, *pilot, levels.tolist(), basis, dtype.name)
    key = cache.key("golden-plan", _VERSION, *parts)
    table = np.asarray(cache.cached(key, lambda: _measure(golden, dataset, pilot, levels)))
    full = [f"{sigma:.3g}" for sigma in levels[table[:, 0] == 0]]
    if full:
        log.info("golden: full scan at sigma = %s", ", ".join(full))
    chosen = [Work(*map(int, row[:3])) for row in table]
    works = sorted({work for work in chosen if work.ranked}, key=lambda x: _cost(golden, x))
    place = [works.index(work) if work.ranked else len(works) for work in chosen]
    plan = Plan(
        log_sigma=jnp.asarray(np.log(levels), dtype),
        place=jnp.asarray(place, jnp.int32),
        inflation=jnp.asarray(table[:, 3], dtype),
        works=tuple(works),
        reserve=_reserve(golden),
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
    """Work and inflation per level: [s, 4]; all zeros but the last stand for the full scan."""
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


def _cheapest(
    golden: GoldenScan, tolerance: float, z: Array, sigma: Array, exact: Array
) -> tuple[float, ...]:
    """The work that is cheapest with its repairs, and the inflation of its estimate.

    Repairs are two: by the reserve, and of those that are doubtful even then in full.
    """
    reserve = _reserve(golden)

    @functools.cache
    def by_reserve() -> np.ndarray:
        return processes.gathered(_trials(golden, (reserve,), z, sigma, exact))[0, 1]

    def repairs(inflation: float, is_doubtful: np.ndarray) -> float:
        if not is_doubtful.any():
            return 0.0
        is_left = is_doubtful & ~(inflation * by_reserve() <= _MARGIN * tolerance)
        doubtful, left = (np.mean(x) * QUERIES for x in (is_doubtful, is_left))
        size = 1 if doubtful <= FEW else REPAIRED
        cost = np.ceil(doubtful / size) * _cost(golden, reserve, size)
        # Not rounded up: a single pilot query may be bad luck, and full scans are dear.
        return cost + left / REPAIRED * _full_cost(golden, REPAIRED)

    best, lowest = (0, 0, 0, 1.0), _full_cost(golden)
    for works in _menu(golden):
        costs = [_cost(golden, work) for work in works]
        if min(costs) >= lowest:
            continue
        trials = processes.gathered(_trials(golden, works, z, sigma, exact))
        for work, cost, (error, estimate) in zip(works, costs, trials, strict=True):
            telling = error > _NEGLIGIBLE * tolerance
            ratio = error[telling] / np.maximum(estimate[telling], 1e-30)
            inflation = float(np.max(ratio, initial=1.0))
            margin = _MARGIN if work.averaged else _WIDE_MARGIN
            # So written that NaN is doubtful.
            cost += repairs(inflation, ~(inflation * estimate <= margin * tolerance))
            if cost < lowest:
                best, lowest = (*work, inflation), cost
    return best


def _reserve(golden: GoldenScan) -> Work:
    """What doubtful queries get: nearly all that there is."""
    blocks = len(golden.index.ends)
    most = max(golden.full.rows.n // 64, _LEAST_RESERVE)
    return Work(blocks, max(1, blocks - 1), max(h for h in _heads(golden) if h <= most))


def _menu(golden: GoldenScan) -> Iterator[tuple[Work, ...]]:
    """All that may be chosen, in groups that are tried together: the tail dropped, or averaged.

    Large heads come last, as trying them takes longest and is seldom worth it.
    """
    heads = _heads(golden)
    small = [head for head in heads if head <= _SMALL_HEAD]
    for some in (small, heads[len(small) :]):
        for ranked in range(1, len(golden.index.ends) + 1):
            averaged = (0, *range(max(1, ranked - 2), ranked + 1))
            works = tuple(Work(ranked, a, head) for head in some for a in averaged if a or head)
            if works:
                yield works


def _heads(golden: GoldenScan) -> list[int]:
    """Heads that may be chosen: the largest one only where it is a small part of the rows."""
    n = golden.full.rows.n
    return [h for h in _HEADS if h <= n // 4 and (h < _LARGEST_HEAD or h <= n // 64)]


def _cost(golden: GoldenScan, work: Work, queries: int = QUERIES) -> float:
    """In numbers that the coarse scan reads for a whole batch."""
    row = golden.index.ends[work.ranked - 1] + _ROW_COST
    if work.averaged:
        row += _AVERAGED_COST * golden.index.ends[work.averaged - 1] + _TAIL_COST
    if work.head:
        row += _RANKING_COST
    head = _HEAD_COST * len(golden.mean) * work.head * queries / QUERIES
    return golden.full.rows.n * row * _reading(queries) + head


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
def _trials(
    golden: GoldenScan, works: tuple[Work, ...], z: Array, sigma: Array, exact: Array
) -> Array:
    """Relative error of the mean and its estimate, for works that rank alike: [works, 2, q]."""

    ranked = works[0].ranked
    averaged = sorted({work.averaged for work in works})
    heads = sorted({work.head for work in works})

    def run(golden: GoldenScan, z: Array, sigma: Array, exact: Array) -> Array:
        query = golden.query(z, sigma)
        coarse = golden.coarse(query, ranked)
        leaders = leading(coarse, heads[-1])
        size = jnp.maximum(jnp.linalg.norm(exact, axis=1), jnp.finfo(z.dtype).tiny)

        def with_head(count: Array) -> Array:
            used = jnp.arange(heads[-1]) < count
            some = leaders._replace(affinities=jnp.where(used, leaders.affinities, -jnp.inf))
            head = golden.head(query, some)
            rest = without(coarse, some)
            tail = golden.tail(query, rest, ranked)
            missed = bounds.overlooked(golden.index, query, rest, head, tail, Work(ranked, 0, 0))
            missed = jnp.where(count > 0, missed, 0)
            return jnp.stack([compared(head, tail, missed, Work(ranked, a, 0)) for a in averaged])

        def compared(head: Head, tail: Tail, missed: Array, work: Work) -> Array:
            columns = golden.index.ends[work.averaged - 1] if work.averaged else 0
            tail = tail._replace(first=tail.first[:, :columns])
            mean, _, estimate = golden.combined(query, head, tail, work)
            estimate = jnp.maximum(estimate, missed) / golden.full.rows.scale
            error = jnp.linalg.norm(golden.restored(mean) - exact, axis=1)
            return jnp.stack([error, estimate]) / size

        # A loop, so that all heads share one compiled body.
        found = jax.lax.map(with_head, jnp.array(heads))
        places = [(heads.index(work.head), averaged.index(work.averaged)) for work in works]
        return jnp.moveaxis(found[tuple(np.array(places).T)], -1, 0)

    z, exact = (x.reshape(len(x), -1) for x in (z, exact))
    return jnp.moveaxis(on_devices(golden.full.rows.mesh, run, golden, z, sigma, exact), 0, -1)
