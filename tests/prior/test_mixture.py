import warnings

import numpy as np
import pytest
from scipy import stats
from sklearn.decomposition import PCA
from sklearn.mixture import GaussianMixture

from gdiff.dataset import Dataset
from gdiff.dataset.digits import Digits
from gdiff.dataset.placed import Placed
from gdiff.dataset.toy import TwoPoints
from gdiff.errors import UserError
from gdiff.prior.dpgmm import DPGMM
from gdiff.prior.gmm import GMM
from gdiff.prior.mixture import TOLERANCE
from tests.prior.laws import MESH, images, keys, log_prob, model_rows, plane, sample
from tests.score.exact import posterior

BOTH = pytest.mark.parametrize("kind", [GMM, DPGMM])


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GDIFF_CACHE", str(tmp_path))


def by_hand(x, components, sigma):
    """Log density of a mixture fitted to x [n, q] and noised to sigma, and exact draws."""
    law = GaussianMixture(components, tol=TOLERANCE * x.shape[1], max_iter=40, random_state=0)
    law.fit(x)
    law.covariances_ = law.covariances_ + sigma**2 * np.eye(x.shape[1])
    law.precisions_cholesky_ = np.linalg.cholesky(np.linalg.inv(law.covariances_))
    return law.score_samples, law.sample(500)[0]


def test_log_density_in_all_coordinates_is_that_of_scikit_learn_and_noise():
    data, sigma = plane(), 0.3
    score, draws = by_hand(model_rows(data), 4, sigma)
    prior = GMM(components=4).fit(Placed(data, MESH), sigma)
    assert np.allclose(log_prob(prior, draws.astype(np.float32)), score(draws), atol=2e-4)
    own = score(np.asarray(sample(prior, keys(500)), float))
    assert stats.ks_2samp(own, score(draws)).pvalue > 1e-3


def test_coordinates_beyond_the_rank_are_gaussian():
    data, sigma, q = Digits().load(), 0.4, 5
    rows = model_rows(data)
    pca = PCA(svd_solver="full").fit(rows)
    x = pca.transform(rows)
    score, draws = by_hand(x[:, :q], 7, sigma)
    std = np.sqrt(x.var(axis=0)[q:] + sigma**2)
    random = np.random.default_rng(0).standard_normal((500, 64 - q))
    draws = np.concatenate([draws, random * std], axis=1)

    def law(x):
        return score(x[:, :q]) + stats.norm(scale=std).logpdf(x[:, q:]).sum(axis=1)

    prior = GMM(components=7, rank=q).fit(Placed(data, MESH), sigma)
    z = pca.inverse_transform(draws).reshape(-1, 8, 8, 1).astype(np.float32)
    assert np.allclose(log_prob(prior, z), law(draws), rtol=1e-5, atol=2e-3)
    own = pca.transform(np.asarray(sample(prior, keys(500)), float).reshape(500, -1))
    assert stats.ks_2samp(law(own), law(draws)).pvalue > 1e-3
    error = np.sqrt((own.var(axis=0) + draws.var(axis=0)) / 500)
    assert np.all(np.abs(own.mean(axis=0) - draws.mean(axis=0)) < 5 * error)


def test_as_many_components_as_points_are_the_points():
    data = TwoPoints().load()
    z = np.linspace(-2, 2, 500)[:, None]
    exact = posterior(model_rows(data), z, np.full(500, 0.2))[2]
    prior = GMM(components=2).fit(Placed(data, MESH), 0.2)
    assert np.allclose(log_prob(prior, z.astype(np.float32)), exact, atol=1e-4)


def test_mixtures_are_nearer_to_the_data_than_a_gaussian():
    data, sigma = Digits().load(), np.full(500, 0.5)
    random = np.random.default_rng(0)
    rows = model_rows(data)
    z = rows[random.integers(0, len(rows), 500)] + 0.5 * random.standard_normal((500, 64))
    exact = posterior(rows, z, sigma)[2]
    mixture, process, gaussian = (
        np.mean(exact - log_prob(spec.fit(Placed(data, MESH), 0.5), z.astype(np.float32)))
        for spec in (GMM(), DPGMM(), GMM(components=1))
    )
    assert 0 < mixture < 0.5 * gaussian
    assert 0 < process < 0.6 * gaussian


def test_a_dirichlet_process_drops_what_the_data_do_not_ask_for():
    random = np.random.default_rng(0)
    centre = np.array([[-3.0, 0.0], [3.0, 1.0], [0.0, 4.0]])[random.integers(0, 3, 600)]
    x = (centre + 0.3 * random.standard_normal((600, 2))).astype(np.float32)
    prior = DPGMM(components=10).fit(Placed(Dataset("three", x), MESH), 0.1)
    weights = np.exp(np.asarray(prior.log_weights))
    assert np.sort(weights)[-3:].sum() > 0.95
    assert len(weights) < 10
    assert weights.sum() == pytest.approx(1)


@BOTH
def test_one_fit_serves_all_noise_levels(kind, monkeypatch):
    first = kind(components=3).fit(Placed(plane(), MESH), 0.5)

    def never(*_):
        raise AssertionError("fitted again")

    monkeypatch.setattr(kind, "estimator", never)
    second = kind(components=3).fit(Placed(plane(), MESH), 5.0)
    assert np.array_equal(first.axes, second.axes)
    with pytest.raises(AssertionError, match="again"):
        kind(components=4).fit(Placed(plane(), MESH), 0.5)


@BOTH
def test_scikit_learn_does_not_warn_the_user(kind):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kind(components=12).fit(Placed(images(), MESH), 0.5)


@BOTH
def test_the_number_of_components_follows_the_data(kind):
    assert len(kind().fit(Placed(Digits(subset=99).load(), MESH), 1.0).log_weights) == 1
    assert len(kind().fit(Placed(Digits(subset=500).load(), MESH), 1.0).log_weights) == 5


@BOTH
def test_a_part_of_many_rows_is_fitted(kind, monkeypatch):
    monkeypatch.setattr("gdiff.prior.mixture._ROWS", 100)
    prior = kind(components=1).fit(Placed(plane(), MESH), 0.5)
    assert np.allclose(prior.means, 0, atol=1)
    assert not np.allclose(prior.means, 0, atol=1e-3)


@BOTH
def test_bad_input_is_refused_in_one_line(kind):
    with pytest.raises(UserError, match=r"^prior\.components=301 is more than the 300 points of"):
        kind(components=301).fit(Placed(plane(), MESH), 1.0)
    with pytest.raises(UserError, match=r"components=0 must be at least 1"):
        kind(components=0)
    with pytest.raises(UserError, match=r"rank=0 must be at least 1"):
        kind(rank=0)
