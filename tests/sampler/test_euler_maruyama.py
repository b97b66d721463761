import numpy as np
import pytest

from gdiff.sampler.methods.euler_maruyama import EulerMaruyama


def test_one_step_is_the_drift_along_the_score_and_the_noise_of_the_clock():
    steps = EulerMaruyama().table(np.array([3.0, 1.0]))
    z, mean = 1.7, 0.4
    score = (mean - z) / 9
    assert steps.a[0, 0] * z + steps.b[0, 0] * mean == pytest.approx(z + 8 * score)
    assert steps.c[0, 0] ** 2 == pytest.approx(8)
