"""Linear recursions over the rows of a block, all at once."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def trajectory(
    weights: Float[Array, "r s"], start: Float[Array, "s b d"], forces: Float[Array, "r b d"]
) -> Float[Array, "r b d"]:
    """x_{k+1} = Σ_i weights_ki x_{k-i} + forces_k, by an associative scan over k.

    Args:
        weights: of the current and the s - 1 previous states.
        start: x_0, x_{-1}, …
        forces: what is added in each row.

    Returns:
        x_1 … x_r.
    """
    count, s = weights.shape
    # (x_{k+1}, x_k, …) = matrix_k (x_k, x_{k-1}, …) + (forces_k, 0, …)
    shift = jnp.broadcast_to(jnp.eye(s - 1, s, dtype=weights.dtype), (count, s - 1, s))
    matrices = jnp.concatenate([weights[:, None], shift], axis=1)
    vectors = jnp.pad(forces[:, None], [(0, 0), (0, s - 1), (0, 0), (0, 0)])
    matrices, vectors = jax.lax.associative_scan(_after, (matrices, vectors))
    return _applied(matrices[:, :1], start[None])[:, 0] + vectors[:, 0]


def _after(first: tuple[Array, Array], then: tuple[Array, Array]) -> tuple[Array, Array]:
    """The affine map `then` of the result of `first`, row by row."""
    (m, u), (n, v) = first, then
    s = m.shape[2]
    product = sum(n[:, :, j, None] * m[:, None, j] for j in range(s))
    return product, _applied(n, u) + v


def _applied(matrices: Float[Array, "r i s"], x: Float[Array, "#r s b d"]) -> Array:
    """Products without matrix units, which accelerators run with fewer bits: [r, i, b, d]."""
    return sum(matrices[:, :, j, None, None] * x[:, None, j] for j in range(x.shape[1]))


def earlier(
    values: Float[Array, "r b d"], before: Float[Array, "h b d"]
) -> list[Float[Array, "r b d"]]:
    """values_k, values_{k-1}, … for every row k; `before` are those of rows -1, -2, …"""
    depth, count = len(before), len(values)
    line = jnp.concatenate([before[::-1], values])
    return [line[depth - i : depth - i + count] for i in range(depth + 1)]
