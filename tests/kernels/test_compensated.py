from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gdiff.kernels import compensated
from gdiff.kernels.distances import squared_distances


def exactly(pair, i):
    return Fraction(float(pair.high[i])) + Fraction(float(pair.low[i]))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_sum_and_product_lose_nothing_also_when_compiled(dtype):
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        a = jnp.asarray(rng.standard_normal(200) * 10.0 ** rng.integers(-3, 4, 200), dtype)
        b = jnp.asarray(rng.standard_normal(200), dtype)
        for compiled in (False, True):
            wrap = jax.jit if compiled else (lambda f: f)
            total = wrap(compensated.two_sum)(a, b)
            product = wrap(compensated.two_product)(a, b)
            for i in range(200):
                x, y = Fraction(float(a[i])), Fraction(float(b[i]))
                assert exactly(total, i) == x + y
                assert exactly(product, i) == x * y


@pytest.mark.parametrize("scale", [127.5, 0.3])
def test_affine_loses_nothing_where_products_and_sums_are_fused(scale):
    z = np.random.default_rng(0).standard_normal(400).astype(np.float32)
    scale = np.float32(scale)
    pair = jax.jit(compensated.affine)(z, scale, 127.5)
    expected = [Fraction(float(x)) * Fraction(float(scale)) + Fraction(127.5) for x in z]
    got = np.array([float(exactly(pair, i) - expected[i]) for i in range(len(z))])
    assert np.all(np.abs(got) <= 2.0**-46 * np.abs(np.asarray(pair.high)))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_squares_are_split_into_what_adds_up_exactly_and_a_rest(dtype):
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        x = jnp.asarray(rng.uniform(-9, 9, 300) * 10.0 ** rng.integers(-4, 1, 300), dtype)
        low = rng.uniform(-1, 1, 300) * 2.0 ** -(jnp.finfo(dtype).nmant + 2)
        pair = compensated.Pair(x, x * jnp.asarray(low, dtype))
        bound = jnp.sum(x**2) + 1
        squares = [exactly(pair, i) ** 2 for i in range(300)]
        for wrap in (jax.jit, lambda f: f):
            split = wrap(lambda x: compensated.split_square(x, compensated.summable_unit(bound)))
            parts = split(pair)
            for order in (rng.permutation(300), rng.permutation(300)[:100]):
                high = np.asarray(parts.high)[order]
                assert float(np.cumsum(high)[-1]) == float(sum(map(Fraction, map(float, high))))
            error = [float(abs(exactly(parts, i) - squares[i])) for i in range(300)]
            assert max(error) <= float(jnp.finfo(dtype).eps) * float(jnp.max(jnp.abs(parts.low)))
        slope = jax.jvp(lambda x: sum(split(compensated.Pair(x, 0 * x))), (x,), (jnp.ones_like(x),))
        assert np.allclose(slope[1], 2 * x)


def test_squared_distances_are_right_where_the_expansion_is_noise():
    rng = np.random.default_rng(0)
    b, k, d = 4, 6, 3072
    y = rng.integers(0, 256, (b, k, d)).astype(np.uint8)
    y[:, 1] = y[:, 0]
    y[:, 1, 7] ^= 1
    z = ((y[:, 0] + 0.25 * rng.standard_normal((b, d))) / 127.5 - 1).astype(np.float32)
    pair = jax.jit(lambda z, y: squared_distances(compensated.affine(z, 127.5, 127.5), y))(z, y)
    got = np.asarray(pair.high, np.float64) + np.asarray(pair.low, np.float64)
    expected = np.sum(((z.astype(float) * 127.5 + 127.5)[:, None] - y) ** 2, axis=2)
    assert np.allclose(got, expected, rtol=1e-12, atol=1e-6)


@pytest.mark.parametrize("d", [1, 2, 5, 255, 256, 257, 700])
def test_squared_distances_of_any_width(d):
    rng = np.random.default_rng(d)
    z, y = rng.standard_normal((2, d)), rng.standard_normal((2, 3, d))
    z, y = z.astype(np.float32), y.astype(np.float32)
    zero = jnp.zeros_like(jnp.asarray(z))
    got = squared_distances(compensated.Pair(jnp.asarray(z), zero), jnp.asarray(y))
    expected = np.sum((z[:, None].astype(float) - y) ** 2, axis=2)
    assert np.allclose(np.asarray(got.high, float) + np.asarray(got.low, float), expected, 1e-12)
