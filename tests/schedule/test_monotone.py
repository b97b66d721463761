"""Monotone curves against SciPy's."""

import numpy as np
import pytest
from scipy.interpolate import PchipInterpolator
from scipy.optimize import isotonic_regression

from gdiff.schedule.monotone import Pchip, isotonic


def points(count, *, is_monotone):
    rng = np.random.default_rng(count)
    x, y = np.cumsum(rng.uniform(0.1, 2, count)), rng.standard_normal(count)
    return x, isotonic(y) if is_monotone else y


@pytest.mark.parametrize("count", [1, 2, 3, 40])
def test_the_nearest_increasing_sequence_is_scipys(count):
    _, y = points(count, is_monotone=False)
    assert isotonic(y) == pytest.approx(isotonic_regression(y).x, rel=1e-12)
    assert isotonic(np.sort(y)).tolist() == np.sort(y).tolist()


@pytest.mark.parametrize("is_monotone", [True, False])
@pytest.mark.parametrize("count", [2, 3, 40])
def test_the_curve_is_scipys(count, is_monotone):
    x, y = points(count, is_monotone=is_monotone)
    ours, theirs = Pchip(x, y), PchipInterpolator(x, y)
    at = np.linspace(x[0] - 0.5, x[-1] + 0.5, 301).reshape(7, 43)
    assert ours(at) == pytest.approx(theirs(at), rel=1e-12, abs=1e-12)
    assert ours.slope(at) == pytest.approx(theirs.derivative()(at), rel=1e-11, abs=1e-11)
    assert ours(x) == pytest.approx(y, abs=1e-14)
