"""A batch in parts, where all of it at once would take too much memory."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array


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
