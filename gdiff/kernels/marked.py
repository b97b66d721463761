"""The rows that a mask marks, some at a time: found by counting, without sorting."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, UInt

# Rows that are counted together: the bits of a word.
_GROUP = 32


class Marked(NamedTuple):
    """Marked rows of each query, in their order.

    Attributes:
        words: [b, groups] which rows of a group are marked, bit by bit from the lowest on.
        ends: [b, groups] how many are, up to the end of each group.
    """

    words: UInt[Array, "b groups"]
    ends: Int[Array, "b groups"]

    @classmethod
    def of(cls, mask: Bool[Array, "n b"]) -> "Marked":
        """Those of a mask in which rows come first."""
        n, b = mask.shape
        mask = jnp.pad(mask, [(0, -n % _GROUP), (0, 0)]).reshape(-1, _GROUP, b)
        place = jnp.arange(_GROUP, dtype=jnp.uint32)[:, None]
        # Turned round when there are few numbers left.
        words = jnp.sum(mask.astype(jnp.uint32) << place, axis=1, dtype=jnp.uint32).T
        counts = jax.lax.population_count(words).astype(jnp.int32)
        return cls(words, jnp.cumsum(counts, axis=1))

    @property
    def count(self) -> Int[Array, " b"]:
        """How many rows are marked."""
        return self.ends[:, -1]

    def rows(self, places: Int[Array, " c"]) -> tuple[Int[Array, "b c"], Bool[Array, "b c"]]:
        """The first of the marked rows, the second, …; and which of these there are.

        Args:
            places: from 0 on, the same for all queries.

        Returns:
            Row numbers, 0 for rows that there are not.
        """
        exists = places < self.count[:, None]
        find = partial(jnp.searchsorted, side="right", method="scan_unrolled")
        group = jax.vmap(find, (0, None))(self.ends, places)
        group = jnp.where(exists, group, 0)
        before = jnp.where(group > 0, jnp.take_along_axis(self.ends, group - 1, axis=1), 0)
        words = jnp.take_along_axis(self.words, group, axis=1)[:, :, None]
        bits = words >> jnp.arange(_GROUP, dtype=jnp.uint32) & 1
        # Counts of so few are exact in any floating type.
        upto = jnp.triu(jnp.ones((_GROUP, _GROUP), jnp.float32))
        counts = jnp.matmul(bits.astype(jnp.float32), upto)
        within = jnp.sum(counts <= (places - before)[:, :, None], axis=2)
        rows = jnp.where(exists, group * _GROUP + within, 0)
        return rows.astype(jnp.int32), exists
