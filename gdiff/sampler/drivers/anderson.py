"""Anderson acceleration of Picard sweeps, row by row without looking ahead."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

# Relative to the mean diagonal of the Gram matrix: about what single precision resolves.
_RIDGE = 1e-6


class History(NamedTuple):
    """What is remembered of earlier sweeps, the latest first.

    Attributes:
        result: [r, b, d] of the last sweep; change: [r, b, d] from what it began with.
        results: [m, r, b, d] differences between the results of successive sweeps.
        changes: [m, r, b, d] differences between their changes.
        count: [] sweeps so far.
    """

    result: Float[Array, "r b d"]
    change: Float[Array, "r b d"]
    results: Float[Array, "m r b d"]
    changes: Float[Array, "m r b d"]
    count: Int[Array, ""]


def empty(memory: int, like: Float[Array, "r b d"]) -> History:
    """Nothing remembered yet, of at most `memory` sweeps."""
    zeros = jnp.zeros((memory, *like.shape), like.dtype)
    return History(jnp.zeros_like(like), jnp.zeros_like(like), zeros, zeros, jnp.int32(0))


def accelerated(
    history: History,
    before: Float[Array, "r b d"],
    after: Float[Array, "r b d"],
    scale: Float[Array, " r"],
    base: Int[Array, " b"],
) -> tuple[Float[Array, "r b d"], History]:
    """States to go on with instead of `after`, and the new history.

    Each row combines its results of the last sweeps with weights that make the changes of all rows
    up to it as small as they can be, in the least-squares sense: no row depends on a later one, as
    in Tang et al., "Accelerating parallel sampling of diffusion models", arXiv 2402.09970. The
    regularisation is ours.

    Args:
        history: of the sweeps before.
        before, after: states that the sweep began and ended with.
        scale: of the states, by which changes are divided.
        base: rows that have converged; their states, and the one after, are not touched.
    """
    change = after - before
    first = history.count == 0
    results = jnp.concatenate([(after - history.result)[None], history.results[:-1]])
    changes = jnp.concatenate([(change - history.change)[None], history.changes[:-1]])
    # The first sweep has nothing to be compared with.
    results, changes = (jnp.where(first, 0, x) for x in (results, changes))
    row = jnp.arange(len(after))[:, None]
    counts = (row >= base) / scale[:, None] ** 2
    gram = jnp.cumsum(jnp.einsum("irbd,jrbd,rb->rbij", changes, changes, counts), axis=0)
    right = jnp.cumsum(jnp.einsum("irbd,rbd,rb->rbi", changes, change, counts), axis=0)
    size = jnp.trace(gram, axis1=2, axis2=3)[:, :, None, None]
    ridge = (_RIDGE * size + jnp.finfo(gram.dtype).tiny) * jnp.eye(len(changes))
    weights = jnp.linalg.solve(gram + ridge, right[..., None])[..., 0]
    moved = after - sum(weights[:, :, i, None] * x for i, x in enumerate(results))
    is_open = ((row >= base) & jnp.isfinite(moved).all(axis=2))[:, :, None]
    count = history.count + 1
    return jnp.where(is_open, moved, after), History(after, change, results, changes, count)
