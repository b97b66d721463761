"""Error-free transformations: sums and products with twice the working precision.

Float32 hardware carries a value as an unevaluated pair (high, low) whose sum is the value, which
gives about 48 significant bits without any float64 unit. (T. J. Dekker, "A floating-point
technique for extending the available precision", Numer. Math. 18, 1971.)
"""

from typing import NamedTuple

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
    """Exact a · b as a rounded product and its rounding error (barring overflow of a · 2¹²)."""
    p = a * b
    a_high, a_low = _split(a)
    b_high, b_low = _split(b)
    return Pair(p, ((a_high * b_high - p) + a_high * b_low + a_low * b_high) + a_low * b_low)


def _split(a: Array) -> Pair:
    """A value as a sum of two with half as many significant bits each."""
    bits = (jnp.finfo(a.dtype).nmant + 2) // 2
    c = a * (2.0**bits + 1)
    high = c - (c - a)
    return Pair(high, a - high)


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


def affine(z: Float[Array, "*shape"], scale: float, shift: float) -> Pair:
    """z · scale + shift to twice the working precision."""
    product = two_product(z, jnp.asarray(scale, z.dtype))
    total = two_sum(product.high, jnp.asarray(shift, z.dtype))
    return _renormalise(total.high, total.low + product.low)
