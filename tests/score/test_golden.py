import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gdiff.dataset import Dataset
from gdiff.dataset.digits import Digits
from gdiff.errors import UserError
from gdiff.mesh import make_mesh
from gdiff.score.full import Full, FullScan
from gdiff.score.golden import Golden
from gdiff.score.golden_scan import GoldenScan
from gdiff.score.golden_work import Plan, Work

from .exact import posterior as exact_posterior

SIGMAS = (0.01, 0.1, 0.5, 2.0, 8.0, 30.0)


@pytest.fixture(scope="module")
def data():
    """Images whose variance falls off as that of photographs does, some of them twice."""
    rng = np.random.default_rng(0)
    scales = 40 / np.sqrt(np.arange(1, 769))
    directions = np.linalg.qr(rng.standard_normal((768, 768)))[0]
    x = 127 + (rng.standard_normal((1500, 768)) * scales) @ directions
    x[700:760] = x[:60]
    x = x.clip(0, 255).astype(np.uint8).reshape(-1, 16, 16, 3)
    return Dataset("smooth images", x, shift=127.5, scale=127.5)


def queries(data, sigma, count=16, seed=1):
    rng = np.random.default_rng(seed)
    a, b = (data.rows(rng.integers(0, len(data), count)) for _ in range(2))
    middle = np.arange(count).reshape(-1, 1, 1, 1) % 2 == 0
    z = np.where(middle, (a + b) / 2, a) + sigma * rng.standard_normal(a.shape)
    return z.astype(np.float32)


def relative_error(got, expected):
    got, expected = (np.asarray(x, float).reshape(len(x), -1) for x in (got, expected))
    return np.linalg.norm(got - expected, axis=1) / np.linalg.norm(expected, axis=1)


def scan(golden, work, z, sigma):
    """Posterior by a work of one's own choice; its likely bound is the estimated error."""

    def run(golden, z, sigma):
        posterior, estimate, _ = golden.scan(work, z, sigma)
        return posterior._replace(likely_bound=estimate)

    found = golden.on_devices(run, z.reshape(len(z), -1), sigma)
    return found._replace(mean=found.mean.reshape(z.shape))


def all_works(golden):
    blocks = range(1, len(golden.ends) + 1)
    works = [Work(r, a, h) for r in blocks for a in range(r + 1) for h in (0, 16)]
    return [work for work in works if work.averaged or work.head]


@pytest.mark.parametrize("layout", ["batch:1", "data:2/batch:4"])
@pytest.mark.parametrize("tolerance", [0.01, 0.1])
def test_meets_its_tolerance_at_every_noise_level(data, tolerance, layout):
    golden = Golden(tolerance=tolerance).fit(data, make_mesh(layout), SIGMAS)
    assert isinstance(golden, GoldenScan)
    denoise, exact = eqx.filter_jit(golden), eqx.filter_jit(golden.full)
    for sigma in SIGMAS:
        z, level = queries(data, sigma), jnp.full(16, sigma)
        assert relative_error(denoise(z, level).mean, exact(z, level).mean).max() <= tolerance


def test_the_plan_saves_work_where_it_can(data):
    golden = Golden(tolerance=0.05).fit(data, make_mesh("batch:1"), SIGMAS)
    assert {bool(work.averaged) for work in golden.plan.works} == {True, False}
    z = queries(data, 0.1)
    assert np.all(golden(z, jnp.full(16, 0.1)).subset_size < len(data))


def test_bounds_hold_at_every_noise_level_near_the_data_and_far_away(data):
    golden = Golden(tolerance=0.05).fit(data, make_mesh("batch:1"), SIGMAS)
    denoise, rows = eqx.filter_jit(golden), data.rows(slice(None)).reshape(len(data), -1)
    rng = np.random.default_rng(3)
    for sigma in np.geomspace(0.005, 200, 8):
        places = [queries(data, sigma), queries(data, 5 * sigma), queries(data, 0.2 * sigma)]
        z = np.concatenate([*places, 30 * rng.standard_normal((16, 16, 16, 3))]).astype(np.float32)
        level = np.full(len(z), sigma, np.float32)
        found = denoise(z, level)
        flat = z.astype(float).reshape(len(z), -1)
        mean = exact_posterior(rows.astype(float), flat, level.astype(float))[0]
        error = np.linalg.norm(np.asarray(found.mean).reshape(len(z), -1) - mean, axis=1)
        assert np.all(error <= found.error_bound)
        # The likely bound is about queries that are data and noise of this level.
        assert np.mean(error[:16] <= found.likely_bound[:16]) == 1


@pytest.mark.parametrize("layout", ["batch:1", "data:2/batch:4"])
def test_every_work_is_within_its_bound_and_finite(data, layout):
    golden = Golden(tolerance=0.1, max_rank=128).fit(data, make_mesh(layout), SIGMAS)
    run, exact = eqx.filter_jit(scan), eqx.filter_jit(golden.full)
    z = {sigma: queries(data, sigma) for sigma in (0.002, 0.3, 3.0, 160.0)}
    means = {sigma: exact(z[sigma], jnp.full(16, sigma)).mean for sigma in z}
    for work in all_works(golden)[:: 1 if layout == "batch:1" else 3]:
        for sigma in z:
            found = run(golden, work, z[sigma], jnp.full(16, sigma))
            assert all(np.isfinite(field).all() for field in found if field is not None)
            assert np.all(found.trace_cov >= 0)
            error = jnp.linalg.norm((found.mean - means[sigma]).reshape(16, -1), axis=1)
            assert np.all(error <= found.error_bound)


def test_the_estimate_is_about_the_error_where_many_rows_share_the_mass(data):
    golden = Golden().fit(data, make_mesh("batch:1"), SIGMAS)
    run = eqx.filter_jit(scan)
    for sigma in (3.0, 8.0, 30.0):
        z, level = queries(data, sigma), jnp.full(16, sigma)
        found, exact = run(golden, Work(1, 1, 16), z, level), golden.full(z, level)
        error = np.linalg.norm((found.mean - exact.mean).reshape(16, -1), axis=1)
        ratio = error / np.asarray(found.likely_bound)
        assert 0.5 < np.sqrt(np.mean(ratio**2)) < 1.5
        assert ratio.max() < 3


def test_a_query_that_the_plan_does_not_fit_gets_more_work_and_others_do_not(data):
    golden = Golden(tolerance=0.01).fit(data, make_mesh("batch:1"), SIGMAS)
    one = Plan(jnp.zeros(1), jnp.zeros(1, jnp.int32), jnp.ones(1), (Work(3, 0, 64),), Work(1, 1, 0))
    denoise = eqx.filter_jit(dataclasses.replace(golden, plan=one))
    easy, hard = queries(data, 0.1)[:8], queries(data, 8.0)[:8]
    level = jnp.array([0.1] * 8 + [8.0] * 8)
    both = denoise(np.concatenate([easy, hard]), level)
    assert both.subset_size.tolist() == [64] * 8 + [0] * 8
    exact = golden.full(hard, level[8:]).mean
    assert relative_error(both.mean[8:], exact).max() < 0.01
    strict = dataclasses.replace(golden, plan=one, tolerance=jnp.float32(1e-5))
    found = eqx.filter_jit(strict)(hard, level[8:])
    assert found.subset_size.tolist() == [len(data)] * 8
    assert relative_error(found.mean, exact).max() < 1e-5
    alone = denoise(np.concatenate([easy, easy]), jnp.full(16, 0.1)).mean[:8]
    assert np.allclose(both.mean[:8], alone, atol=1e-6)


def test_head_and_tail_with_all_columns_are_exact():
    """A rank that holds the data leaves no error but rounding."""
    rng = np.random.default_rng(0)
    flat = rng.standard_normal((600, 50)) @ rng.standard_normal((50, 300)) / 10
    data = Dataset("flat", flat.astype(np.float32))
    golden = Golden().fit(data, make_mesh("batch:1"), (1.0,))
    run, exact = eqx.filter_jit(scan), eqx.filter_jit(golden.full)
    for sigma in (0.5, 3.0, 50.0):
        z = (flat[:8] + sigma * rng.standard_normal((8, 300))).astype(np.float32)
        expected = exact(z, jnp.full(8, sigma))
        for head in (0, 16, 64):
            got = run(golden, Work(1, 1, head), z, jnp.full(8, sigma))
            assert relative_error(got.mean, expected.mean).max() < 1e-4
            assert np.allclose(got.trace_cov, expected.trace_cov, rtol=1e-3, atol=1e-2)


def test_more_copies_than_are_compared_exactly_are_left_to_the_full_scan(data):
    x = data.x.copy()
    x[100:130] = x[99]
    x[130:160] = np.clip(x[99].astype(int) + 1, 0, 255)
    data = dataclasses.replace(data, x=x)
    golden = Golden(max_rank=64).fit(data, make_mesh("batch:1"), (0.001, 0.1))
    z = data.rows(slice(99, 100)) + 0.5 / 127.5
    z = np.repeat(z, 4, axis=0).astype(np.float32)
    got, exact = golden(z, jnp.full(4, 0.001)), golden.full(z, jnp.full(4, 0.001))
    assert relative_error(got.mean, exact.mean).max() < 1e-5
    assert got.subset_size.tolist() == [len(x)] * 4


def test_levels_between_two_of_the_plan_get_the_dearer_of_their_works():
    works = (Work(1, 0, 16), Work(2, 1, 0), Work(2, 2, 64))
    place, inflation = jnp.array([0, 2, 1, 3]), jnp.array([1.0, 1.5, 1.2, 1.0])
    plan = Plan(jnp.log(jnp.array([0.1, 1.0, 10.0, 1000.0])), place, inflation, works, works[2])

    def ask(*sigma):
        return int(plan.at(jnp.array(sigma))[0])

    assert [ask(0.1), ask(0.01), ask(10.0, 10.0)] == [0, 0, 1]
    assert [ask(0.3), ask(3.0), ask(0.1, 10.0)] == [2, 2, 1]
    assert [ask(500.0), ask(0.1, 500.0), ask(1e5)] == [3, 3, 3]
    assert np.allclose(plan.at(jnp.array([0.1, 3.0]))[1], [1.0, 1.5])


def test_the_second_fit_comes_from_the_cache(data, monkeypatch):
    mesh = make_mesh("batch:1")
    first = Golden().fit(data, mesh, SIGMAS)
    monkeypatch.setattr("gdiff.score.golden_index._project", None)
    monkeypatch.setattr("gdiff.score.golden_plan._measure", None)
    second = Golden().fit(data, mesh, SIGMAS)
    assert eqx.tree_equal(first.plan, second.plan)
    assert eqx.tree_equal(first.index, second.index)


@pytest.mark.parametrize(
    "x", [np.zeros((2, 1)), np.random.default_rng(0).random((30, 2)), np.eye(3, 64)]
)
def test_few_numbers_a_row_are_scanned_in_full(x):
    data = Dataset("small", x.astype(np.float32))
    assert isinstance(Golden().fit(data, make_mesh("batch:1"), (1.0,)), FullScan)


def test_digits_can_be_sampled_with_it():
    denoiser = Golden().fit(Digits(subset=50).load(), make_mesh("batch:1"))
    z = jax.random.normal(jax.random.key(0), (4, 8, 8, 1))
    exact = Full().fit(Digits(subset=50).load(), make_mesh("batch:1"))
    assert np.array_equal(denoiser(z, jnp.ones(4)).mean, exact(z, jnp.ones(4)).mean)


@pytest.mark.parametrize("option", ["tolerance", "max_rank", "pilot_queries"])
def test_bad_settings_are_refused(option):
    with pytest.raises(UserError, match=option):
        Golden(**{option: 0})
