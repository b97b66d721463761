import jax
import numpy as np
import pytest
from scipy import stats

from gdiff import rng
from gdiff.dataset.digits import Digits
from gdiff.dataset.placed import Placed
from gdiff.errors import UserError
from gdiff.prior.standard import Standard
from tests.prior.laws import MESH, keys, log_prob, sample


def test_draws_have_the_stated_law_and_log_density():
    data = Digits(subset=5).load()
    prior = Standard(data_variance=2.0).fit(Placed(data, MESH), 3.0)
    z = sample(prior, keys(500))
    assert z.shape == (500, 8, 8, 1)
    assert stats.kstest(np.ravel(z), stats.norm(scale=11**0.5).cdf).pvalue > 1e-3
    expected = stats.norm(scale=11**0.5).logpdf(np.asarray(z, float)).reshape(500, -1).sum(1)
    assert np.allclose(log_prob(prior, z), expected, rtol=1e-5)


def test_a_draw_depends_on_its_own_number_only():
    prior = Standard().fit(Placed(Digits(subset=5).load(), MESH), 1.0)
    together = sample(prior, rng.sample_keys(7, rng.Role.PRIOR, np.arange(10)))
    alone = sample(prior, rng.sample_keys(7, rng.Role.PRIOR, np.array([6])))
    assert np.array_equal(together[6], alone[0])
    assert not np.array_equal(together[5], together[6])


def test_roles_steps_and_seeds_have_different_numbers():
    index = np.arange(2)
    keys = [rng.sample_keys(seed, role, index) for seed in (0, 1) for role in rng.Role]
    keys += [rng.at_step(keys[0], step) for step in (0, 1)]
    bits = {tuple(np.ravel(jax.random.key_data(k))) for k in keys}
    assert len(bits) == len(keys)


def test_negative_variance_is_refused():
    with pytest.raises(UserError, match="data_variance"):
        Standard(data_variance=-1.0)
