import numpy as np
import pytest

from gdiff.errors import UserError
from gdiff.process.cosine import Cosine
from gdiff.process.ddpm import DDPM
from gdiff.process.flow import LinearFlow
from gdiff.process.ou import OU
from gdiff.process.ve import VE
from gdiff.process.vp import VPLinear
from gdiff.schedule.time import UniformTime
from gdiff.schedule.uniform import UniformSigma


@pytest.mark.parametrize("process", [OU(), VPLinear(), Cosine(), VE(), LinearFlow()])
def test_the_time_of_the_run_s_process_has_equal_steps(process):
    t = process.time(UniformTime(steps=25).grid(process)[:-1])
    assert np.diff(t) == pytest.approx((t[-1] - t[0]) / 24)


def test_its_own_process_takes_precedence_over_that_of_the_run():
    cosine = Cosine()
    grid = UniformTime(process=cosine).grid(DDPM())
    assert grid.tolist() == UniformTime().grid(cosine).tolist()


def test_the_time_of_the_exploding_process_is_sigma():
    assert UniformTime().grid(VE()) == pytest.approx(UniformSigma().grid(VE()))


@pytest.mark.parametrize(
    "process,key,fields",
    [(DDPM(), "sigma_min", {}), (VPLinear(), "sigma_max", {"sigma_max": 160.0})],
)
def test_levels_that_the_process_does_not_reach_are_refused_in_one_line(process, key, fields):
    with pytest.raises(UserError, match=rf"^schedule\.{key}=.* is outside the noise levels .*$"):
        UniformTime(**fields).grid(process)


def test_the_ends_of_a_process_may_be_copied_from_the_message():
    grid = UniformTime(sigma_min=0.0100005, sigma_max=157.407).grid(DDPM())
    assert np.all(np.diff(grid) < 0)


def test_something_else_than_a_process_is_refused_in_one_line():
    with pytest.raises(UserError, match=r"^process='ou' .*$"):
        UniformTime(process="ou")
