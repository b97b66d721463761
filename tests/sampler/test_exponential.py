import numpy as np
import pytest

from gdiff.process.ou import OU
from gdiff.sampler.methods.exponential import Exponential

from .reference import gaussian_law


@pytest.mark.parametrize("stochastic", [True, False])
def test_one_step_is_the_integrator_in_the_coordinates_of_the_process(stochastic):
    sigma, s, z, mean = 3.0, 0.7, 1.9, 0.4
    ou = OU()
    eps = ou.time(sigma) - ou.time(s)
    score = (mean - z) / sigma**2 / ou.signal(sigma)
    strength = 2 if stochastic else 1
    growth = np.exp(eps / 2)
    expected = growth * ou.signal(sigma) * z + strength * (growth - 1) * score

    steps = Exponential(stochastic=stochastic).table(np.array([sigma, s]))
    assert ou.signal(s) * (steps.a[0, 0] * z + steps.b[0, 0] * mean) == pytest.approx(expected)
    noise = np.sqrt(np.expm1(eps)) if stochastic else 0.0
    assert ou.signal(s) * steps.c[0, 0] == pytest.approx(noise)


def test_the_ode_keeps_the_law_of_unit_variance_on_any_grid():
    """The law of y is N(0, 1) at all times, so its probability flow stands still."""
    steps = Exponential(stochastic=False).table(np.array([3.0, 1.0, 0.2]))
    assert gaussian_law(steps, 0.0, 1.0) == pytest.approx((0.0, 1.04))
