"""Squared differences of a query from rows that are read where a mask looks."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from gdiff.score.local.scan import Queries

_HIGHEST = jax.lax.Precision.HIGHEST
_matmul = partial(jnp.matmul, precision=_HIGHEST)


class Gathered(NamedTuple):
    """The squares of `Squares`, from rows that are read where they are looked at.

    Attributes:
        query: of which there is one.
        stored: [n, d] rows on the device.
        rows: [k] which of them are meant.
        run: inputs that are read together.
        is_delicate: [] whether sums in working precision would not do.
    """

    query: Queries
    stored: Array
    rows: Array
    run: int
    is_delicate: Array

    @property
    def count(self) -> int:
        """k."""
        return len(self.rows)

    def sums(self, bits: Array, inputs: Array, is_careful: bool) -> tuple[Array, ...]:
        """As `Squares.sums`: [m, k]."""
        y = _runs(self.stored, self.rows, inputs[:: self.run], self.run)
        squares = self.query.split(y.astype(bits.dtype), is_careful, inputs, axis=1)
        return tuple(jnp.einsum("mi,ni->mn", bits, x, precision=_HIGHEST) for x in squares)

    def common(self, inputs: Array, is_careful: bool) -> tuple[Array, ...]:
        """As `Squares.common`: [k]."""
        y = self.stored[self.rows].astype(self.query.variance.dtype)
        squares = self.query.split(y, is_careful, axis=1)
        return tuple(_matmul(x, inputs.astype(x.dtype)) for x in squares)

    def values(self, outputs: Array) -> Array:
        """The rows at some coordinates: [m, k]."""
        y = self.stored[self.rows[None, :], outputs[:, None]]
        return y.astype(self.query.variance.dtype)


def _runs(stored: Array, rows: Array, starts: Array, run: int) -> Array:
    """Coordinates [k, len(starts) · run] of k rows, in runs that begin at `starts`."""
    index = jnp.stack(jnp.broadcast_arrays(rows[:, None], starts), axis=-1)
    numbers = jax.lax.GatherDimensionNumbers((2,), (0,), (0, 1))
    found = jax.lax.gather(stored, index, numbers, (1, run), mode="promise_in_bounds")
    return found.reshape(len(rows), -1)
