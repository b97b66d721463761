import numpy as np
from scipy import stats
from sklearn.decomposition import PCA

from gdiff.dataset.digits import Digits
from gdiff.dataset.placed import Placed
from gdiff.prior.gaussian import Gaussian
from gdiff.prior.ppca import PPCA
from tests.prior.laws import MESH, keys, log_prob, model_rows, sample


def test_log_density_is_that_of_the_noised_moments():
    data, sigma = Digits().load(), 0.5
    law = normal(np.cov(model_rows(data).T, bias=True), data, sigma)
    check(Gaussian().fit(Placed(data, MESH), sigma), law)
    check(PPCA(rank=1000).fit(Placed(data, MESH), sigma), law)


def test_few_directions_leave_the_covariance_of_probabilistic_pca():
    data, sigma = Digits().load(), 0.5
    pca = PCA(n_components=12, svd_solver="full").fit(model_rows(data))
    covariance = pca.get_covariance() * (len(data) - 1) / len(data)
    check(PPCA(rank=12).fit(Placed(data, MESH), sigma), normal(covariance, data, sigma))


def normal(covariance, data, sigma):
    mean = model_rows(data).mean(axis=0)
    return stats.multivariate_normal(mean, covariance + sigma**2 * np.eye(data.dim))


def check(prior, law):
    z = law.rvs(400, random_state=0).reshape(-1, 8, 8, 1).astype(np.float32)
    expected = law.logpdf(z.reshape(-1, 64).astype(float))
    assert np.allclose(log_prob(prior, z), expected, rtol=1e-5, atol=1e-3)
    draws = np.asarray(sample(prior, keys(400)), float).reshape(-1, 64)
    assert stats.ks_2samp(law.logpdf(draws), expected).pvalue > 1e-3
