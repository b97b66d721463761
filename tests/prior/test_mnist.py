"""How far priors are from noised MNIST, in nats."""

import equinox as eqx
import jax
import numpy as np
import pytest

from gdiff.dataset.placed import Placed
from gdiff.dataset.tfds import Tfds
from gdiff.prior.dpgmm import DPGMM
from gdiff.prior.empirical import Empirical
from gdiff.prior.gaussian import Gaussian
from gdiff.prior.gmm import GMM
from gdiff.prior.standard import Standard
from gdiff.process.vp import VPLinear
from tests.prior.laws import MESH, keys

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def mnist(real_data_dir):
    return Tfds(name="mnist", data_dir=real_data_dir).load()


@pytest.mark.parametrize("time", [0.6, 0.4, 0.2])
def test_divergences_are_those_measured_elsewhere(mnist, time):
    sigma = float(VPLinear().sigma(time))
    exact = Empirical().fit(Placed(mnist, MESH), sigma)
    z = jax.jit(lambda keys: exact.sample(keys))(keys(1024))
    known = in_parts(exact, z)
    expected = {  # in nats, to their own sampling errors
        0.6: (7.0, 0.07, 0.0, 0.0),
        0.4: (69.6, 7.5, 4.3, 4.3),
        0.2: (390.0, 61.0, 48.0, 48.0),
    }[time]
    for spec, value in zip((Standard(), Gaussian(), GMM(), DPGMM()), expected, strict=True):
        excess = known - in_parts(spec.fit(Placed(mnist, MESH), sigma), z)
        error = excess.std() / len(excess) ** 0.5
        assert abs(excess.mean() - value) < 4 * error + 0.04 * value


def in_parts(prior, z):
    log_prob = eqx.filter_jit(lambda prior, z: prior.log_prob(z))
    return np.concatenate([log_prob(prior, part) for part in np.split(np.asarray(z), 4)])
