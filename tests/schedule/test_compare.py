import numpy as np
import pytest

from gdiff.errors import UserError
from gdiff.process.ddpm import DDPM
from gdiff.process.flow import LinearFlow
from gdiff.process.vp import VPLinear
from gdiff.schedule.compare import compare, comparisons

from .curves import ENDS, NORMAL, TWO_POINTS

NAMES = {"las", "las_nats", "entropic", "asymptotic", "logsnr", "edm", "uniform", "cosine", "vp"}
# Nats at K = 5 and K = 20, to three digits.
TABLE = [
    (NORMAL, "las_nats", "2.79", "0.498"),
    (NORMAL, "logsnr", "10.9", "1.16"),
    (NORMAL, "edm", "33.8", "1.97"),
    (NORMAL, "cosine", "22.0", "2.33"),
    (NORMAL, "vp", "63.6", "6.45"),
    (TWO_POINTS, "las_nats", "0.563", "0.0885"),
    (TWO_POINTS, "logsnr", "4.00", "0.332"),
    (TWO_POINTS, "edm", "10.4", "0.451"),
    (TWO_POINTS, "cosine", "2.66", "0.148"),
    (TWO_POINTS, "vp", "45.4", "0.311"),
]


@pytest.fixture(scope="module")
def grids():
    both = (NORMAL, TWO_POINTS)
    return {losses: comparisons(losses, VPLinear(), (5, 20), *ENDS) for losses in both}


@pytest.mark.parametrize("losses, name, few, many", TABLE)
def test_nats_to_three_digits(grids, losses, name, few, many):
    for grid, nats in zip(grids[losses], (few, many), strict=True):
        assert f"{losses.discretization(grid[name]):#.3g}" == nats


def test_all_grids_have_the_same_ends_and_las_nats_is_the_best(grids):
    for losses, found in grids.items():
        for count, named in zip((5, 20), found, strict=True):
            assert named.keys() == NAMES
            for grid in named.values():
                assert (len(grid), *grid[[0, -1]]) == (count + 1, *ENDS)
            nats = {name: losses.discretization(grid) for name, grid in named.items()}
            assert nats["las_nats"] <= min(nats.values()) + 1e-6


def test_a_single_count_gives_the_same_grids(grids):
    alone = compare(NORMAL, VPLinear(), 20, *ENDS)
    for name, grid in alone.items():
        assert grid == pytest.approx(grids[NORMAL][1][name], rel=1e-3)


def test_the_run_s_own_time_is_among_them_if_it_is_another():
    found = compare(NORMAL, LinearFlow(), 4, *ENDS)
    assert found.keys() == {*NAMES, "time"}
    t = LinearFlow().time(found["time"])
    assert np.diff(t) == pytest.approx((t[-1] - t[0]) / 4)


def test_times_that_do_not_reach_the_ends_are_left_out():
    low = type(NORMAL)(np.geomspace(200, 1e-5, 50), np.geomspace(1, 1e-9, 50))
    assert compare(low, DDPM(), 3, 80, 1e-5).keys() == NAMES - {"cosine"}


def test_ends_outside_the_curve_are_refused_in_one_line():
    with pytest.raises(UserError, match=r"^sigma = 0\.002 is outside the loss curve.*$"):
        compare(NORMAL, VPLinear(), 5, 80.0, 0.002)
