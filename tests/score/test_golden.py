import dataclasses

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest

from gdiff.dataset import Dataset
from gdiff.dataset.digits import Digits
from gdiff.dataset.placed import Placed
from gdiff.errors import UserError
from gdiff.kernels.fold import denoised
from gdiff.parallel.mesh import make_mesh
from gdiff.score.exact import Exact, ExactScan
from gdiff.score.golden.scan import GoldenScan
from gdiff.score.golden.spec import Golden, index
from gdiff.score.golden.work import Plan, Work

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


def levels(sigma, count=16):
    return np.full(count, sigma, np.float32)


def relative_error(got, expected):
    got, expected = (np.asarray(x, float).reshape(len(x), -1) for x in (got, expected))
    return np.linalg.norm(got - expected, axis=1) / np.linalg.norm(expected, axis=1)


# Compiled once for all denoisers of the same shapes and plan: compiling takes nearly all the time.
answer = eqx.filter_jit(lambda denoiser, z, sigma: denoiser(z, sigma))


@eqx.filter_jit
def scan(golden, work, z, sigma):
    """Posterior by a work of one's own choice; its likely bound is the estimated error."""

    def run(golden, z, sigma):
        posterior, estimate, _ = golden.scan(work, z, sigma)
        return posterior._replace(likely_bound=estimate)

    return denoised(golden.full.rows.mesh, run, golden, z, sigma)


def unplanned(data, layout, max_rank=1024, tolerance=0.01):
    """The scan of a data set, for works of one's own choice."""
    ends = index.ranks(len(data), data.dim, max_rank)
    return index.build(data, Exact().fit(Placed(data, make_mesh(layout))), ends, tolerance)


def all_works(golden):
    blocks = range(1, len(golden.ends) + 1)
    works = [Work(r, a, h) for r in blocks for a in range(r + 1) for h in (0, 16)]
    return [work for work in works if work.averaged or work.head]


@pytest.mark.parametrize(
    "tolerance, layout, max_rank",
    [
        pytest.param(0.01, "batch:1", 128, marks=pytest.mark.slow),
        (0.1, "data:2/batch:2", 1024),
        pytest.param(0.1, "batch:1", 1024, marks=pytest.mark.slow),
        pytest.param(0.01, "data:2/batch:2", 1024, marks=pytest.mark.slow),
    ],
)
def test_meets_its_tolerance_at_every_noise_level(data, tolerance, layout, max_rank):
    golden = Golden(tolerance=tolerance, max_rank=max_rank).fit(
        Placed(data, make_mesh(layout)), SIGMAS
    )
    assert isinstance(golden, GoldenScan)
    for sigma in SIGMAS:
        z, level = queries(data, sigma), levels(sigma)
        exact = answer(golden.full, z, level).mean
        assert relative_error(answer(golden, z, level).mean, exact).max() <= tolerance


def test_the_plan_saves_work_where_it_can(data):
    golden = Golden(tolerance=0.1).fit(Placed(data, make_mesh("data:2/batch:2")), SIGMAS)
    assert {bool(work.averaged) for work in golden.plan.works} == {True, False}
    z = queries(data, 0.01)
    assert np.all(answer(golden, z, levels(0.01)).subset_size < len(data))


def test_bounds_hold_at_every_noise_level_near_the_data_and_far_away(data):
    golden = Golden(tolerance=0.1).fit(Placed(data, make_mesh("data:2/batch:2")), SIGMAS)
    rows = data.rows(slice(None)).reshape(len(data), -1).astype(float)
    rng = np.random.default_rng(3)
    for sigma in np.geomspace(0.005, 200, 8):
        places = [queries(data, sigma), queries(data, 5 * sigma), queries(data, 0.2 * sigma)]
        for z in [*places, 30 * rng.standard_normal((16, 16, 16, 3)).astype(np.float32)]:
            level = levels(sigma)
            found, flat = answer(golden, z, level), z.astype(float).reshape(16, -1)
            mean = exact_posterior(rows, flat, level.astype(float))[0]
            error = np.linalg.norm(np.asarray(found.mean).reshape(16, -1) - mean, axis=1)
            assert np.all(error <= found.error_bound)
            # The likely bound is about queries that are data and noise of this level.
            if z is places[0]:
                assert np.all(error <= found.likely_bound)


# Half of the works, and all of them on both layouts where there is time.
@pytest.mark.parametrize(
    "layout, part",
    [
        ("data:2/batch:2", slice(1, None, 2)),
        pytest.param("batch:1", slice(None), marks=pytest.mark.slow),
        pytest.param("data:2/batch:2", slice(None), marks=pytest.mark.slow),
    ],
)
def test_every_work_is_within_its_bound_and_finite(data, layout, part):
    golden = unplanned(data, layout, max_rank=128)
    z = {sigma: queries(data, sigma) for sigma in (0.002, 0.3, 3.0, 160.0)}
    means = {sigma: answer(golden.full, z[sigma], levels(sigma)).mean for sigma in z}
    for work in all_works(golden)[part]:
        for sigma in z:
            found = scan(golden, work, z[sigma], levels(sigma))
            assert all(np.isfinite(field).all() for field in found if field is not None)
            assert np.all(found.trace_cov >= 0)
            error = jnp.linalg.norm((found.mean - means[sigma]).reshape(16, -1), axis=1)
            assert np.all(error <= found.error_bound)


def test_the_estimate_is_about_the_error_where_many_rows_share_the_mass(data):
    golden = unplanned(data, "batch:1")
    for sigma in (3.0, 8.0, 30.0):
        z, level = queries(data, sigma), levels(sigma)
        found, exact = scan(golden, Work(1, 1, 16), z, level), answer(golden.full, z, level)
        error = np.linalg.norm((found.mean - exact.mean).reshape(16, -1), axis=1)
        ratio = error / np.asarray(found.likely_bound)
        assert 0.5 < np.sqrt(np.mean(ratio**2)) < 1.5
        assert ratio.max() < 3


def test_a_query_that_the_plan_does_not_fit_gets_more_work_and_others_do_not(data):
    golden = unplanned(data, "batch:1")
    one = Plan(jnp.zeros(1), jnp.zeros(1, jnp.int32), jnp.ones(1), (Work(3, 0, 64),), Work(1, 1, 0))
    golden = dataclasses.replace(golden, plan=one)
    easy, hard = queries(data, 0.1)[:8], queries(data, 8.0)[:8]
    level = np.array([0.1] * 8 + [8.0] * 8, np.float32)
    both = answer(golden, np.concatenate([easy, hard]), level)
    assert both.subset_size.tolist() == [64] * 8 + [0] * 8
    hard, high = np.concatenate([hard, hard]), levels(8.0)
    exact = answer(golden.full, hard, high).mean
    assert relative_error(both.mean[8:], exact[8:]).max() < 0.01
    strict = dataclasses.replace(golden, tolerance=jnp.float32(1e-5))
    found = answer(strict, hard, high)
    assert found.subset_size.tolist() == [len(data)] * 16
    assert relative_error(found.mean, exact).max() < 1e-5
    alone = answer(golden, np.concatenate([easy, easy]), levels(0.1)).mean[:8]
    assert np.allclose(both.mean[:8], alone, atol=1e-6)


@pytest.mark.slow
def test_head_and_tail_with_all_columns_are_exact():
    """A rank that holds the data leaves no error but rounding."""
    rng = np.random.default_rng(0)
    flat = rng.standard_normal((600, 50)) @ rng.standard_normal((50, 300)) / 10
    data = Dataset("flat", flat.astype(np.float32))
    golden = unplanned(data, "batch:1")
    for sigma in (0.5, 3.0, 50.0):
        z = (flat[:8] + sigma * rng.standard_normal((8, 300))).astype(np.float32)
        expected = answer(golden.full, z, levels(sigma, 8))
        for head in (0, 64):
            got = scan(golden, Work(1, 1, head), z, levels(sigma, 8))
            assert relative_error(got.mean, expected.mean).max() < 1e-4
            assert np.allclose(got.trace_cov, expected.trace_cov, rtol=1e-3, atol=1e-2)


@pytest.mark.slow
def test_more_copies_than_are_compared_exactly_are_left_to_the_full_scan(data):
    x = data.x.copy()
    x[100:130] = x[99]
    x[130:160] = np.clip(x[99].astype(int) + 1, 0, 255)
    data = dataclasses.replace(data, x=x)
    golden = unplanned(data, "batch:1", max_rank=64)
    one = Plan(
        jnp.zeros(1), jnp.zeros(1, jnp.int32), jnp.ones(1), (Work(1, 0, 16),), Work(1, 0, 64)
    )
    golden = dataclasses.replace(golden, plan=one)
    z = data.rows(slice(99, 100)) + 0.5 / 127.5
    z, level = np.repeat(z, 16, axis=0).astype(np.float32), levels(0.001)
    got, exact = answer(golden, z, level), answer(golden.full, z, level)
    assert relative_error(got.mean, exact.mean).max() < 1e-5
    assert got.subset_size.tolist() == [len(x)] * 16


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
    mesh = make_mesh("data:2/batch:2")
    first = Golden(tolerance=0.1).fit(Placed(data, mesh), SIGMAS)
    monkeypatch.setattr("gdiff.score.golden.index._project", None)
    monkeypatch.setattr("gdiff.score.golden.plan._measure", None)
    second = Golden(tolerance=0.1).fit(Placed(data, mesh), SIGMAS)
    assert eqx.tree_equal(first.plan, second.plan)
    assert eqx.tree_equal(first.index, second.index)


@pytest.mark.parametrize(
    "x", [np.zeros((2, 1)), np.random.default_rng(0).random((30, 2)), np.eye(3, 64)]
)
def test_few_numbers_a_row_are_scanned_in_full(x):
    data = Dataset("small", x.astype(np.float32))
    assert isinstance(Golden().fit(Placed(data, make_mesh("batch:1")), (1.0,)), ExactScan)


def test_few_points_are_scanned_in_full():
    data, mesh = Digits(subset=50).load(), make_mesh("batch:1")
    assert eqx.tree_equal(Golden().fit(Placed(data, mesh)), Exact().fit(Placed(data, mesh)))


@pytest.mark.parametrize("option", ["tolerance", "max_rank", "pilot_queries"])
def test_bad_settings_are_refused(option):
    with pytest.raises(UserError, match=option):
        Golden(**{option: 0})
