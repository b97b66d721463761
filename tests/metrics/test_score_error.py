import numpy as np
import pytest

from gdiff.dataset.base import Dataset
from gdiff.denoiser import Posterior
from gdiff.metrics import SCORE_ERRORS
from gdiff.metrics.exact import exact_posterior
from gdiff.metrics.score_error import CURVE, affordable_queries, score_errors
from gdiff.score.local.spec import PcaLocal

SIGMA = np.array([20.0, 1.0, 0.05])


@pytest.fixture
def cloud():
    return Dataset("cloud", 1 + np.random.default_rng(0).standard_normal((80, 5), np.float32))


@pytest.fixture
def queries(cloud):
    rng = np.random.default_rng(1)
    noise = SIGMA[:, None, None] * rng.standard_normal((3, 7, 5))
    return (cloud.x[:7] + noise).astype(np.float32)


@pytest.fixture
def truth(cloud, queries):
    found = exact_posterior(cloud, queries.reshape(21, 5), np.repeat(SIGMA, 7))
    return found._replace(mean=found.mean.reshape(3, 7, 5))


def off_by(mean, relative):
    """Means off by so much of their norm, in one direction."""
    norm = np.linalg.norm(mean, axis=-1, keepdims=True)
    return mean + relative * norm * np.array([0.6, 0, 0.8, 0, 0])


def test_a_known_error_is_found_at_its_level(cloud, queries, truth):
    relative = np.array([1e-3, 1e-2, 1e-1])[:, None, None] * np.ones((3, 7, 1))
    relative[1, 4] = 0.5
    found = score_errors(cloud, queries, SIGMA, Posterior(off_by(truth.mean, relative)))
    assert found.metrics() == pytest.approx(
        {"score_relative_error_max": 0.5, "score_relative_error_median": 1e-2}
    )
    curve = found.curve()
    assert [row["sigma"] for row in curve] == SIGMA.tolist()
    assert [row["relative_error_median"] for row in curve] == pytest.approx([1e-3, 1e-2, 1e-1])
    assert [row["relative_error_max"] for row in curve] == pytest.approx([1e-3, 0.5, 1e-1])
    size = truth.effective_sample_size.reshape(3, 7)
    assert [row["effective_sample_size"] for row in curve] == pytest.approx(np.median(size, 1))
    rows = np.median(truth.rows_99.reshape(3, 7), axis=1)
    assert [row["rows_99"] for row in curve] == rows.tolist()
    bounds = {f"{b}_{n}" for b in ("error_bound", "likely_bound") for n in ("median", "violations")}
    assert set(curve[0]) == set(CURVE) - bounds - {"subset_size"}


def test_bounds_are_counted_where_they_are_exceeded_and_drawn_relative(cloud, queries, truth):
    norm = np.linalg.norm(truth.mean, axis=-1)
    bound = 0.02 * norm
    bound[0, :3] = 0.009 * norm[0, :3]
    likely = np.full((3, 7), np.nan)
    answers = Posterior(
        off_by(truth.mean, 0.01), error_bound=bound, likely_bound=likely, subset_size=norm * 0 + 12
    )
    found = score_errors(cloud, queries, SIGMA, answers)
    metrics = found.metrics()
    assert metrics["score_error_bound_violations"] == 3
    assert metrics["score_likely_bound_violations"] == 21
    curve = found.curve()
    assert set(curve[0]) == set(CURVE)
    assert [row["error_bound_median"] for row in curve] == pytest.approx([0.02] * 3)
    assert [row["error_bound_violations"] for row in curve] == [3, 0, 0]
    assert [row["likely_bound_violations"] for row in curve] == [7, 7, 7]
    assert [row["subset_size"] for row in curve] == [12.0] * 3


def test_rounding_of_the_arithmetic_exceeds_no_bound_but_ten_times_more_does(cloud, queries, truth):
    size = np.linalg.norm(truth.mean, axis=-1) + truth.radius
    direction = np.array([0.6, 0, 0.8, 0, 0])
    for factor, expected in ((20, 0), (200, 21)):
        mean = truth.mean + factor * 2.0**-24 * size[..., None] * direction
        for dtype, violations in ((np.float32, expected), (np.float64, 21)):
            answers = Posterior(mean.astype(dtype), error_bound=np.zeros((3, 7), dtype))
            found = score_errors(cloud, queries, SIGMA, answers).metrics()
            assert found["score_error_bound_violations"] == violations


def test_where_the_mean_is_zero_errors_are_relative_to_the_radius():
    dataset = Dataset("two", np.array([[-2.0], [2.0]], np.float32))
    answers = Posterior(np.full((1, 1, 1), 0.5))
    found = score_errors(dataset, np.zeros((1, 1, 1)), np.ones(1), answers)
    assert found.metrics()["score_relative_error_max"] == 0.25


@pytest.mark.parametrize("points", [1, 2, 3])
def test_copies_of_the_origin_have_absolute_errors(points):
    dataset = Dataset("origin", np.zeros((points, 2), np.float32))
    answers = Posterior(np.full((2, 3, 2), 3.0))
    found = score_errors(dataset, np.ones((2, 3, 2)), np.ones(2), answers)
    assert found.metrics()["score_relative_error_median"] == pytest.approx(np.sqrt(18))


def test_answers_that_are_not_finite_give_no_number_but_violate_their_bound(cloud, queries, truth):
    mean = truth.mean.copy()
    mean[1, 2] = np.nan
    answers = Posterior(mean, error_bound=np.full((3, 7), np.inf))
    metrics = score_errors(cloud, queries, SIGMA, answers).metrics()
    assert metrics == {"score_error_bound_violations": 1.0}


def test_the_two_errors_are_always_there(cloud, queries, truth):
    metrics = score_errors(cloud, queries, SIGMA, Posterior(truth.mean)).metrics()
    assert tuple(metrics) == SCORE_ERRORS
    assert max(metrics.values()) < 1e-12


def test_huge_data_get_few_queries_and_usual_ones_all():
    def of(n, *shape):
        return Dataset("d", np.broadcast_to(np.zeros(1, np.uint8), (n, *shape)))

    def levels_of_16(dataset):
        return affordable_queries(dataset, dataset.dim) // 16

    assert levels_of_16(of(60_000, 28, 28, 1)) > 1000
    assert levels_of_16(of(50_000, 32, 32, 3)) > 256
    assert 1 <= levels_of_16(of(1_281_167, 64, 64, 3)) <= 8
    assert affordable_queries(of(100_000_000, 1024, 1024, 3), 3 * 2**20) == 1
    # Not many times what the run itself asks, unless that is quick.
    assert affordable_queries(of(5000, 28, 28, 1), 784 * 196, share=128) == 128
    assert affordable_queries(of(5000, 28, 28, 1), 784, share=1) == 17530


def test_a_subset_is_compared_with_its_own_score_on_all_rows(cloud, queries, truth):
    wanted = off_by(truth.mean, 0.5)
    found = score_errors(cloud, queries, SIGMA, Posterior(wanted), wanted).metrics()
    assert max(found.values()) == 0
    spec = PcaLocal(subset="golden", max_rows=500)
    assert spec.of_all_rows == PcaLocal(max_rows=500)
    assert spec.of_all_rows.of_all_rows is None
