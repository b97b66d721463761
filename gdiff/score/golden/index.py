"""The index of the golden scan: principal coordinates and norms of all rows, kept in the cache."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P
from jaxtyping import Array

from gdiff.dataset import Dataset
from gdiff.dataset.base import blocks
from gdiff.dataset.pages import release
from gdiff.dataset.statistics import leading
from gdiff.kernels.fold import Rows, on_devices, split
from gdiff.parallel.mesh import DATA, place_rows
from gdiff.progress import track
from gdiff.score.exact import ExactScan
from gdiff.score.golden.scan import GoldenScan
from gdiff.score.golden.sums import Index
from gdiff.score.golden.work import Plan
from gdiff.store import cache

# Ranks at which a coarse scan may end.
RANKS = (64, 256, 512, 1024)
# Bytes of coordinates that are kept at most.
_INDEX_BYTES = 3 * 2**30
# Rows from which the principal directions are computed.
_ENOUGH = 2**14
_PASSES = 2
# Part of the key: to be raised when what is stored changes.
_VERSION = 6


def ranks(n: int, dim: int, max_rank: int) -> tuple[int, ...]:
    """Ranks worth trying for n rows of `dim` numbers: at most half of them, and what memory has."""
    most = min(max_rank, dim // 2, max(RANKS[0], _INDEX_BYTES // (4 * n)))
    return tuple(rank for rank in RANKS if rank <= most)


def build(dataset: Dataset, full: ExactScan, ends: tuple[int, ...], tolerance: float) -> GoldenScan:
    """A golden scan without a plan yet: everything is done in full."""
    rank = ends[-1]
    mean, eigenvalues, basis = _directions(dataset, rank)
    basis_mark = cache.digest(mean, basis)
    key = cache.key("golden-index", _VERSION, dataset.fingerprint(), ends, basis_mark)
    # In one line, so that the cache holds all or nothing: block after block, squared norms, offset.
    flat = cache.fill(
        key,
        (len(dataset) * (1 + rank) + dataset.dim,),
        np.float32,
        lambda out: _project(dataset, mean, basis, *_pieces(out, len(dataset), ends)),
    )
    dtype = full.rows.centre.dtype
    pieces, offset = _pieces(flat, len(dataset), ends)
    *coordinates, norms = (place_rows(piece, full.rows.mesh, full.rows.n) for piece in pieces)
    return GoldenScan(
        full=full,
        index=_index(_Known(full.rows, tuple(coordinates), norms)),
        mean=jnp.asarray(mean, dtype),
        offset=jnp.asarray(offset, dtype),
        middle=jnp.asarray(offset @ basis, dtype),
        basis=jnp.asarray(basis, dtype),
        eigenvalues=jnp.asarray(eigenvalues, dtype),
        tolerance=jnp.asarray(tolerance, dtype),
        plan=Plan.full(dtype),
    )


def _directions(dataset: Dataset, rank: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean [d] in stored units, eigenvalues [r] and basis [d, r]; from the cache if they are in it.

    They are those of some rows: the coarse scan is right about any mean and in any basis, and good
    in one that is nearly that of all rows.
    """
    dtype = np.result_type(dataset.x, np.float32)

    def build() -> np.ndarray:
        some = dataset
        if len(dataset) > _ENOUGH:
            rng = np.random.default_rng(0)
            rows = rng.choice(len(dataset), _ENOUGH, replace=False, shuffle=False)
            some = dataset.part(np.sort(rows))
        held = min(rank, len(some))
        found = leading(some, held, _PASSES)
        packed = np.zeros((1 + rank, 1 + dataset.dim), dtype)
        packed[0, 1:] = found.mean * dataset.scale + dataset.shift
        packed[1 : 1 + held, 0], packed[1 : 1 + held, 1:] = found.eigenvalues, found.eigenvectors.T
        return packed

    key = cache.key("golden-directions", _VERSION, dataset.fingerprint(), rank)
    packed = cache.cached(key, build)
    return packed[0, 1:], packed[1:, 0], packed[1:, 1:].T.astype(np.float32)


def _pieces(flat: np.ndarray, n: int, ends: tuple[int, ...]) -> tuple[list[np.ndarray], np.ndarray]:
    """Parts of `flat`: [n, columns] up to each end and [n, 1] norms, and the offset.

    They are arrays of their own since a product reads whole arrays only.
    """
    *pieces, offset = np.split(flat, n * np.array([*ends, ends[-1] + 1], np.int64))
    return [piece.reshape(n, -1) for piece in pieces], offset


def _project(
    dataset: Dataset,
    mean: np.ndarray,
    basis: np.ndarray,
    out: list[np.ndarray],
    offset: np.ndarray,
) -> None:
    """Fill in coordinates and squared norms of all rows about the mean, in stored units.

    The offset is that of the true mean from the given one.
    """
    total = np.zeros(dataset.dim)
    ends = np.cumsum([piece.shape[1] for piece in out[:-1]])
    with track(f"projecting {dataset.name}", len(dataset), "rows") as progress:
        for block in blocks(dataset.x, 2**23):
            centred = (dataset.vectors(block).astype(mean.dtype) - mean).astype(np.float32)
            total += np.sum(centred, axis=0, dtype=np.float64)
            squares = np.sum(centred**2, axis=1, keepdims=True)
            columns = np.concatenate([centred @ basis, squares], axis=1)
            for piece, values in zip(out, np.split(columns, ends, axis=1), strict=True):
                piece[block] = values
            release(out[0])
            progress.reach(block.stop)
    offset[:] = total / len(dataset)


class _Known(eqx.Module):
    """Coordinates [n, columns] of all blocks, and squared norms [n, 1], of all rows."""

    rows: Rows
    coordinates: tuple[Array, ...] = split()
    norms: Array = split()


@eqx.filter_jit
def _index(known: _Known) -> Index:
    """The index of coordinates and squared norms that lie on the mesh."""

    def local(known: _Known) -> tuple[tuple[Array, ...], Array]:
        is_row = known.rows.exists[:, None]
        squares = [jnp.sum(block**2, axis=1) for block in known.coordinates]
        within = jnp.cumsum(jnp.stack(squares, axis=1), axis=1)
        beyond = jnp.maximum(known.norms - within, 0)
        norms = jnp.column_stack([jnp.ones_like(known.norms), known.norms, beyond])
        halves = jnp.where(is_row, 0.5 * within, jnp.inf)
        return tuple(halves.T), jnp.where(is_row, norms, 0)

    halves, norms = on_devices(known.rows.mesh, local, known, gives=P(DATA))
    return Index(known.coordinates, halves, norms)
