"""A batch in parts: all of it where memory is short, or some of it again."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int


def in_parts(run: Callable[..., Any], size: int, *trees: Any) -> Any:
    """run(*trees) on at most `size` rows of their arrays [b, …] at a time.

    Args:
        run: a function of rows, each independent of the others; its results [b, …] may form any
            tree.
        size: at least 1. The parts are of one size; what the last one lacks repeats the last row.
    """
    b = jax.tree.leaves(trees)[0].shape[0]
    if b <= size:
        return run(*trees)
    count = -(-b // size)
    size = -(-b // count)

    def split(x: Array) -> Array:
        padding = [(0, count * size - b)] + [(0, 0)] * (x.ndim - 1)
        return jnp.pad(x, padding, mode="edge").reshape(count, size, *x.shape[1:])

    out = jax.lax.map(lambda part: run(*part), jax.tree.map(split, trees))
    return jax.tree.map(lambda x: x.reshape(count * size, *x.shape[2:])[:b], out)


def again(
    run: Callable[..., Any], is_wanted: Bool[Array, " b"], count: int, old: Any, *trees: Any
) -> tuple[Int[Array, " count"], Any]:
    """run(*trees) once more on `count` rows of their arrays [b, …]: on those wanted, if so many.

    Args:
        run: as of `in_parts`.
        is_wanted: rows whose results are to be replaced.
        count: at most b.
        old: results of all rows.

    Returns:
        The rows, and the results with new ones at those that were wanted.
    """
    is_new, pick = jax.lax.top_k(is_wanted.astype(jnp.int32), count)
    found = run(*jax.tree.map(lambda x: x[pick], trees))

    def put(old: Array, new: Array) -> Array:
        keep = is_new.reshape(-1, *[1] * (new.ndim - 1)) > 0
        return old.at[pick].set(jnp.where(keep, new, old[pick]))

    return pick, jax.tree.map(put, old, found)
