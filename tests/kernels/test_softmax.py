import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gdiff.kernels.softmax import Leaders, Moments, merge, moments_of

HIGHEST = jax.lax.Precision.HIGHEST
VARIANCE = jnp.array([0.1, 1.0, 30.0])


def parts(seed=0, b=3, n=40, d=5):
    keys = jax.random.split(jax.random.key(seed), 2)
    affinities = 30 * jax.random.normal(keys[0], (b, n))
    y = jax.random.normal(keys[1], (n, d))
    return affinities, y, jnp.sum(y**2, axis=1)


def whole_of(seed):
    affinities, y, norms = parts(seed)
    return moments_of(affinities, VARIANCE, y, norms, HIGHEST)


def close(a: Moments, b: Moments):
    peak = jnp.maximum(a.peak, b.peak)
    return all(
        np.allclose(x, y, rtol=1e-5, atol=1e-6)
        for x, y in zip(a.rescaled(peak, VARIANCE), b.rescaled(peak, VARIANCE), strict=True)
    )


def test_moments_of_two_parts_merge_into_those_of_the_whole():
    affinities, y, norms = parts()
    whole = moments_of(affinities, VARIANCE, y, norms, HIGHEST)
    cut = 13
    left = moments_of(affinities[:, :cut], VARIANCE, y[:cut], norms[:cut], HIGHEST)
    right = moments_of(affinities[:, cut:], VARIANCE, y[cut:], norms[cut:], HIGHEST)
    assert close(merge(left, right, VARIANCE), whole)
    assert close(merge(right, left, VARIANCE), whole)


def test_merge_is_associative_and_has_a_neutral_element():
    a, b, c = (whole_of(seed) for seed in range(3))
    assert close(
        merge(merge(a, b, VARIANCE), c, VARIANCE), merge(a, merge(b, c, VARIANCE), VARIANCE)
    )
    empty = Moments.empty(3, 5, jnp.float32)
    assert close(merge(a, empty, VARIANCE), a)
    assert close(merge(empty, a, VARIANCE), a)
    assert all(np.isfinite(x).all() for x in merge(empty, empty, VARIANCE)[1:])


def test_rows_with_logit_minus_infinity_do_not_count():
    affinities, y, norms = parts()
    masked = affinities.at[:, 10:].set(-jnp.inf)
    assert close(
        moments_of(masked, VARIANCE, y, norms, HIGHEST),
        moments_of(affinities[:, :10], VARIANCE, y[:10], norms[:10], HIGHEST),
    )
    nothing = moments_of(jnp.full_like(affinities, -jnp.inf), VARIANCE, y, norms, HIGHEST)
    assert all(np.all(x == 0) for x in nothing[1:])


@pytest.mark.parametrize("chunk", [1, 3, 40])
def test_leaders_are_the_rows_with_the_largest_affinities(chunk):
    affinities, _, _ = parts()
    leaders = Leaders.empty(3, 4, jnp.float32)
    for start in range(0, 40, chunk):
        leaders = leaders.updated(affinities[:, start : start + chunk], jnp.int32(start))
    expected = np.argsort(-affinities, axis=1)[:, :4]
    assert np.array_equal(leaders.rows, expected)
    assert np.array_equal(
        leaders.affinities, np.take_along_axis(np.asarray(affinities), expected, 1)
    )


@pytest.mark.parametrize("count", [0, 3, 30])
def test_negligible_rows_are_left_out_and_change_nothing(count):
    affinities, y, norms = parts(n=80)
    affinities = affinities.at[:, count:].add(-1e5)
    floor = jnp.full(3, 0.0)
    chosen = {"floor": floor, "negligible": 1e-9}
    found = moments_of(affinities, VARIANCE, y, norms, HIGHEST, **chosen)
    assert close(found, moments_of(affinities, VARIANCE, y, norms, HIGHEST, floor=floor))
    assert np.all(found.peak >= floor)
