import numpy as np
import pytest
from sklearn.decomposition import PCA

from gdiff.dataset.base import Dataset
from gdiff.metrics.features import fit_pca


def decaying(n, dim, seed=0):
    rng = np.random.default_rng(seed)
    rotation = np.linalg.qr(rng.standard_normal((dim, dim)))[0]
    return (rng.standard_normal((n, dim)) * 0.95 ** np.arange(dim)) @ rotation + 0.3


def test_a_small_space_agrees_with_sklearn_exactly():
    x = decaying(500, 30)
    ours = fit_pca(Dataset("d", x), np.arange(500), 10)
    theirs = PCA(10, svd_solver="full").fit(x)
    np.testing.assert_allclose(ours.mean, theirs.mean_, atol=1e-5)
    np.testing.assert_allclose(ours.variance, theirs.explained_variance_, rtol=1e-5)
    np.testing.assert_allclose(np.abs(theirs.components_ @ ours.basis), np.eye(10), atol=1e-3)


def test_a_large_space_keeps_nearly_all_variance_that_the_exact_components_keep():
    x = decaying(400, 150)
    ours = fit_pca(Dataset("d", x), np.arange(400), 20)
    exact = PCA(20, svd_solver="full").fit(x).explained_variance_
    assert ours.variance.sum() == pytest.approx(exact.sum(), rel=1e-4)
    np.testing.assert_allclose(ours.basis.T @ ours.basis, np.eye(20), atol=1e-5)


def test_features_of_the_data_have_mean_zero_and_the_stated_variances():
    dataset = Dataset("d", decaying(400, 50))
    pca = fit_pca(dataset, np.arange(400), 64)
    features = pca.of_data(dataset, np.arange(400))
    np.testing.assert_allclose(features.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(features.var(0, ddof=1), pca.variance, rtol=1e-4)
    assert np.mean((features / pca.scale) ** 2) == pytest.approx(1, rel=0.01)


def test_samples_and_data_have_the_same_features():
    x = np.random.default_rng(0).integers(0, 256, (70, 6, 6, 1), dtype=np.uint8)
    dataset = Dataset("d", x, shift=127.5, scale=127.5)
    index = np.arange(0, 70, 2)
    pca = fit_pca(dataset, index, 8)
    ours = pca.of_samples(dataset.rows(index))
    np.testing.assert_allclose(ours, pca.of_data(dataset, index), atol=1e-5)


@pytest.mark.parametrize("n, dim, expected", [(2, 1, 1), (5, 100, 4), (100, 3, 3), (200, 150, 64)])
def test_there_are_at_most_as_many_features_as_coordinates_and_degrees_of_freedom(n, dim, expected):
    dataset = Dataset("d", decaying(n, dim))
    assert fit_pca(dataset, np.arange(n), 64).basis.shape == (dim, expected)


def test_chunks_change_nothing(monkeypatch):
    dataset = Dataset("d", decaying(300, 200))
    expected = fit_pca(dataset, np.arange(300), 5)
    monkeypatch.setattr("gdiff.dataset.statistics._BLOCK_BYTES", 7 * 8 * 200)
    found = fit_pca(dataset, np.arange(300), 5)
    np.testing.assert_allclose(found.variance, expected.variance, rtol=1e-5)


@pytest.mark.parametrize("dim", [4, 200])
def test_constant_and_degenerate_data_give_finite_orthonormal_features(dim):
    line = np.outer(np.linspace(-1, 1, 90), np.ones(dim))
    for x in (np.ones((90, dim)), line):
        pca = fit_pca(Dataset("d", x), np.arange(90), 3)
        assert np.isfinite(pca.basis).all()
        assert pca.scale > 0
        np.testing.assert_allclose(pca.basis.T @ pca.basis, np.eye(3), atol=1e-4)
