"""Error-free transformations: sums and products with twice the working precision.

Float32 hardware carries a value as an unevaluated pair (high, low) whose sum is the value, which
gives about 48 significant bits without any float64 unit. (T. J. Dekker, "A floating-point
technique for extending the available precision", Numer. Math. 18, 1971.)

Compilers fuse a product with a sum, in one place and not in another, and round once instead of
twice. So products that enter a sum are exact here: then it makes no difference.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class Pair(NamedTuple):
    """An unevaluated sum high + low with |low| ≤ ulp(high)/2."""

    high: Array
    low: Array


def two_sum(a: Array, b: Array) -> Pair:
    """Exact a + b as a rounded sum and its rounding error."""
    s = a + b
    t = s - a
    return Pair(s, (a - (s - t)) + (b - t))


def two_product(a: Array, b: Array) -> Pair:
    """Exact a · b as a rounded product and its rounding error."""
    a, b = _split(a), _split(b)
    # The product is the result of a sum: as a product it would be rounded in one place, and fused
    # with a sum that it enters in another.
    square, cross, rest = a.high * b.high, a.high * b.low + a.low * b.high, a.low * b.low
    p = square + (cross + rest)
    return Pair(p, (((square - p) + a.high * b.low) + a.low * b.high) + rest)


def _split(a: Array) -> Pair:
    """A value as a sum of two with half as many significant bits each: their products are exact."""
    bits = (jnp.finfo(a.dtype).nmant + 2) // 2
    rounded = _bits(a) + 2 ** (bits - 1) >> bits << bits
    high = jax.lax.bitcast_convert_type(rounded, a.dtype)
    return Pair(high, a - high)


def _bits(a: Array) -> Array:
    kind = jnp.dtype(f"uint{jnp.finfo(a.dtype).bits}")
    return jax.lax.bitcast_convert_type(jax.lax.stop_gradient(a), kind)


def add(x: Pair, y: Pair) -> Pair:
    """Sum of two pairs, renormalised."""
    s = two_sum(x.high, y.high)
    return _renormalise(s.high, s.low + (x.low + y.low))


def _renormalise(high: Array, low: Array) -> Pair:
    """Pair with the same sum, for |high| ≥ |low|."""
    s = high + low
    return Pair(s, low - (s - high))


def total(x: Pair) -> Pair:
    """Σ over the last axis: pairs [..., n] → pair [...]."""
    while (n := x.high.shape[-1]) > 1:
        if n % 2:
            x = Pair(*(jnp.concatenate([v, jnp.zeros_like(v[..., :1])], -1) for v in x))
        half = x.high.shape[-1] // 2
        x = add(Pair(*(v[..., :half] for v in x)), Pair(*(v[..., half:] for v in x)))
    return Pair(x.high[..., 0], x.low[..., 0])


def affine(z: Float[Array, "*shape"], scale: Array | float, shift: Array | float) -> Pair:
    """z · scale + shift to twice the working precision."""
    product = two_product(z, jnp.asarray(scale, z.dtype))
    total = two_sum(product.high, jnp.asarray(shift, z.dtype))
    return _renormalise(total.high, total.low + product.low)


def summable_unit(bound: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """A power of two whose multiples add up to `bound` > 0 without rounding, in any order."""
    mask = _bits(jnp.asarray(jnp.inf, bound.dtype))
    exponent = jax.lax.bitcast_convert_type(_bits(bound) & mask, bound.dtype)
    return exponent * 2.0 ** (1 - jnp.finfo(bound.dtype).nmant)


def split_square(x: Pair, unit: Array) -> Pair:
    """x² as a multiple of `unit`, whose sums are exact, and a rest of about that size.

    Derivatives are those of the rest.
    """
    high, low = _split(x.high)
    square, cross = high * high, 2 * high * low
    coarse = jax.lax.stop_gradient(jnp.round((square + cross) / unit) * unit)
    return Pair(coarse, ((square - coarse) + cross) + (low * low + 2 * x.high * x.low))
