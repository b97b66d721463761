import numpy as np
import pytest

from gdiff.errors import UserError
from gdiff.process.ou import OU
from gdiff.process.vp import VPLinear


def test_times_match_the_published_ou_times_and_signals():
    vp, ou = VPLinear(), OU()
    sigma = vp.sigma([1.0, 0.6, 0.4, 0.2])
    assert ou.time(sigma) == pytest.approx([10.05, 3.64, 1.63, 0.42], abs=0.006)
    assert vp.signal(sigma) == pytest.approx([0.007, 0.162, 0.442, 0.811], abs=0.0006)


def test_ou_time_is_the_integral_of_the_rate():
    vp = VPLinear(beta_min=0.3, beta_max=7.0)
    t = np.linspace(0, 0.7, 100_001)
    rate = 0.3 + 6.7 * t
    assert OU().time(vp.sigma(0.7)) == pytest.approx(np.trapezoid(rate, t), rel=1e-9)


def test_a_constant_rate_is_allowed():
    vp = VPLinear(beta_min=2.0, beta_max=2.0)
    assert vp.time(vp.sigma(0.3)) == pytest.approx(0.3)


@pytest.mark.parametrize(
    "beta_min,beta_max", [(0.0, 1.0), (2.0, 1.0), (0.1, np.inf), (np.nan, 1.0)]
)
def test_impossible_rates_are_refused_in_one_line(beta_min, beta_max):
    with pytest.raises(UserError, match=r"^beta_min=.*beta_max.*$"):
        VPLinear(beta_min=beta_min, beta_max=beta_max)
