"""The rows of a data set on the devices: placed once, shared by all who need them."""

import dataclasses
from functools import cached_property, partial
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from gdiff.dataset.base import Dataset
from gdiff.dataset.units import FEW_VALUES
from gdiff.errors import require
from gdiff.kernels.fold import Chunk, Fold, PerRow, Rows, fold, on_devices
from gdiff.kernels.streamed import AUTO, Streamed, placed
from gdiff.parallel.mesh import DATA, make_mesh, place_rows
from gdiff.progress import track
from gdiff.store import cache

# Part of the key of cached norms: to be raised when they change.
_VERSION = 1


class Placed:
    """A data set and its rows on a mesh; these are placed when first asked for.

    Args:
        dataset: the data.
        mesh: the devices; by default all there are, each with its own copy of the rows.
        where: "device" has all rows in its memory, "host" sends them to it chunk by chunk at
            every pass, "auto" does that for a file that is too large.
        room: rows on the devices are padded to so many, if given, so that data sets of which none
            has more share programs.
    """

    def __init__(
        self,
        dataset: Dataset,
        mesh: Mesh | None = None,
        where: str = AUTO,
        room: int | None = None,
    ) -> None:
        self.dataset, self.where, self._room = dataset, where, room
        self.mesh = make_mesh() if mesh is None else mesh
        self._rows: dict[np.dtype, Rows] = {}
        self._moved: dict[str, Placed] = {}

    @classmethod
    def of(cls, data: "Dataset | Placed", where: str = AUTO) -> "Placed":
        """A data set placed on all devices; one that is placed already, on its own.

        Rows that are asked to be elsewhere than they are get there once.
        """
        if not isinstance(data, Placed):
            return cls(data, where=where)
        if where in (AUTO, data.where):
            return data
        return data._moved.setdefault(where, cls(data.dataset, data.mesh, where))

    @property
    def rows(self) -> Rows:
        """The rows with norms in the working precision."""
        dtype = np.dtype(jnp.result_type(float))
        if dtype not in self._rows:
            data = self.dataset
            require(
                np.result_type(data.x, dtype) == dtype,
                f"{data.name} holds values that {dtype} does not tell apart: use "
                "dataset.scale=auto, or runtime.x64=true",
            )
            is_padded = self._room is not None and not isinstance(self._stored, Streamed)
            rows = Rows(
                stored=self._stored,
                half_norms=None,
                centre=None,
                radius=None,
                n=max(self._room, len(data)) if is_padded else len(data),
                event_shape=data.event_shape,
                shift=data.shift,
                scale=data.scale,
                mesh=self.mesh,
                held=jnp.int32(len(data)) if is_padded else None,
            )
            centre, norms = _summary(rows, data)
            radius = _radius(norms, rows.number) / data.scale
            _require_resolved(data, np.asarray(centre, np.float64), float(radius), dtype)
            rows = dataclasses.replace(rows, half_norms=norms, centre=centre, radius=radius)
            self._rows[dtype] = rows
        return self._rows[dtype]

    @cached_property
    def extent(self) -> "Extent":
        """Range of the values, in one pass over the rows."""
        rows = dataclasses.replace(self.rows, half_norms=None)
        with jax.enable_x64(True):
            return Extent(*map(np.asarray, _extent(rows)))

    @cached_property
    def _stored(self) -> Array | Streamed:
        return placed(self.dataset.x, self.mesh, self.where, self._room or 0)


def _require_resolved(
    data: Dataset, centre: Float[np.ndarray, " d"], radius: float, dtype: np.dtype
) -> None:
    """Raise `UserError` if numbers in the working precision cannot tell the rows apart."""
    if radius == 0:
        return
    info, away = np.finfo(dtype), float(np.max(np.abs(centre - data.shift))) / data.scale
    remedy = f"use dataset.scale=auto{'' if dtype == np.float64 else ', or runtime.x64=true'}"
    require(
        4 * radius >= info.eps * FEW_VALUES * away,
        f"{data.name} lies {away:.3g} from zero and reaches only {radius:.3g} from there, which "
        f"{dtype} does not tell apart: {remedy}",
    )
    # The third power, since squares, and more, have to be numbers.
    require(
        info.tiny ** (1 / 3) < radius < info.tiny ** (-1 / 3),
        f"{data.name} reaches {radius:.3g} from its mean, and {dtype} does not hold the squares of "
        f"such numbers: {remedy}",
    )


class Extent(NamedTuple):
    """Range of the values of a data set, as stored, in float64 on the host.

    Attributes:
        low, high: [d] of every coordinate.
        variance: [] of all values, whatever their coordinate.
    """

    low: np.ndarray
    high: np.ndarray
    variance: np.ndarray


class _Extent(Fold):
    """Least and largest value of every coordinate, their sum and sum of squares: [d] each."""

    def start(self, rows: Rows) -> tuple[Array, ...]:
        zeros = jnp.zeros(rows.dim)
        return zeros + jnp.inf, zeros - jnp.inf, zeros, zeros

    def step(self, rows: Rows, state: tuple[Array, ...], chunk: Chunk) -> tuple[Array, ...]:
        y, counts = chunk.stored.astype(float), chunk.counts[:, None]
        low, high, total, squares = state
        own = jnp.where(counts, y - rows.centre, 0)
        return (
            jnp.minimum(low, jnp.min(jnp.where(counts, y, jnp.inf), axis=0)),
            jnp.maximum(high, jnp.max(jnp.where(counts, y, -jnp.inf), axis=0)),
            total + jnp.sum(own, axis=0),
            squares + jnp.sum(own**2, axis=0),
        )

    def finish(self, rows: Rows, state: tuple[Array, ...]) -> tuple[Array, ...]:
        low, high = jax.lax.pmin(state[0], DATA), jax.lax.pmax(state[1], DATA)
        total, squares = jax.lax.psum(state[2:], DATA)
        mean, size = rows.centre + total / rows.number, rows.number * rows.dim
        spread = jnp.sum(squares - total**2 / rows.number) / size
        return low, high, spread + jnp.mean((mean - jnp.mean(mean)) ** 2)


@eqx.filter_jit
def _extent(rows: Rows) -> tuple[Array, ...]:
    return on_devices(rows.mesh, partial(fold, f=_Extent()), rows, gives=P())


class _Sum(Fold):
    """Sum of the rows, in the working precision."""

    def start(self, rows: Rows) -> Array:
        return jnp.zeros(rows.dim, jnp.result_type(float))

    def step(self, rows: Rows, state: Array, chunk: Chunk) -> Array:
        y = jnp.where(chunk.counts[:, None], chunk.stored.astype(state.dtype), 0)
        return state + jnp.sum(y, axis=0)


@eqx.filter_jit
def half_norms(rows: Rows) -> Float[Array, " n"]:
    """½‖row - centre‖² of all rows; their own half norms are not used."""

    def of(rows: Rows, chunk: Chunk) -> Array:
        return 0.5 * jnp.sum((chunk.stored.astype(rows.centre.dtype) - rows.centre) ** 2, axis=1)

    return on_devices(rows.mesh, partial(fold, f=PerRow(of)), rows, gives=P(DATA))


@eqx.filter_jit
def _centre(rows: Rows) -> Array:
    """Mean of the rows; rounded for integers, so that centred rows stay exact."""
    mean = on_devices(rows.mesh, partial(fold, f=_Sum()), rows, gives=P()) / rows.number
    return jnp.round(mean) if jnp.issubdtype(rows.stored.dtype, jnp.integer) else mean


@eqx.filter_jit
def _radius(half_norms: Array, n: int | Array) -> Array:
    """The largest of the first n norms; those beyond are of padding."""
    is_row = jnp.arange(len(half_norms)) < n
    return jnp.sqrt(2 * jnp.max(half_norms, where=is_row, initial=0))


def _summary(rows: Rows, dataset: Dataset) -> tuple[Float[Array, " d"], Float[Array, " n"]]:
    """Centre and half norms of all rows; from the cache for those on the host, if they are in it.

    There they take two passes over the data.
    """

    def found() -> tuple[Array, Array]:
        centre = _centre(rows)
        return centre, half_norms(dataclasses.replace(rows, centre=centre))

    # Several processes hold a part of the norms each.
    if not isinstance(rows.stored, Streamed) or jax.process_count() > 1:
        return found()

    def packed() -> np.ndarray:
        source = rows.stored.source
        with track(f"norms of {dataset.name}", 2 * len(dataset), "rows") as source.progress:
            centre, norms = map(np.asarray, found())
        source.progress = None
        return np.concatenate([centre, norms[: len(dataset)]])

    dtype = jnp.dtype(jnp.result_type(float)).name
    key = cache.key("norms", _VERSION, dataset.fingerprint(), dtype)
    centre, norms = np.split(cache.cached(key, packed), [dataset.dim])
    return jnp.asarray(centre), place_rows(norms, rows.mesh)
