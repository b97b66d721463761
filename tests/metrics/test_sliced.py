import math

import numpy as np
import pytest
from scipy.stats import wasserstein_distance

from gdiff.dataset.base import Dataset
from gdiff.metrics import sliced
from gdiff.metrics.sliced import sliced_w2_with_null


def normal(n, dim, seed=0):
    return np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32)


ALL = 10**9


def by_replication(a, b):
    """W2 on the line between sets of any sizes: repeat both to their least common multiple."""
    size = math.lcm(len(a), len(b))
    a, b = (np.repeat(np.sort(x.ravel()), size // len(x)).astype(np.float64) for x in (a, b))
    return np.sqrt(np.mean((a - b) ** 2))


@pytest.mark.parametrize("n, m", [(1, 1), (1, 7), (7, 1), (12, 12), (12, 18), (64, 81), (81, 64)])
def test_one_dimension_is_the_exact_distance_whatever_the_sizes(n, m):
    data, samples = normal(m, 1), 2 * normal(n, 1, seed=1) + 0.5
    found, _ = sliced_w2_with_null(samples, Dataset("line", data), 16, 3, ALL)
    assert found == pytest.approx(by_replication(samples, data), rel=1e-6)
    assert found >= wasserstein_distance(samples[:, 0], data[:, 0]) - 1e-6  # W2 ≥ W1


def test_the_pairing_takes_all_mass_from_every_point_and_fills_every_point():
    pairing = sliced._pairing(15, 40)
    assert len(pairing.weight) == 15 + 40 - math.gcd(15, 40)
    np.testing.assert_allclose(np.bincount(pairing.source, pairing.weight), np.full(15, 1 / 15))
    np.testing.assert_allclose(np.bincount(pairing.target, pairing.weight), np.full(40, 1 / 40))


def test_the_data_themselves_are_at_distance_zero_once_or_three_times():
    data = normal(60, 5)
    for samples in (data[::-1], np.concatenate([data] * 3)):
        found, null = sliced_w2_with_null(samples, Dataset("d", data), 32, 0, ALL)
        assert found == pytest.approx(0, abs=1e-7)
        assert null > 0.05


def test_every_sample_counts():
    dataset, samples = Dataset("d", normal(10, 3)), normal(100, 3, seed=1)
    before, _ = sliced_w2_with_null(samples, dataset, 16, 0, ALL)
    samples[99] += 50
    assert sliced_w2_with_null(samples, dataset, 16, 0, ALL)[0] > 2 * before


def test_a_shift_gives_its_root_mean_square_coordinate():
    data, shift = normal(60, 12), np.linspace(-1, 3, 12, dtype=np.float32)
    found, _ = sliced_w2_with_null(data + shift, Dataset("d", data), 20_000, 0, ALL)
    assert found == pytest.approx(np.linalg.norm(shift) / np.sqrt(12), rel=0.02)


def test_scaled_gaussians_give_the_difference_of_standard_deviations():
    data, samples = normal(20_000, 6), 2.5 * normal(5_000, 6, seed=1)
    for data_points in (ALL, 10_000):
        found, null = sliced_w2_with_null(samples, Dataset("d", data), 64, 0, data_points)
        assert found == pytest.approx(1.5, rel=0.03)
        assert null < 0.05


@pytest.mark.parametrize("data_points", [ALL, 200])
def test_random_data_points_score_as_the_null_does(data_points):
    data = normal(400, 8)
    found, null = np.transpose(
        [
            np.hstack(
                sliced_w2_with_null(
                    data[np.random.default_rng(seed + 100).integers(400, size=64)],
                    Dataset("d", data),
                    64,
                    seed,
                    data_points,
                )
            )
            for seed in range(20)
        ]
    )
    assert np.mean(found / null) == pytest.approx(1, abs=0.1)


def test_copies_of_few_points_score_worse_than_the_null():
    data = normal(400, 8)
    samples = np.repeat(data[:4], 50, axis=0)
    found, null = sliced_w2_with_null(samples, Dataset("d", data), 64, 0, ALL)
    assert found > 3 * null


def test_chunks_of_points_and_directions_change_nothing(monkeypatch):
    data, samples = normal(300, 7), normal(150, 7, seed=1)
    expected = sliced_w2_with_null(samples, Dataset("d", data), 33, 0, ALL)
    monkeypatch.setattr(sliced, "_PROJECTED_BYTES", 32 * 450 * 5)
    monkeypatch.setattr("gdiff.metrics.chunks._MAX_ROWS", 11)
    found = sliced_w2_with_null(samples, Dataset("d", data), 33, 0, ALL)
    np.testing.assert_allclose(np.hstack(found), np.hstack(expected))


def test_the_order_of_samples_does_not_matter():
    dataset, samples = Dataset("d", normal(100, 4)), normal(50, 4, seed=1)
    found, again = (
        np.hstack(sliced_w2_with_null(x, dataset, 16, 0, ALL)) for x in (samples, samples[::-1])
    )
    assert found == pytest.approx(again)


@pytest.mark.parametrize("sample", [-1.0, 1.0])
def test_one_sample_of_two_points_misses_half_of_the_mass(sample):
    dataset = Dataset("two", np.array([[-1.0], [1.0]]))
    expected = pytest.approx(np.sqrt(2))  # half of the mass moves by 2
    samples = np.array([[sample]], np.float32)
    assert sliced_w2_with_null(samples, dataset, 8, 0, ALL) == (expected, expected)


def test_a_balanced_sample_of_two_points_is_perfect():
    dataset = Dataset("two", np.array([[-1.0], [1.0]]))
    samples = np.array([[1.0], [-1.0], [-1.0], [1.0]], np.float32)
    assert sliced_w2_with_null(samples, dataset, 8, 0, ALL)[0] == pytest.approx(0, abs=1e-7)


def test_nulls_are_independent_draws_and_change_nothing_else():
    dataset, samples = Dataset("d", normal(400, 4)), normal(50, 4, seed=1)
    one, many = (sliced_w2_with_null(samples, dataset, 64, 0, ALL, n) for n in (1, 200))
    assert (one[0], one[1][0]) == (many[0], many[1][0])
    assert len(set(many[1])) == 200
    # Their spread is that of samples drawn like them.
    seeds = [np.random.default_rng(s).integers(400, size=50) for s in range(200)]
    drawn = [sliced_w2_with_null(dataset.x[s], dataset, 64, 0, ALL)[0] for s in seeds]
    assert np.mean(many[1]) == pytest.approx(np.mean(drawn), rel=0.1)
    assert np.std(many[1]) == pytest.approx(np.std(drawn), rel=0.3)
