"""Passes over the rows of a data set: the one driver, and what a pass has to say.

A pass is a `Fold`: what a query starts with, what a chunk of rows does to that, and what is made of
it in the end, when the parts of all devices come together. The driver pads the batch to the
devices, splits queries over the mesh axis `batch` and rows over `data`, reads the rows chunk by
chunk, also from the host, and crops the result.
"""

import abc
import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int

from gdiff.denoiser import Points, Posterior, Sigma, per_row
from gdiff.kernels.streamed import Streamed, part
from gdiff.parallel.mesh import BATCH, DATA

_SPLIT = "split over data"


def split(axis: int = 0) -> Any:
    """A field of a module whose arrays are split over the mesh axis `data`, along `axis`.

    All other arrays lie on every device.
    """
    return eqx.field(metadata={_SPLIT: axis})


def placement(tree: Any) -> Any:
    """How the arrays of a tree lie on the mesh: the same tree, with a PartitionSpec for each."""
    if not isinstance(tree, eqx.Module):
        children, shape = jax.tree.flatten(tree, is_leaf=lambda x: x is not tree)
        is_leaf = len(children) == 1 and children[0] is tree
        return P() if is_leaf else shape.unflatten(map(placement, children))
    changes = {}
    for f in dataclasses.fields(tree):
        value = getattr(tree, f.name)
        if f.metadata.get("static", False) or value is None:
            continue
        if _SPLIT in f.metadata:
            spec = P(*[None] * f.metadata[_SPLIT], DATA)
            changes[f.name] = jax.tree.map(lambda _, spec=spec: spec, value)
        else:
            changes[f.name] = placement(value)
    # No call of the class, which would take these for arrays.
    return eqx.tree_at(lambda tree: [getattr(tree, x) for x in changes], tree, [*changes.values()])


def on_devices(
    mesh: Mesh, run: Callable[..., Any], tree: Any, *queries: Array, gives: Any = None
) -> Any:
    """run(tree, *queries) on each device, with its part of the rows and of the queries.

    Args:
        mesh: the devices.
        run: a function of one device's part; queries are independent of one another.
        tree: of modules, whose `split` fields reach `run` in part and all else in full.
        queries: arrays [b, …] of one length, which need not be a multiple of the devices.
        gives: PartitionSpecs of the results; None: they are arrays [b, …], one row a query.
    """
    count = queries[0].shape[0] if queries else 0
    missing = -count % mesh.shape[BATCH]
    if missing:
        queries = tuple(
            jnp.pad(x, [(0, missing)] + [(0, 0)] * (x.ndim - 1), mode="edge") for x in queries
        )
    # Whoever asks outside of any program of their own gets one: op by op takes minutes.
    is_traced = any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves((tree, queries)))
    sharded = _sharded if is_traced else _compiled
    out = sharded(mesh, run, P(BATCH) if gives is None else gives, tree, queries)
    return jax.tree.map(lambda x: x[:count], out) if missing else out


def _sharded(
    mesh: Mesh, run: Callable[..., Any], gives: Any, tree: Any, queries: tuple[Array, ...]
) -> Any:
    sharded = jax.shard_map(
        run,
        mesh=mesh,
        in_specs=(placement(tree), *[P(BATCH)] * len(queries)),
        out_specs=gives,
        # Loops over rows begin with constants, which the check takes for the same on all devices;
        # what a fold ends with is merged over `data`.
        check_vma=False,
    )
    return sharded(tree, *queries)


_compiled = eqx.filter_jit(_sharded)


def denoised(
    mesh: Mesh,
    run: Callable[..., Posterior],
    tree: Any,
    z: Points,
    sigma: Sigma,
) -> Posterior:
    """The posterior by `run(tree, z [b, d], sigma [b])`, which is called as by `on_devices`."""
    posterior = on_devices(mesh, run, tree, z.reshape(len(z), -1), per_row(sigma, z))
    return posterior._replace(mean=posterior.mean.reshape(z.shape))


class Rows(eqx.Module):
    """The rows of a data set on the mesh, in their stored type and units.

    Inside of `on_devices` these are the rows of one device. The model sees (row - shift) / scale.

    Attributes:
        stored: [n_padded, d], or what reads them from the host.
        half_norms: [n_padded] ½‖row - centre‖².
        centre: [d] a point near the mean of the rows, whole numbers where the rows are.
        radius: [] largest distance of a row from the centre, in model coordinates.
        n: how many rows there are on all devices, without padding; or the most there may be.
        event_shape: of a point, whose d numbers a row holds.
        held: [] how many there are, where that may be less than n: so data sets of about one
            size, such as classes, share programs. None where it is n.
    """

    stored: Array | Streamed = split()
    half_norms: Float[Array, " n"] | None = split()
    centre: Float[Array, " d"] | None
    radius: Float[Array, ""] | None
    n: int = eqx.field(static=True)
    event_shape: tuple[int, ...] = eqx.field(static=True)
    shift: float = eqx.field(static=True)
    scale: float = eqx.field(static=True)
    mesh: Mesh = eqx.field(static=True)
    held: Int[Array, ""] | None = None

    @property
    def number(self) -> int | Int[Array, ""]:
        """How many rows there are on all devices, without any padding."""
        return self.n if self.held is None else self.held

    @property
    def count(self) -> int:
        """Rows here, with padding."""
        return self.stored.shape[0]

    @property
    def dim(self) -> int:
        """Numbers of a row."""
        return self.stored.shape[1]

    @property
    def first(self) -> Int[Array, ""]:
        """Number of this device's first row; only inside of `on_devices`."""
        return jax.lax.axis_index(DATA) * self.count

    @property
    def exists(self) -> Bool[Array, " n"]:
        """Which rows of this device are no padding; only inside of `on_devices`."""
        return self.first + jnp.arange(self.count) < self.number

    def local(self, index: Int[Array, "..."]) -> Array:
        """Rows of this device by their numbers there: [..., d] as stored; inside `on_devices`."""
        return self.stored[index]

    def take(self, index: Int[Array | np.ndarray, "b ..."]) -> Float[Array, "b ... d"]:
        """Any rows by their numbers, in model coordinates."""

        return (on_devices(self.mesh, _taken, self, index) - self.shift) / self.scale

    def fold(self, f: "Fold", *queries: Array, size: int | None = None) -> Any:
        """One pass over all rows, for queries [b, …] of any number; see `Fold`."""
        return on_devices(self.mesh, _folded, _Pass(self, f, size), *queries)


def _taken(rows: Rows, index: Array) -> Array:
    place = index - rows.first
    is_here = (place >= 0) & (place < rows.count)
    own = rows.local(jnp.where(is_here, place, 0)).astype(jnp.result_type(float))
    return jax.lax.psum(jnp.where(is_here[..., None], own, 0), DATA)


class Chunk(NamedTuple):
    """Some rows of a device.

    Attributes:
        stored: [c, d] as stored.
        half_norms: [c], where the rows have them.
        start: [] number of the first of them on this device.
        counts: [c] which of them are there and were not in a chunk before.
    """

    stored: Array
    half_norms: Float[Array, " c"] | None
    start: Int[Array, ""]
    counts: Bool[Array, " c"]


class Fold(eqx.Module):
    """A pass over rows; its own arrays are on every device. `queries` are those of one device."""

    @abc.abstractmethod
    def start(self, rows: Rows, *queries: Array) -> Any:
        """What no rows give: any tree of arrays."""

    @abc.abstractmethod
    def step(self, rows: Rows, state: Any, chunk: Chunk, *queries: Array) -> Any:
        """The same tree after some more rows."""

    def finish(self, rows: Rows, state: Any, *queries: Array) -> Any:
        """The result, from the states of all devices along `data`; by default their sum."""
        return jax.lax.psum(state, DATA)


class _Pass(eqx.Module):
    rows: Rows
    f: Fold
    size: int | None = eqx.field(static=True)


def _folded(each: _Pass, *queries: Array) -> Any:
    return fold(each.rows, each.f, *queries, size=each.size)


class PerRow(Fold):
    """A number, or an array, for every row: along the last axis of [..., n].

    Attributes:
        of: makes [..., c] of a chunk and the queries.
    """

    of: Callable[..., Array] = eqx.field(static=True)

    def start(self, rows: Rows, *queries: Array) -> Array:
        """Zeros."""
        size = min(chunk_size(rows.dim), rows.count)
        stored = jax.ShapeDtypeStruct((size, rows.dim), rows.stored.dtype)
        half = None if rows.half_norms is None else jnp.zeros(size, rows.half_norms.dtype)
        like = Chunk(stored, half, jnp.int32(0), jnp.ones(size, bool))
        out = jax.eval_shape(partial(self.of, rows), like, *queries)
        return jnp.zeros((*out.shape[:-1], rows.count), out.dtype)

    def step(self, rows: Rows, state: Array, chunk: Chunk, *queries: Array) -> Array:
        """Writes those of the chunk; the last chunk writes some again."""
        new = self.of(rows, chunk, *queries)
        return jax.lax.dynamic_update_slice_in_dim(state, new, chunk.start, state.ndim - 1)

    def finish(self, rows: Rows, state: Array, *queries: Array) -> Array:
        """Each device keeps its own."""
        return state


def chunk_size(dim: int) -> int:
    """Rows per product: enough work for the product, small enough to stay in cache.

    Measured on CPU at d = 3072: 2 048 rows run at the rate of one large product.
    """
    return int(np.clip(6_000_000 // dim, 256, 16_384))


def fold(rows: Rows, f: Fold, *queries: Any, size: int | None = None) -> Any:
    """One pass over this device's rows, `size` at a time; inside of `on_devices`."""
    n = rows.count
    size = min(size or chunk_size(rows.dim), n)
    first = rows.first

    def step(i: Array, state: Any) -> Any:
        # The last chunk starts early enough to be whole; rows seen before do not count again.
        start = jnp.minimum(i * size, n - size)
        row = start + jnp.arange(size)
        half = rows.half_norms
        chunk = Chunk(
            stored=part(rows.stored, start, size),
            half_norms=None if half is None else jax.lax.dynamic_slice_in_dim(half, start, size),
            start=start,
            counts=(row >= i * size) & (first + row < rows.number),
        )
        return f.step(rows, state, chunk, *queries)

    state = jax.lax.fori_loop(0, -(-n // size), step, f.start(rows, *queries))
    return f.finish(rows, state, *queries)
