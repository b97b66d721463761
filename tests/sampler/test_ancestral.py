import numpy as np
import pytest

from gdiff.sampler.methods.ancestral import Ancestral
from gdiff.sampler.methods.ddim import DDIM

GRID = np.array([80.0, 10.0, 1.5, 1.4, 0.002])


def test_it_is_ddim_with_eta_one():
    ours, ddim = Ancestral().table(GRID), DDIM(eta=1.0).table(GRID)
    for name in ("sigma", "a", "b", "c"):
        assert getattr(ours, name) == pytest.approx(getattr(ddim, name), rel=1e-14)


def test_it_draws_from_the_gaussian_posterior_of_the_next_level():
    """Precisions add: z_s | x_0 has 1/s², z_sigma | z_s has 1/(sigma² - s²)."""
    steps = Ancestral().table(GRID)
    sigma, s = GRID[:-1], GRID[1:]
    variance = 1 / (1 / s**2 + 1 / (sigma**2 - s**2))
    assert steps.c[:, 0] ** 2 == pytest.approx(variance)
    assert steps.a[:, 0] == pytest.approx(variance / (sigma**2 - s**2))
    assert steps.b[:, 0] == pytest.approx(variance / s**2)
