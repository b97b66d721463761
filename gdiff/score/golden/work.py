"""Plans of the golden scan: how much of the data to look at, for each noise level."""

from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


class Work(NamedTuple):
    """A way to answer queries.

    Attributes:
        ranked: column blocks that are scanned, at least 1.
        nearest: whether rows that are not opened are left out (`gdiff.score.golden.nearest`), or
            count by their coordinates (`gdiff.score.golden.scan`).
    """

    ranked: int
    nearest: bool = False


class Plan(eqx.Module):
    """How many coordinates are scanned at which noise level, and how much the estimate is worth.

    Attributes:
        log_sigma: [s] increasing.
        place: [s] place among `works`; their number stands for the full scan.
        inflation: [s] the largest ratio of an error to its estimate that is reckoned with.
        works: that occur, from the cheapest on.
        reserve: column blocks for queries whose error is estimated to be beyond the tolerance.
    """

    log_sigma: Float[Array, " s"]
    place: Int[Array, " s"]
    inflation: Float[Array, " s"]
    works: tuple[Work, ...] = eqx.field(static=True)
    reserve: int = eqx.field(static=True)

    @classmethod
    def full(cls, dtype: jnp.dtype) -> "Plan":
        """The full scan at all levels."""
        none = (jnp.zeros(1, dtype), jnp.zeros(1, jnp.int32), jnp.ones(1, dtype))
        return cls(*none, works=(), reserve=1)

    def at(self, sigma: Float[Array, " b"]) -> tuple[Int[Array, " b"], Float[Array, " b"]]:
        """Place of the dearer work, and the larger inflation, of the levels next to each sigma."""
        x = jnp.log(sigma)
        last = self.log_sigma.shape[0] - 1
        above = jnp.searchsorted(self.log_sigma, x - 1e-3)
        below = jnp.searchsorted(self.log_sigma, x + 1e-3) - 1
        near = jnp.clip(jnp.stack([above, below]), 0, last)
        return jnp.max(self.place[near], axis=0), jnp.max(self.inflation[near], axis=0)
