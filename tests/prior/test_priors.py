"""What holds for every prior that knows the data by a few numbers."""

import equinox as eqx
import jax
import numpy as np
import pytest
from scipy import stats

from gdiff.dataset.placed import Placed
from gdiff.dataset.toy import TwoPoints
from gdiff.parallel.mesh import batch_sharding, make_mesh
from gdiff.prior.dpgmm import DPGMM
from gdiff.prior.gaussian import Gaussian
from gdiff.prior.gmm import GMM
from gdiff.prior.ppca import PPCA
from gdiff.prior.standard import Standard
from tests.prior.laws import (
    MESH,
    draw_and_judge,
    images,
    keys,
    line,
    log_prob,
    many_dimensions,
    plane,
    sample,
)


@pytest.mark.parametrize("spec", [Standard(), Gaussian()], ids=repr)
def test_integrates_to_one_on_a_line_and_draws_have_its_distribution(spec):
    prior = spec.fit(Placed(line(), MESH), 0.4)
    z = np.linspace(-12, 12, 4001)
    density = np.exp(np.asarray(log_prob(prior, z[:, None].astype(np.float32)), float))
    assert np.trapezoid(density, z) == pytest.approx(1, abs=1e-3)
    cumulative = np.cumsum(density) * (z[1] - z[0])
    draws = np.ravel(sample(prior, keys(2000)))
    assert stats.kstest(draws, lambda x: np.interp(x, z, cumulative)).pvalue > 1e-3


@pytest.mark.parametrize(
    "spec", [PPCA(rank=1), GMM(components=4, rank=1), DPGMM(components=4)], ids=repr
)
def test_integrates_to_one_in_the_plane_and_draws_have_its_marginals(spec):
    prior = spec.fit(Placed(plane(), MESH), 0.3)
    z = np.linspace(-7, 7, 281)
    grid = np.stack(np.meshgrid(z, z, indexing="ij"), axis=-1)
    density = np.exp(np.asarray(log_prob(prior, grid.reshape(-1, 2).astype(np.float32)), float))
    density = density.reshape(281, 281) * (z[1] - z[0]) ** 2
    assert density.sum() == pytest.approx(1, abs=1e-3)
    draws = np.asarray(sample(prior, keys(2000)))
    middle = z + 0.5 * (z[1] - z[0])
    for axis in (0, 1):
        cumulative = np.cumsum(density.sum(axis=1 - axis))
        law = stats.kstest(draws[:, axis], lambda x, total=cumulative: np.interp(x, middle, total))
        assert law.pvalue > 1e-3
    mean = np.tensordot(density, grid, 2)
    covariance = np.tensordot(density, grid.prod(axis=2), 2) - mean.prod()
    products = (draws - mean).prod(axis=1)
    assert abs(products.mean() - covariance) < 4 * products.std() / 2000**0.5


@pytest.mark.parametrize("spec", [Gaussian(), GMM(components=4)], ids=repr)
def test_a_draw_depends_on_its_key_only_and_not_on_devices(spec):
    mesh = make_mesh("data:2/batch:2")
    split, whole = spec.fit(Placed(images(), mesh), 0.5), spec.fit(Placed(images(), MESH), 0.5)
    for leaf in jax.tree.leaves(eqx.filter(split, eqx.is_array)):
        assert leaf.sharding.is_fully_replicated
        assert leaf.sharding.mesh == mesh
    placed = jax.device_put(keys(8), batch_sharding(mesh))
    z, values = map(np.asarray, draw_and_judge(split, placed))
    assert z.shape == (8, 4, 5, 1)
    assert len(np.unique(z[:, 3, 2])) == 8
    alone, value = draw_and_judge(whole, keys(8)[5:6])
    assert np.allclose(z[5], alone[0], atol=1e-5)
    assert np.allclose(values[5], value[0], rtol=1e-5)


@pytest.mark.parametrize("spec", [Gaussian(), GMM(components=2), DPGMM(components=2)], ids=repr)
@pytest.mark.parametrize("data", [TwoPoints().load(), images()], ids=len)
def test_few_points_copies_and_constant_coordinates_do_no_harm(spec, data):
    for sigma in (1e-3, 80.0):
        prior = spec.fit(Placed(data, MESH), sigma)
        z, values = draw_and_judge(prior, keys(8))
        assert z.shape == (8, *data.event_shape)
        assert np.all(np.isfinite(z))
        assert np.all(np.isfinite(values))


@pytest.mark.parametrize("spec", [Gaussian(), PPCA(rank=2), GMM(components=1, rank=2)], ids=repr)
def test_log_density_of_draws_in_many_dimensions_is_the_entropy_on_average(spec):
    data, sigma = many_dimensions(), 0.3
    rows = data.to_model(data.x.reshape(len(data), -1), np.float64)
    variance = np.linalg.svd(rows - rows.mean(axis=0), compute_uv=False) ** 2 / len(rows)
    variance = np.append(variance, np.zeros(data.dim - len(rows)))
    if isinstance(spec, PPCA):
        variance[2:] = variance[2:].mean()
    entropy = 0.5 * np.sum(1 + np.log(2 * np.pi * (variance + sigma**2)))
    prior = spec.fit(Placed(data, MESH), sigma)
    values = draw_and_judge(prior, keys(8))[1]
    # Half a chi-squared number of dim degrees of freedom, about its mean.
    assert np.mean(values) == pytest.approx(-entropy, abs=4 * (data.dim / 2 / 8) ** 0.5)
