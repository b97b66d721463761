import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from gdiff.kernels import selection
from gdiff.parallel.mesh import BATCH, DATA, make_mesh


@jax.jit
def chosen(x, k):
    return selection.kth_largest(x, k), selection.largest(x, k)


def check(x, k):
    """Threshold and mask against a sort, for every row."""
    k = np.broadcast_to(k, len(x))
    threshold, mask = chosen(x, k)
    down = np.sort(x, axis=1)[:, ::-1]
    expected = np.take_along_axis(down, k[:, None] - 1, axis=1)
    assert np.array_equal(threshold, expected[:, 0])
    assert threshold.dtype == x.dtype
    assert np.array_equal(mask, x >= expected)


@pytest.mark.parametrize("n", [1, 2, 3, 100, 1000])
def test_the_kth_largest_number_is_that_of_a_sort(n):
    rng = np.random.default_rng(n)
    x = (rng.standard_normal((5, n)) * 10.0 ** rng.integers(-30, 30, (5, n))).astype(np.float32)
    for k in {1, 2, n // 2, n - 1, n} - {0}:
        if k <= n:
            check(x, k)
    check(x, rng.integers(1, n + 1, 5))


def test_ties_count_one_by_one_and_all_that_equal_the_kth_are_chosen():
    x = np.random.default_rng(0).integers(-3, 4, (6, 200)).astype(np.float32)
    for k in (1, 17, 60, 199, 200):
        check(x, k)
    mask = selection.largest(jnp.array([[1.0, 3.0, 2.0, 2.0, 2.0, 0.0]]), jnp.array([2]))
    assert mask.tolist() == [[False, True, True, True, True, False]]


def test_infinities_have_their_place():
    x = np.random.default_rng(1).standard_normal((4, 50)).astype(np.float32)
    x[0, ::3] = -np.inf
    x[1, ::4] = np.inf
    x[2] = -np.inf
    x[3, :25], x[3, 25:] = np.inf, -np.inf
    for k in (1, 10, 25, 26, 50):
        check(x, k)


def test_both_zeros_are_equal():
    x = np.array([[0.0, -0.0, -1.0, 1.0, -0.0, 0.0]], np.float32)
    for k in range(1, 7):
        check(x, k)
    assert selection.largest(jnp.asarray(x), jnp.array([2])).sum() == 5


def test_subnormal_numbers_are_told_apart_or_taken_for_zero():
    tiny = np.finfo(np.float32).smallest_subnormal
    x = np.array([[0, 5 * tiny, -tiny, 3 * tiny]], np.float32)
    assert selection.kth_largest(jnp.asarray(x), jnp.array([1]))[0] in (0, 5 * tiny)


def test_float64_and_unsigned_integers_have_exact_thresholds_too():
    rng = np.random.default_rng(2)
    check(rng.integers(0, 2**32, (3, 300), dtype=np.uint32), np.array([1, 150, 300]))
    check(rng.integers(0, 9, (3, 300), dtype=np.uint32), np.array([1, 150, 300]))
    with jax.enable_x64(True):
        x = 1 + 1e-12 * rng.standard_normal((3, 300))
        check(x, np.array([1, 150, 300]))


@pytest.mark.parametrize("layout", ["data:4", "data:2/batch:2"])
def test_rows_split_over_devices_have_the_same_threshold(layout):
    x = np.random.default_rng(3).integers(-50, 50, (6, 400)).astype(np.float32)
    k = np.array([1, 7, 50, 200, 399, 400])
    found = jax.jit(
        jax.shard_map(
            lambda x, k: selection.largest(x, k, DATA),
            mesh=make_mesh(layout),
            in_specs=(P(BATCH, DATA), P(BATCH)),
            out_specs=P(BATCH, DATA),
            check_vma=False,
        )
    )
    assert np.array_equal(found(x, k), selection.largest(jnp.asarray(x), jnp.asarray(k)))


def keys_of(z, sigma, seed=0):
    draw = selection.QueryKeys.of(seed, z.shape[1], spread=z.shape[1])
    keys = eqx.filter_jit(draw)(z, sigma)
    return np.asarray(jax.random.key_data(keys))


@pytest.mark.parametrize("dim", [2, 3072])
def test_queries_have_keys_of_their_own_whatever_shares_their_batch(dim):
    z = np.random.default_rng(4).standard_normal((200, dim)).astype(np.float32)
    sigma = np.full(200, 0.7, np.float32)
    keys = keys_of(z, sigma)
    if dim > 2:
        assert len(np.unique(keys, axis=0)) == 200
    assert np.array_equal(keys[10:13], keys_of(z[10:13], sigma[10:13]))
    other_level, other_seed = keys_of(z, sigma * np.float32(1 + 1e-6)), keys_of(z, sigma, seed=1)
    assert not np.any(np.all(keys == other_level, axis=1))
    assert not np.any(np.all(keys == other_seed, axis=1))


def test_a_rounding_error_in_a_query_hardly_ever_changes_its_key():
    z = np.random.default_rng(5).standard_normal((2000, 64)).astype(np.float32)
    sigma = np.full(2000, 0.7, np.float32)
    moved = np.nextafter(z, np.float32(np.inf))
    changed = np.any(keys_of(z, sigma) != keys_of(moved, sigma), axis=1)
    assert changed.mean() < 2e-3


def subset(keys, k, n=400):
    return np.asarray(jax.jit(selection.uniform_subset, static_argnums=3)(keys, k, np.arange(n), n))


def test_a_uniform_subset_has_its_size_and_all_rows_an_equal_share():
    keys = jax.random.split(jax.random.key(0), 3000)
    k = np.arange(3000) % 400 + 1
    mask = subset(keys, k)
    assert np.array_equal(mask.sum(axis=1), k)
    # Row counts, as independent draws without replacement have them.
    share = k / 400
    z = (mask.sum(axis=0) - share.sum()) / np.sqrt(np.sum(share * (1 - share)))
    assert abs(np.mean(z**2) - 1) < 0.35
    # Pairs of neighbours, and neighbouring queries.
    signs = (mask - share[:, None]) / np.sqrt(np.maximum(share * (1 - share), 1e-9))[:, None]
    assert abs(np.mean(signs[:, 1:] * signs[:, :-1])) < 4 / np.sqrt(mask.size) + 1 / 400
    assert abs(np.mean(signs[1:] * signs[:-1])) < 4 / np.sqrt(mask.size)


def test_a_uniform_subset_does_not_depend_on_how_rows_are_split_or_padded():
    keys = jax.random.split(jax.random.key(1), 8)
    k = np.array([1, 2, 50, 100, 101, 300, 396, 397])
    whole = subset(keys, k, n=397)
    found = jax.jit(
        jax.shard_map(
            lambda keys, k, rows: selection.uniform_subset(keys, k, rows, 397, DATA),
            mesh=make_mesh("data:2/batch:2"),
            in_specs=(P(BATCH), P(BATCH), P(DATA)),
            out_specs=P(BATCH, DATA),
            check_vma=False,
        )
    )(keys, jnp.asarray(k), jnp.arange(400))
    assert np.array_equal(found[:, :397], whole)
    assert not found[:, 397:].any()
