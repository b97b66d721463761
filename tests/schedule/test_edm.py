import numpy as np
import pytest

from gdiff.errors import UserError
from gdiff.process.ou import OU
from gdiff.schedule.edm import EDM
from gdiff.schedule.logsnr import LogSNR
from gdiff.schedule.uniform import UniformSigma


def test_the_seventh_root_of_sigma_has_equal_steps():
    root = EDM(steps=18).grid(OU())[:-1] ** (1 / 7)
    assert np.diff(root) == pytest.approx((0.002 ** (1 / 7) - 80 ** (1 / 7)) / 17)


def test_rho_one_is_the_uniform_grid_and_large_rho_the_geometric_one():
    assert EDM(rho=1.0).grid(OU()) == pytest.approx(UniformSigma().grid(OU()))
    assert EDM(rho=1e7).grid(OU()) == pytest.approx(LogSNR().grid(OU()), rel=1e-4)


@pytest.mark.parametrize("rho", [0.0, -7.0, np.inf, np.nan])
def test_an_impossible_rho_is_refused_in_one_line(rho):
    with pytest.raises(UserError, match=r"^rho=.*$"):
        EDM(rho=rho)
