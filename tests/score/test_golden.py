import dataclasses

import equinox as eqx
import fields
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gdiff.dataset import Dataset
from gdiff.dataset.digits import Digits
from gdiff.dataset.placed import Placed
from gdiff.errors import UserError
from gdiff.kernels.fold import on_devices
from gdiff.parallel.mesh import make_mesh
from gdiff.score.exact import Exact, ExactScan
from gdiff.score.golden import nearest, plan
from gdiff.score.golden.scan import GoldenScan
from gdiff.score.golden.spec import Golden, index
from gdiff.score.golden.sums import weighted
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
def _scan(golden, ranked, aim, z, sigma):
    def run(golden, z, sigma, aim):
        work = ranked if isinstance(ranked, Work) else Work(ranked)
        posterior, estimate, _ = golden.worked(work, aim, z, sigma)
        return posterior._replace(likely_bound=estimate)

    found = on_devices(golden.full.rows.mesh, run, golden, z.reshape(len(z), -1), sigma, aim)
    return found._replace(mean=found.mean.reshape(z.shape))


def scan(golden, ranked, aim, z, sigma):
    """Posterior by a work, or column blocks, of one's choice; its likely bound is the estimate."""
    return _scan(golden, ranked, jnp.full(len(z), aim), z, sigma)


def alike(works, reserve):
    """A plan for all levels."""
    return Plan(jnp.zeros(1), jnp.zeros(1, jnp.int32), jnp.ones(1), works, reserve)


def unplanned(data, layout, max_rank=1024, tolerance=0.01):
    """The scan of a data set, for works of one's own choice."""
    ends = index.ranks(len(data), data.dim, max_rank)
    return index.build(data, Exact().fit(Placed(data, make_mesh(layout))), ends, tolerance)


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
    assert golden.plan.works
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


@pytest.mark.parametrize(
    "layout", ["data:2/batch:2", pytest.param("batch:1", marks=pytest.mark.slow)]
)
def test_whatever_is_opened_is_within_its_bound_and_finite(data, layout):
    golden = unplanned(data, layout, max_rank=64)
    z = {sigma: queries(data, sigma) for sigma in (0.002, 0.3, 3.0, 160.0)}
    means = {sigma: answer(golden.full, z[sigma], levels(sigma)).mean for sigma in z}
    for aim in (jnp.inf, 0.1, 1e-3):
        for sigma in z:
            found = scan(golden, 1, aim, z[sigma], levels(sigma))
            assert all(np.isfinite(field).all() for field in found if field is not None)
            assert np.all(found.trace_cov >= 0)
            error = jnp.linalg.norm((found.mean - means[sigma]).reshape(16, -1), axis=1)
            assert np.all(error <= found.error_bound)


def test_the_estimate_is_about_the_error_where_many_rows_share_the_mass(data):
    golden = unplanned(data, "batch:1")
    for sigma in (3.0, 8.0, 30.0):
        z, level = queries(data, sigma), levels(sigma)
        found, exact = scan(golden, 1, jnp.inf, z, level), answer(golden.full, z, level)
        error = np.linalg.norm((found.mean - exact.mean).reshape(16, -1), axis=1)
        ratio = error / np.asarray(found.likely_bound)
        assert 0.5 < np.sqrt(np.mean(ratio**2)) < 1.5
        assert ratio.max() < 3


def test_where_few_rows_matter_all_others_are_left_out_within_the_estimate(data):
    golden = unplanned(data, "data:2/batch:2")
    for sigma in (0.01, 0.1, 0.3, 2.0):
        z, level = queries(data, sigma), levels(sigma)
        found = scan(golden, Work(2, nearest=True), 0.01, z, level)
        exact = answer(golden.full, z, level)
        size = np.linalg.norm(exact.mean.reshape(16, -1), axis=1)
        error = np.linalg.norm((found.mean - exact.mean).reshape(16, -1), axis=1)
        assert np.all(error <= found.likely_bound + 1e-5 * size)
        assert np.all(error <= found.error_bound)
        few = found.subset_size < 2 * nearest.MOST
        assert np.all(found.likely_bound[few] <= 0.01 * 1.001 * size[few])
        assert sigma > 0.1 or np.all(few)


@pytest.mark.parametrize("leaves_out", [False, True])
def test_a_few_rows_that_share_the_posterior_have_its_variance(data, leaves_out):
    golden = unplanned(data, "data:2/batch:2")
    rows = data.rows(slice(None)).reshape(len(data), -1)
    farthest = 2 * np.linalg.norm(rows - rows.mean(axis=0), axis=1).max()
    z, level = queries(data, 0.1), levels(0.1)
    found, exact = scan(golden, Work(2, leaves_out), 0.01, z, level), answer(golden.full, z, level)
    assert exact.trace_cov.max() > 0.1
    # What is left out, or not known exactly, has its part in the variance, too.
    allowed = found.likely_bound * farthest + 1e-5 * farthest**2
    assert np.all(np.abs(found.trace_cov - exact.trace_cov) <= allowed)


def test_a_query_that_the_plan_does_not_fit_gets_more_work_and_others_do_not(data):
    golden = unplanned(data, "batch:1", tolerance=1e-4)
    golden = dataclasses.replace(golden, plan=alike((Work(1),), 2))
    easy, hard = queries(data, 0.1)[:8], queries(data, 8.0)[:8]
    level = np.array([0.1] * 8 + [8.0] * 8, np.float32)
    both = answer(golden, np.concatenate([easy, hard]), level)
    assert np.all(both.subset_size[:8] < len(data) / 8)
    assert both.subset_size[8:].tolist() == [len(data)] * 8
    hard, high = np.concatenate([hard, hard]), levels(8.0)
    exact = answer(golden.full, hard, high).mean
    assert relative_error(both.mean[8:], exact[8:]).max() < 1e-5
    alone = answer(golden, np.concatenate([easy, easy]), levels(0.1)).mean[:8]
    assert np.allclose(both.mean[:8], alone, atol=1e-6)


def test_the_further_down_an_error_is_to_go_the_more_rows_are_opened(data):
    golden = unplanned(data, "batch:1")
    z, level = queries(data, 0.3), levels(0.3)
    exact, before = answer(golden.full, z, level).mean, 0
    for aim in (0.5, 0.2, 0.1):
        found = scan(golden, 1, aim, z, level)
        assert np.mean(found.subset_size) > before
        assert np.mean(relative_error(found.mean, exact) < 3 * aim) > 0.8
        before = np.mean(found.subset_size)


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
        for aim in (jnp.inf, 1e-3):
            got = scan(golden, 1, aim, z, levels(sigma, 8))
            assert relative_error(got.mean, expected.mean).max() < 1e-4
            assert np.allclose(got.trace_cov, expected.trace_cov, rtol=1e-3, atol=1e-2)


@pytest.mark.slow
def test_more_copies_than_are_compared_exactly_are_left_to_the_full_scan(data):
    x = data.x.copy()
    x[100:130] = x[99]
    x[130:160] = np.clip(x[99].astype(int) + 1, 0, 255)
    data = dataclasses.replace(data, x=x)
    golden = unplanned(data, "batch:1", max_rank=64)
    golden = dataclasses.replace(golden, plan=alike((Work(1),), 1))
    z = data.rows(slice(99, 100)) + 0.5 / 127.5
    z, level = np.repeat(z, 16, axis=0).astype(np.float32), levels(0.001)
    got, exact = answer(golden, z, level), answer(golden.full, z, level)
    assert relative_error(got.mean, exact.mean).max() < 1e-5
    assert got.subset_size.tolist() == [len(x)] * 16


def test_levels_between_two_of_the_plan_get_the_dearer_of_their_works():
    works = (1, 2, 3)
    place, inflation = jnp.array([0, 2, 1, 3]), jnp.array([1.0, 1.5, 1.2, 1.0])
    plan = Plan(jnp.log(jnp.array([0.1, 1.0, 10.0, 1000.0])), place, inflation, works, reserve=3)
    sigma, places = zip(
        *[(0.1, 0), (0.01, 0), (10.0, 1), (0.3, 2), (3.0, 2), (500.0, 3), (1e5, 3)], strict=True
    )
    assert plan.at(jnp.array(sigma))[0].tolist() == list(places)
    assert np.allclose(plan.at(jnp.array([0.1, 3.0]))[1], [1.0, 1.5])


@pytest.fixture(scope="module")
def by_hand(data):
    """A scan with two works, and the full scan from 6.0 on."""
    golden = unplanned(data, "batch:1", max_rank=256, tolerance=jnp.inf)
    sigmas, place = jnp.log(jnp.array([0.05, 0.5, 6.0])), jnp.array([0, 1, 2])
    return dataclasses.replace(
        golden, plan=Plan(sigmas, place, jnp.ones(3), (Work(1), Work(2)), reserve=2)
    )


def mixed(golden, data, sigmas, answer=answer):
    """Column blocks for queries [32] of levels that alternate, 0 for the full scan."""
    level = np.array(sigmas * (32 // len(sigmas)), np.float32)
    z = np.concatenate([queries(data, sigma, 1, seed) for seed, sigma in enumerate(level)])
    found = answer(golden, z, level)
    in_full = found.subset_size == len(data)
    exact = answer(golden.full, z, level)
    assert np.allclose(found.mean[in_full], exact.mean[in_full], atol=1e-5)
    means = [exact.mean, *(scan(golden, ranked, jnp.inf, z, level).mean for ranked in (1, 2))]
    away = [relative_error(found.mean, mean) for mean in means]
    blocks = np.where(in_full, 0, 1 + np.argmin(away[1:], axis=0))
    return blocks.reshape(-1, len(sigmas)).tolist()


def test_few_queries_that_are_planned_to_be_scanned_in_full_are_so_alone(by_hand, data):
    assert mixed(by_hand, data, (6.0, 0.5, 0.5, 0.5)) == [[0, 2, 2, 2]] * 8
    assert mixed(by_hand, data, (0.5, 0.05)) == [[2, 2]] * 16
    assert mixed(by_hand, data, (6.0, 6.0)) == [[0, 0]] * 16


def test_queries_of_a_large_call_are_put_together_by_what_is_planned(by_hand, data, monkeypatch):
    monkeypatch.setattr("gdiff.score.golden.scan.QUERIES", 16)
    anew = eqx.filter_jit(lambda denoiser, z, sigma: denoiser(z, sigma))
    assert mixed(by_hand, data, (0.5, 0.05), anew) == [[2, 1]] * 16


def test_double_precision_reaches_the_head_and_single_the_bounds(data):
    """The index is in single precision: so are its errors, and no other."""
    x = data.x.copy()
    x[300:360] = x[:60]
    x[300:360, ::5, ::3] ^= 1
    data = dataclasses.replace(data, x=x)
    rows = data.to_model(x, np.float64).reshape(len(x), -1)
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        golden = unplanned(data, "batch:1", max_rank=64)
        golden = dataclasses.replace(golden, plan=alike((Work(1),), 1))
        for sigma in (0.0005, 0.002, 0.01, 0.03):
            one, twice = rng.integers(0, len(x), 8), rng.integers(0, 60, 8)
            clean = np.concatenate([rows[one], (rows[twice] + rows[twice + 300]) / 2])
            # In the middle by so little that both rows count.
            noise = np.repeat([sigma, sigma**2], 8)[:, None]
            z = clean + noise * rng.standard_normal(clean.shape)
            level = np.full(16, sigma)
            mean = exact_posterior(rows, z, level)[0]
            found = answer(golden, z.reshape(16, 16, 16, 3), level)
            error = np.linalg.norm(np.asarray(found.mean).reshape(16, -1) - mean, axis=1)
            assert error.max() < 1e-6
            assert np.all(error <= found.error_bound)
            assert np.all(found.subset_size < len(x))
            far = scan(golden, 1, jnp.inf, z.reshape(16, 16, 16, 3), level)
            error = np.linalg.norm(np.asarray(far.mean).reshape(16, -1) - mean, axis=1)
            assert np.all(error <= far.error_bound)


class Scattered:
    """An array that lies on the devices of several processes."""

    is_fully_addressable = is_fully_replicated = False

    def __init__(self, x):
        self.x = x

    def __array__(self, *_, **__):
        raise RuntimeError("spans devices of other processes")


def test_plans_are_measured_on_devices_of_several_processes(data, monkeypatch, tmp_path):
    monkeypatch.setenv("GDIFF_CACHE", str(tmp_path))
    measured = plan._trial
    monkeypatch.setattr(plan, "_trial", lambda *args: Scattered(measured(*args)))
    monkeypatch.setattr(
        "jax.experimental.multihost_utils.process_allgather", lambda x, tiled: np.asarray(x.x)
    )
    spec = Golden(tolerance=0.1, max_rank=64, pilot_queries=4)
    golden = spec.fit(Placed(data, make_mesh("batch:1")), (2.0,))
    assert golden.plan.works == (Work(1),)


def test_the_second_fit_comes_from_the_cache(data, monkeypatch):
    mesh = make_mesh("data:2/batch:2")
    first = Golden(tolerance=0.1).fit(Placed(data, mesh), SIGMAS)
    monkeypatch.setattr("gdiff.score.golden.index._project", None)
    monkeypatch.setattr("gdiff.score.golden.plan._measure", None)
    second = Golden(tolerance=0.1).fit(Placed(data, mesh), SIGMAS)
    assert eqx.tree_equal(first.plan, second.plan)
    assert eqx.tree_equal(first.index, second.index)


def test_the_fields_of_other_tests_leave_something_to_save():
    golden = Golden(pilot_queries=4).fit(Placed(fields.dataset(), make_mesh("batch:1")), (0.1,))
    assert isinstance(golden, GoldenScan)
    assert golden.plan.place.tolist() == [0]


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


def test_weighted_rows_add_up_in_parts_that_overlap(monkeypatch):
    monkeypatch.setattr("gdiff.score.golden.sums._AT_ONCE", 7)
    rng = np.random.default_rng(0)
    weights, rows = rng.random((30, 3)), rng.standard_normal((30, 5))
    assert np.allclose(weighted(*map(jnp.asarray, (weights, rows))), weights.T @ rows, atol=1e-5)
