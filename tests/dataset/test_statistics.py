import numpy as np
import pytest
from sklearn.decomposition import PCA

from gdiff.dataset import Dataset
from gdiff.dataset import statistics as module
from gdiff.dataset.digits import Digits
from gdiff.dataset.statistics import cost, sketch, statistics


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GDIFF_CACHE", str(tmp_path))


def model_rows(dataset):
    return dataset.to_model(dataset.x, np.float64).reshape(len(dataset), -1)


def covariance(found):
    U = found.eigenvectors
    rest = np.eye(len(U)) - U @ U.T
    return (U * found.eigenvalues) @ U.T + found.tail * rest


def check(dataset, found, atol=1e-12):
    """Mean and covariance are the data's, and the decomposition is one."""
    y = model_rows(dataset)
    d, r = found.eigenvectors.shape
    assert found.mean.shape == (d,)
    assert found.eigenvalues.shape == (r,)
    assert np.allclose(found.mean, y.mean(axis=0), atol=atol)
    size = max(found.eigenvalues[0], 1e-30)
    expected = np.atleast_2d(np.cov(y, rowvar=False, bias=True)) if len(y) > 1 else np.zeros((d, d))
    assert np.allclose(covariance(found) / size, expected / size, atol=atol)
    assert np.all(found.eigenvalues >= 0)
    assert np.all(np.diff(found.eigenvalues) <= 0)
    assert found.tail >= 0
    assert np.allclose(found.eigenvectors.T @ found.eigenvectors, np.eye(r), atol=1e-12)


def rank_deficient():
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (60, 6, 5, 3), dtype=np.uint8)
    x[:, :2] = 7
    x[30:] = x[:30]
    return Dataset("duplicates", x, shift=127.5, scale=127.5)


def test_agree_with_another_implementation_on_real_images():
    data = Digits().load()
    found = statistics(data)
    check(data, found)
    n = len(data)
    pca = PCA(svd_solver="full").fit(model_rows(data))
    assert np.allclose(found.eigenvalues, pca.explained_variance_ * (n - 1) / n, atol=1e-12)
    along = np.abs(np.sum(found.eigenvectors[:, :20] * pca.components_[:20].T, axis=0))
    assert np.allclose(along, 1)


@pytest.mark.parametrize("n", [1, 2, 3, 50])
def test_fewer_points_than_dimensions(n):
    x = np.random.default_rng(n).integers(0, 256, (n, 4, 7, 3), dtype=np.uint8)
    data = Dataset("few", x, shift=127.5, scale=127.5)
    found = statistics(data)
    check(data, found)
    assert np.sum(found.eigenvalues > 1e-10) == n - 1


def test_duplicates_and_constant_pixels():
    data = rank_deficient()
    found = statistics(data)
    check(data, found)
    constant = found.eigenvectors[: 2 * 5 * 3, found.eigenvalues > 1e-10]
    assert np.allclose(constant, 0, atol=1e-12)


def test_float_data_far_from_the_origin():
    x = (1e4 + np.random.default_rng(0).standard_normal((500, 3))).astype(np.float32)
    data = Dataset("far", x)
    check(data, statistics(data), atol=1e-10)


def test_points_on_a_line():
    data = Dataset("two", np.array([[-1.0], [1.0]], np.float32))
    found = statistics(data)
    assert (found.mean, found.eigenvalues, abs(found.eigenvectors)) == (0, 1, 1)


def test_blocks_of_rows_make_no_difference(monkeypatch):
    data = Digits(subset=100).load()
    whole = covariance(statistics(data))
    monkeypatch.setattr(module, "_BLOCK_BYTES", 7 * 64)
    monkeypatch.setattr(module, "_VERSION", -1)
    assert np.allclose(covariance(statistics(data)), whole, atol=1e-14)


def test_truncation_keeps_the_total_variance_and_the_first_directions():
    data = Digits().load()
    whole = statistics(data)
    for rank in (1, 10, 64, 99):
        found = statistics(data, rank)
        r = min(rank, 64)
        assert np.array_equal(found.eigenvectors, whole.eigenvectors[:, :r])
        assert np.isclose(np.trace(covariance(found)), whole.eigenvalues.sum())
    twice = whole.truncated(20).truncated(10)
    assert np.isclose(twice.tail, whole.truncated(10).tail)


def test_many_dimensions_are_decomposed_without_their_covariance(monkeypatch):
    data = Digits().load()
    exact = statistics(data, 12)
    monkeypatch.setattr(module, "WHOLE_DIM", 63)
    found = statistics(data, 12)
    assert np.allclose(found.mean, exact.mean)
    assert np.allclose(found.eigenvalues, exact.eigenvalues, rtol=1e-5)
    assert np.isclose(found.tail, exact.tail, rtol=1e-4)
    along = np.abs(np.sum(found.eigenvectors * exact.eigenvectors, axis=0))
    assert np.allclose(along, 1, atol=1e-5)


@pytest.mark.parametrize("n", [1, 2, 20])
def test_few_points_in_many_dimensions_are_exact(n):
    x = np.random.default_rng(0).integers(0, 256, (n, 37, 37, 3), dtype=np.uint8)
    data = Dataset("large", x, shift=127.5, scale=127.5)
    found = statistics(data)
    assert found.eigenvectors.shape == (37 * 37 * 3, n)
    assert found.tail == 0
    y = model_rows(data) - model_rows(data).mean(axis=0)
    singular = np.linalg.svd(y, compute_uv=False) ** 2 / n
    assert np.allclose(found.eigenvalues, singular, rtol=1e-5, atol=1e-5)
    assert np.allclose(y @ found.eigenvectors @ found.eigenvectors.T, y, atol=1e-4)


def test_are_built_once_for_the_same_content(monkeypatch):
    data = Digits(subset=50).load()
    built = statistics(data)

    def never(_):
        raise AssertionError("built again")

    monkeypatch.setattr(module, "_whole", never)
    same = statistics(Dataset("another name", data.x.copy(), shift=data.shift, scale=data.scale))
    assert all(np.array_equal(a, b) for a, b in zip(built, same, strict=True))
    with pytest.raises(AssertionError, match="built again"):
        statistics(Digits(subset=51).load())


def test_a_sketch_has_as_many_directions_as_are_paid_for_and_their_exact_variances(monkeypatch):
    monkeypatch.setattr(module, "_SOME", 100)
    data = Digits().load()
    whole, found = statistics(data), sketch(data, 20 * data.x.size)
    U = found.eigenvectors
    assert U.shape == (64, 10)
    assert cost(data) == 64 * data.x.size
    assert np.allclose(found.mean, whole.mean)
    assert np.allclose(U.T @ covariance(whole) @ U, np.diag(found.eigenvalues), atol=1e-5)
    assert np.isclose(np.trace(covariance(found)), np.trace(covariance(whole)))
    # Those of a hundred rows hold nearly as much as any.
    assert found.eigenvalues.sum() > 0.9 * whole.eigenvalues[:10].sum()
    assert len(sketch(data, 1).eigenvalues) == 1
