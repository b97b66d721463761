"""The index of the golden scan: principal coordinates and norms of all rows, kept in the cache."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P
from jaxtyping import Array

from gdiff import cache
from gdiff.dataset import Dataset
from gdiff.dataset.base import blocks
from gdiff.dataset.statistics import statistics
from gdiff.mesh import DATA, place_rows
from gdiff.progress import track
from gdiff.score.full import FullScan, half_norms
from gdiff.score.golden_scan import GoldenScan
from gdiff.score.golden_sums import Index
from gdiff.score.golden_work import Plan

# Ranks at which a coarse scan may end.
RANKS = (64, 128, 256, 512, 1024)
# Part of the key: to be raised when what is stored changes.
_VERSION = 3


def ranks(dim: int, max_rank: int) -> tuple[int, ...]:
    """Ranks worth trying for rows of `dim` numbers: at most half of them."""
    return tuple(rank for rank in RANKS if rank <= min(max_rank, dim // 2))


def build(dataset: Dataset, full: FullScan, ends: tuple[int, ...], tolerance: float) -> GoldenScan:
    """A golden scan without a plan yet: everything is done in full."""
    found = statistics(dataset, rank=ends[-1])
    basis = np.zeros((dataset.dim, ends[-1]), np.float32)
    eigenvalues = np.zeros(ends[-1])
    held = len(found.eigenvalues)
    basis[:, :held], eigenvalues[:held] = found.eigenvectors, found.eigenvalues
    mean = (found.mean * dataset.scale + dataset.shift).astype(np.float32)
    key = f"golden-{_VERSION}-{dataset.fingerprint()}-{'-'.join(map(str, ends))}"
    flat = cache.cached(key, lambda: _project(dataset, mean, basis, ends))
    dtype = full.centre.dtype
    coordinates = tuple(place_rows(block, full.mesh) for block in _blocks(flat, len(dataset), ends))
    mean = jnp.asarray(mean, dtype)
    return GoldenScan(
        full=full,
        index=_index(full, coordinates, mean),
        mean=mean,
        basis=jnp.asarray(basis, dtype),
        eigenvalues=jnp.asarray(eigenvalues, dtype),
        tolerance=jnp.asarray(tolerance, dtype),
        plan=Plan.full(dtype),
        ends=ends,
    )


def _blocks(flat: np.ndarray, n: int, ends: tuple[int, ...]) -> list[np.ndarray]:
    """Columns up to each end as arrays of their own: a product reads whole arrays only."""
    pieces = np.split(flat, n * np.array(ends[:-1], np.int64))
    return [piece.reshape(n, -1) for piece in pieces]


def _project(
    dataset: Dataset, mean: np.ndarray, basis: np.ndarray, ends: tuple[int, ...]
) -> np.ndarray:
    """Coordinates of all rows about their mean in stored units, float32, block after block."""
    rows = dataset.x.reshape(len(dataset), -1)
    flat = np.empty(len(rows) * ends[-1], np.float32)
    out = _blocks(flat, len(rows), ends)
    with track(f"projecting {dataset.name}", len(dataset), "rows") as progress:
        for block in blocks(rows, 2**23):
            coordinates = (rows[block].astype(np.float32) - mean) @ basis
            for part, columns in zip(out, np.split(coordinates, ends[:-1], axis=1), strict=True):
                part[block] = columns
            progress.reach(block.stop)
    return flat


def _index(full: FullScan, coordinates: tuple[Array, ...], mean: Array) -> Index:
    """The index of coordinates that lie on the mesh."""

    def local(coordinates: tuple[Array, ...], halves: Array) -> Index:
        count = len(halves)
        row = jax.lax.axis_index(DATA) * count + jnp.arange(count)
        is_row = row < full.n
        squares = jnp.stack([jnp.sum(block**2, axis=1) for block in coordinates], axis=1)
        within = jnp.cumsum(squares, axis=1)
        whole = 2 * halves
        beyond = jnp.maximum(whole[:, None] - within, 0)
        norms = jnp.column_stack([jnp.ones(count), whole, beyond])
        halves = jnp.where(is_row[:, None], 0.5 * within, jnp.inf)
        return Index(
            blocks=coordinates,
            halves=tuple(halves.T),
            norms=jnp.where(is_row[:, None], norms, 0),
        )

    return jax.jit(
        jax.shard_map(
            local,
            mesh=full.mesh,
            in_specs=(P(DATA), P(DATA)),
            out_specs=P(DATA),
            check_vma=False,
        )
    )(coordinates, half_norms(full.rows, mean, full.mesh))
