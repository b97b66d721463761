"""Choosing rows of a data set per query, by rank or at random, without sorting or gathering.

A choice is a mask [b, n], so that shapes do not depend on how many rows are chosen. Where the rows
are split over a mesh axis, only counts travel between devices.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, UInt

# Random directions that place a query in a cell: enough to tell queries apart, few enough that
# rounding seldom moves one across a border.
_DIRECTIONS = 32


def kth_largest(
    x: Float[Array, "b n"] | UInt[Array, "b n"],
    k: Int[Array, " b"],
    axis_name: str | None = None,
) -> Array:
    """The k-th largest number of every row, exactly; equal numbers count one by one.

    Numbers are found bit by bit in an integer form that keeps their order: one count over x for
    each bit of the type.

    Args:
        x: numbers, of which infinities may be some and NaN none; -0 equals 0.
        k: from 1 to the length of the rows.
        axis_name: mesh axis over which the rows are split, None where they are whole.

    Returns:
        [b] of the type of x, the same on all devices along `axis_name`. `x >= threshold` holds
        k times, or more often where others equal the k-th.
    """
    keys = _ordered(x)
    bits = jnp.iinfo(keys.dtype).bits
    one = jnp.ones((), keys.dtype)

    def body(i: Array, threshold: Array) -> Array:
        candidate = threshold | (one << (bits - 1 - i).astype(keys.dtype))
        count = jnp.sum(keys >= candidate[:, None], axis=1, dtype=jnp.int32)
        if axis_name is not None:
            count = jax.lax.psum(count, axis_name)
        return jnp.where(count >= k, candidate, threshold)

    threshold = jax.lax.fori_loop(0, bits, body, jnp.zeros(x.shape[0], keys.dtype))
    return _restored(threshold, x.dtype)


def largest(
    x: Float[Array, "b n"] | UInt[Array, "b n"],
    k: Int[Array, " b"],
    axis_name: str | None = None,
) -> Bool[Array, "b n"]:
    """Whether a number is among the k largest of its row; all that equal the k-th are.

    Arguments are those of `kth_largest`.
    """
    return x >= kth_largest(x, k, axis_name)[:, None]


class QueryKeys(eqx.Module):
    """Random keys that are functions of (seed, sigma, where z lies), and of nothing else.

    The place of z is a cell, bounded by random hyperplanes at distances of about a typical size
    of z (Datar et al., "Locality-sensitive hashing scheme based on p-stable distributions", SoCG
    2004). The bits of z themselves would not do: they end in rounding errors, which depend on the
    batch and the devices, and so would all randomness from the second step of a run.

    Attributes:
        spread: mean squared distance of the data from their centre.
        directions: [d, p] normal vectors of the hyperplanes.
        shifts: [p] where they begin, 0 … 1.
        factors: [2, w] odd factors of two universal hashes of w words.
    """

    spread: Float[Array, ""]
    directions: Float[Array, "d p"]
    shifts: Float[Array, " p"]
    factors: UInt[Array, "2 w"]

    @classmethod
    def of(cls, seed: int, dim: int, spread: Float[Array, ""] | float) -> "QueryKeys":
        """Keys for queries [b, dim] in the default precision."""
        dtype = jnp.result_type(float)
        words = _DIRECTIONS + dtype.itemsize // 4
        rng = np.random.default_rng(seed)
        return cls(
            spread=jnp.asarray(spread, dtype),
            directions=jnp.asarray(rng.standard_normal((dim, _DIRECTIONS)), dtype),
            shifts=jnp.asarray(rng.uniform(size=_DIRECTIONS), dtype),
            factors=jnp.asarray(rng.integers(2**32, size=(2, words), dtype=np.uint32) | 1),
        )

    def __call__(self, z: Float[Array, "b d"], sigma: Float[Array, " b"]) -> Key[Array, " b"]:
        """One key per query z, relative to the centre of the data; sigma counts bit by bit."""
        size = jnp.sqrt(self.spread + z.shape[1] * sigma**2)
        products = jnp.matmul(z, self.directions, precision=jax.lax.Precision.HIGHEST)
        cells = jnp.floor(products / size[:, None] + self.shifts).astype(jnp.int32)
        level = jax.lax.bitcast_convert_type(sigma, jnp.uint32).reshape(len(sigma), -1)
        words = jnp.concatenate([cells.astype(jnp.uint32), level], axis=1)
        hashes = [jnp.sum(words * row, axis=1, dtype=jnp.uint32) for row in self.factors]
        return jax.random.wrap_key_data(jnp.stack(hashes, axis=1), impl="threefry2x32")


def uniform_subset(
    keys: Key[Array, " b"],
    k: Int[Array, " b"],
    rows: Int[Array, " n"],
    total: int | Int[Array, ""],
    axis_name: str | None = None,
) -> Bool[Array, "b n"]:
    """k rows per query, drawn uniformly without replacement.

    Whether row i is drawn depends on the query's key, on i, `total` and k alone.

    Args:
        keys: one per query.
        k: how many, from 1 to `total`.
        rows: numbers of the rows at hand; those from `total` on are never drawn.
        total: number of rows to draw from, on all devices together.
        axis_name: mesh axis over which the rows are split, None where they are whole.

    Returns:
        Mask over `rows`; about once in 2³²/total draws it holds one row too many.
    """
    # A derived key is as random as numbers drawn with it, at half the cost.
    fold = jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)), (0, None))
    bits = jax.random.key_data(fold(keys, rows))[..., 0]
    exists = rows < total
    return largest(jnp.where(exists, bits, 0), k, axis_name) & exists


def _ordered(x: Array) -> UInt[Array, "..."]:
    """Unsigned integers in the same order as x."""
    if jnp.issubdtype(x.dtype, jnp.unsignedinteger):
        return x
    bits = jax.lax.bitcast_convert_type(jnp.where(x == 0, 0, x), _unsigned(x.dtype))
    return jnp.where(_is_negative(bits), ~bits, bits | _top_bit(bits.dtype))


def _restored(keys: UInt[Array, "..."], dtype: jnp.dtype) -> Array:
    """The numbers of type `dtype` that `_ordered` turned into `keys`."""
    if jnp.issubdtype(dtype, jnp.unsignedinteger):
        return keys
    bits = jnp.where(_is_negative(keys), keys ^ _top_bit(keys.dtype), ~keys)
    return jax.lax.bitcast_convert_type(bits, dtype)


def _unsigned(dtype: jnp.dtype) -> jnp.dtype:
    return jnp.dtype(f"uint{jnp.finfo(dtype).bits}")


def _top_bit(dtype: jnp.dtype) -> Array:
    return jnp.ones((), dtype) << (jnp.iinfo(dtype).bits - 1)


def _is_negative(bits: UInt[Array, "..."]) -> Bool[Array, "..."]:
    """Whether the top bit is set."""
    return bits >= _top_bit(bits.dtype)
