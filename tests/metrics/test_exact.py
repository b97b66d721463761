import numpy as np
import pytest

from gdiff.dataset.base import Dataset
from gdiff.metrics import exact
from gdiff.metrics.exact import exact_posterior


def differences(y, z, sigma):
    """Weights [q, n] and means [q, d] from direct differences in extended precision."""
    y, z = y.astype(np.longdouble), z.astype(np.longdouble)
    squares = np.sum((z[:, None] - y) ** 2, axis=2)
    logits = -(squares - squares.min(1, keepdims=True)) / (2 * sigma[:, None] ** 2)
    weights = np.exp(logits)
    weights /= weights.sum(1, keepdims=True)
    return weights.astype(float), (weights @ y).astype(float)


def images(n=60, seed=0):
    x = np.random.default_rng(seed).integers(0, 256, (n, 32, 32, 3), dtype=np.uint8)
    return Dataset("images", x, shift=127.5, scale=127.5)


def vectors(dataset):
    return dataset.to_model(dataset.x, np.float64).reshape(len(dataset), -1)


@pytest.mark.parametrize("sigma", [80.0, 6.0, 0.5, 0.02, 0.002])
def test_images_between_two_points_agree_with_direct_differences(sigma):
    dataset = images()
    dataset.x[1::2] = dataset.x[::2]
    # Neighbours that differ in one pixel compete down to the smallest noise.
    dataset.x[1::2, 0, 0, 0] ^= 1
    y, rng = vectors(dataset), np.random.default_rng(1)
    z = (y[::2] + y[1::2]) / 2 + sigma * rng.standard_normal((30, 3072))
    found = exact_posterior(dataset, z.reshape(30, 32, 32, 3), np.full(30, sigma))
    weights, mean = differences(y, z, np.full(30, sigma))
    error = np.linalg.norm(found.mean - mean, axis=1) / np.linalg.norm(mean, axis=1)
    assert error.max() < 1e-9
    np.testing.assert_allclose(
        found.effective_sample_size, 1 / np.sum(weights**2, axis=1), rtol=1e-6
    )


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_clouds_far_from_the_origin_lose_no_digits(offset):
    rng = np.random.default_rng(0)
    dataset = Dataset("cloud", (rng.standard_normal((500, 2)) + offset).astype(np.float32))
    z = (dataset.x[:40] + 0.03 * rng.standard_normal((40, 2))).astype(np.float32)
    sigma = np.geomspace(10, 0.01, 40)
    found = exact_posterior(dataset, z, sigma)
    mean = differences(dataset.x, z, sigma)[1]
    np.testing.assert_allclose(found.mean, mean, atol=1e-10)


def test_rows_that_hold_the_mass_are_as_few_as_can_be():
    rng = np.random.default_rng(0)
    dataset = Dataset("cloud", rng.standard_normal((300, 3)).astype(np.float32))
    z, sigma = rng.standard_normal((50, 3)), np.geomspace(100, 0.01, 50)
    weights = differences(dataset.x, z, sigma)[0]
    sums = np.cumsum(-np.sort(-weights, axis=1), axis=1)
    expected = np.sum(sums < 0.99, axis=1) + 1
    np.testing.assert_array_equal(exact_posterior(dataset, z, sigma).rows_99, expected)


@pytest.mark.parametrize("n", [1, 2, 100, 1000])
def test_copies_of_one_point_share_the_mass_evenly(n):
    dataset = Dataset("copies", np.ones((n, 4), np.float32))
    found = exact_posterior(dataset, np.zeros((1, 4)), np.ones(1))
    np.testing.assert_allclose(found.mean, 1)
    assert found.effective_sample_size[0] == pytest.approx(n)
    assert found.rows_99[0] == -(-99 * n // 100)
    assert found.radius == 0


def test_two_points_on_a_line_have_the_hyperbolic_tangent_as_mean():
    dataset = Dataset("two", np.array([[-1.0], [1.0]], np.float32))
    z, sigma = np.linspace(-3, 3, 7), np.full(7, 1.7)
    found = exact_posterior(dataset, z[:, None], sigma)
    np.testing.assert_allclose(found.mean[:, 0], np.tanh(z / 1.7**2), atol=1e-14)
    assert found.radius == 1


def test_little_memory_and_small_chunks_give_the_same(monkeypatch):
    dataset, rng = images(50), np.random.default_rng(0)
    z, sigma = rng.standard_normal((20, 32, 32, 3)), np.geomspace(50, 0.1, 20)
    expected = exact_posterior(dataset, z, sigma)
    monkeypatch.setattr(exact, "_CHUNK_BYTES", 7 * 8 * 3072)
    found = exact_posterior(dataset, z, sigma, weight_bytes=3 * 8 * 50)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10)


def test_a_memory_map_is_read_chunk_by_chunk(tmp_path, monkeypatch):
    whole, sizes = images(100), []
    np.save(tmp_path / "x.npy", whole.x)
    mapped = Dataset("m", np.load(tmp_path / "x.npy", mmap_mode="r"), shift=127.5, scale=127.5)
    monkeypatch.setattr(exact, "_CHUNK_BYTES", 10 * 8 * 3072)
    chunks = exact._chunks

    def spy(*args):
        for span, y in chunks(*args):
            sizes.append(len(y))
            yield span, y

    monkeypatch.setattr(exact, "_chunks", spy)
    z, sigma = whole.rows(slice(0, 4)), np.ones(4)
    np.testing.assert_array_equal(
        exact_posterior(mapped, z, sigma).mean, exact_posterior(whole, z, sigma).mean
    )
    assert set(sizes) == {10}


def test_huge_queries_and_tiny_noise_give_numbers():
    dataset = Dataset("cloud", np.random.default_rng(0).standard_normal((30, 2)).astype(np.float32))
    z, sigma = np.array([[1e25, 1.0], [0.1, 0.2], [3.0, -1e20]]), np.array([1e20, 1e-8, 1.0])
    found = exact_posterior(dataset, z, sigma)
    assert all(np.isfinite(part).all() for part in found)
    nearest = np.argmin(np.sum((dataset.x - z[1]) ** 2, axis=1))
    np.testing.assert_allclose(found.mean[1], dataset.x[nearest])
