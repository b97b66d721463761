import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from gdiff.dataset.base import Dataset
from gdiff.metrics import neighbours
from gdiff.metrics.neighbours import (
    Neighbours,
    copy_fraction,
    nearest,
    nearest_two,
    nn_distance,
)


def images(n, shape=(8, 8, 3), seed=0):
    x = np.random.default_rng(seed).integers(0, 256, (n, *shape), dtype=np.uint8)
    return Dataset("images", x, shift=127.5, scale=127.5)


def outside(samples, dataset):
    data = dataset.rows(slice(None)).reshape(len(dataset), -1).astype(np.float64)
    search = NearestNeighbors(n_neighbors=2, algorithm="brute").fit(data)
    _, index = search.kneighbors(samples.reshape(len(samples), -1).astype(np.float64))
    z = samples.reshape(len(samples), 1, -1).astype(np.float64)
    return np.linalg.norm(data[index] - z, axis=2), index


@pytest.mark.parametrize("chunk_rows", [1, 3, 64, 300, None])
def test_distances_and_indices_agree_with_sklearn_whatever_the_chunk(chunk_rows):
    dataset = images(300)
    samples = np.random.default_rng(1).uniform(-1, 1, (37, 8, 8, 3)).astype(np.float32)
    found = nearest_two(samples, dataset, chunk_rows)
    distance, index = outside(samples, dataset)
    np.testing.assert_allclose(found.distance, distance, rtol=1e-12)
    np.testing.assert_array_equal(found.index, index)


def test_more_samples_than_a_block_are_all_searched(monkeypatch):
    monkeypatch.setattr(neighbours, "_SAMPLE_BLOCK", 16)
    dataset = images(100)
    samples = np.random.default_rng(1).uniform(-1, 1, (37, 8, 8, 3)).astype(np.float32)
    np.testing.assert_array_equal(nearest_two(samples, dataset).index, outside(samples, dataset)[1])


def test_a_dense_plane_is_searched_exactly():
    x = np.random.default_rng(0).uniform(-1, 1, (100_000, 2)).astype(np.float32)
    samples = np.random.default_rng(1).uniform(-1, 1, (500, 2)).astype(np.float32)
    search = NearestNeighbors(n_neighbors=2, algorithm="kd_tree").fit(x.astype(np.float64))
    distance, index = search.kneighbors(samples.astype(np.float64))
    found = nearest_two(samples, Dataset("plane", x))
    np.testing.assert_allclose(found.distance, distance, rtol=1e-9)
    np.testing.assert_array_equal(found.index, index)


def test_a_copy_has_distance_exactly_zero():
    dataset = images(200, (32, 32, 3))
    found = nearest_two(dataset.rows(np.array([5, 150])), dataset)
    np.testing.assert_array_equal(found.index[:, 0], [5, 150])
    np.testing.assert_array_equal(found.distance[:, 0], 0)
    assert copy_fraction(found) == 1


def test_the_right_one_of_many_near_duplicates_is_found():
    # A float32 scan cannot tell these thirty apart: they differ by one level of one pixel.
    x = images(500, (32, 32, 3)).x
    x[100:130] = x[100]
    for i in range(30):
        x[100 + i, i, 0, 0] ^= 1
    dataset = Dataset("near duplicates", x, shift=127.5, scale=127.5)
    found = nearest_two(dataset.rows(np.arange(100, 130)), dataset)
    np.testing.assert_array_equal(found.index[:, 0], np.arange(100, 130))
    np.testing.assert_array_equal(found.distance[:, 0], 0)
    np.testing.assert_allclose(found.distance[:, 1], np.sqrt(2) / 127.5, rtol=1e-4)


@pytest.mark.parametrize("copies", [2, 5, 50])
def test_copies_of_exact_duplicates_count_even_with_rounding(copies):
    x = images(100, (16, 16, 1)).x
    x[:copies] = x[0]
    dataset = Dataset("duplicates", x, shift=127.5, scale=127.5)
    exact = dataset.rows(np.arange(1))
    rounded = exact * np.float32(1 + 3e-7)
    assert copy_fraction(nearest_two(exact, dataset)) == 1
    assert copy_fraction(nearest_two(rounded, dataset)) == 1
    midway = (dataset.rows(np.array([1])) + dataset.rows(np.array([99]))) / 2
    assert copy_fraction(nearest_two(midway, dataset)) == 0


def test_points_far_from_the_origin_keep_their_distances():
    x = (1000 + np.random.default_rng(0).standard_normal((400, 20))).astype(np.float32)
    samples = (1000 + np.random.default_rng(1).standard_normal((30, 20))).astype(np.float32)
    dataset = Dataset("far", x)
    distance, index = outside(samples, dataset)
    found = nearest_two(samples, dataset)
    np.testing.assert_array_equal(found.index, index)
    np.testing.assert_allclose(found.distance, distance, rtol=1e-9)


def test_two_points_and_one_point_work():
    samples = np.array([[-1.1], [0.9], [0.0]], np.float32)
    two = nearest_two(samples, Dataset("two", np.array([[-1.0], [1.0]])))
    np.testing.assert_allclose(two.distance, [[0.1, 2.1], [0.1, 1.9], [1, 1]], rtol=1e-5)
    one = nearest_two(samples, Dataset("one", np.array([[1.0]])))
    np.testing.assert_allclose(one.distance[:, 0], [2.1, 0.1, 1.0], rtol=1e-5)
    assert np.all(np.isinf(one.distance[:, 1]))
    assert np.all(one.index == [0, -1])


def test_copy_fraction_is_the_share_of_ratios_below_a_third():
    distance = np.array([[1.0, 4.0], [1.0, 3.0], [1.0, 2.0], [0.0, 1.0], [0.0, 0.0]])
    found = Neighbours(distance, np.zeros((5, 2), int), 0.0)
    assert copy_fraction(found) == pytest.approx(3 / 5)
    assert nn_distance(found) == pytest.approx(3 / 5)


def test_the_order_of_data_and_samples_does_not_matter():
    dataset = images(300)
    samples = np.random.default_rng(1).uniform(-1, 1, (20, 8, 8, 3)).astype(np.float32)
    shuffled = Dataset("shuffled", dataset.x[::-1].copy(), shift=127.5, scale=127.5)
    forward, backward = nearest_two(samples, dataset), nearest_two(samples[::-1], shuffled)
    np.testing.assert_array_equal(forward.distance, backward.distance[::-1])
    np.testing.assert_array_equal(forward.index, 299 - backward.index[::-1])


@pytest.mark.parametrize("far", [0.0, 1000.0])
def test_a_quick_search_finds_the_nearest(far):
    random = np.random.default_rng(0)
    x = (far + random.standard_normal((20_000, 5))).astype(np.float32)
    samples = np.concatenate([x[[3, 19_999]], far + random.standard_normal((20, 5))])
    samples = samples.astype(np.float32)
    expected = nearest_two(samples, Dataset("d", x)).index[:, 0]
    np.testing.assert_array_equal(nearest(samples, Dataset("d", x)), expected)
    assert nearest(samples, Dataset("d", x[:1])).tolist() == [0] * 22
