"""Plans of the golden scan: how much of the data to look at, for each noise level."""

from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


class Work(NamedTuple):
    """What a scan does.

    Attributes:
        ranked: column blocks from which the coarse weights are computed, at least 1.
        averaged: column blocks of the tail's mean, at most `ranked`; 0 drops the tail.
        head: rows of the head, per query and device.
    """

    ranked: int
    averaged: int
    head: int


class Plan(eqx.Module):
    """Which work at which noise level.

    Attributes:
        log_sigma: [s] increasing.
        place: [s] place among `works`; their number stands for the full scan.
        inflation: [s] by how much errors may exceed their estimate, at least 1.
        works: those that occur, from cheap to dear.
        reserve: what queries get whose error is estimated to be beyond the tolerance.
    """

    log_sigma: Float[Array, " s"]
    place: Int[Array, " s"]
    inflation: Float[Array, " s"]
    works: tuple[Work, ...] = eqx.field(static=True)
    reserve: Work = eqx.field(static=True)

    @classmethod
    def full(cls, dtype: jnp.dtype) -> "Plan":
        """The full scan at all levels."""
        none = (jnp.zeros(1, dtype), jnp.zeros(1, jnp.int32), jnp.ones(1, dtype))
        return cls(*none, works=(), reserve=Work(1, 1, 0))

    def at(self, sigma: Float[Array, " b"]) -> tuple[Int[Array, " b"], Float[Array, " b"]]:
        """Place of the dearer work, and the larger inflation, of the levels next to each sigma."""
        x = jnp.log(sigma)
        last = self.log_sigma.shape[0] - 1
        above = jnp.searchsorted(self.log_sigma, x - 1e-3)
        below = jnp.searchsorted(self.log_sigma, x + 1e-3) - 1
        near = jnp.clip(jnp.stack([above, below]), 0, last)
        return jnp.max(self.place[near], axis=0), jnp.max(self.inflation[near], axis=0)
