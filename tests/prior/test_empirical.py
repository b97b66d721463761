import jax
import numpy as np
from scipy import stats

from gdiff.dataset.placed import Placed
from gdiff.parallel.mesh import batch_sharding, make_mesh
from gdiff.prior.empirical import Empirical
from tests.prior.laws import MESH, draw_and_judge, images, keys, line, log_prob, model_rows, sample
from tests.score.exact import posterior


def test_log_density_is_that_of_the_noised_rows():
    data = images()
    for sigma in (1e-3, 0.7, 80.0):
        z, values = map(
            np.asarray, draw_and_judge(Empirical().fit(Placed(data, MESH), sigma), keys(8))
        )
        flat = z.astype(float).reshape(8, -1)
        expected = posterior(model_rows(data), flat, np.full(8, sigma))[2]
        assert np.allclose(values, expected, rtol=1e-5, atol=1e-2)


def test_a_draw_depends_on_its_key_only_and_nothing_on_devices():
    mesh = make_mesh("data:2/batch:2")
    split, whole = (Empirical().fit(Placed(images(), each), 0.7) for each in (mesh, MESH))
    together, values = draw_and_judge(whole, keys(8))
    assert len(np.unique(together[:, 3, 2])) == 8
    placed = jax.device_put(keys(8)[4:], batch_sharding(mesh))
    assert np.allclose(sample(split, placed), together[4:], atol=1e-5)
    assert np.allclose(log_prob(split, np.asarray(together)[4:7]), values[4:7], rtol=1e-5)


def test_draws_have_the_distribution_of_a_row_and_noise():
    rows = model_rows(line())
    draws = np.ravel(sample(Empirical().fit(Placed(line(), MESH), 0.4), keys(2000)))
    law = stats.kstest(draws, lambda x: stats.norm(rows, 0.4).cdf(x).mean(axis=0))
    assert law.pvalue > 1e-3
