import numpy as np
import pytest

import gdiff.process.ddpm
from gdiff.sampler.methods.ddpm import DDPM

from .reference import gaussian_law


def test_the_noise_is_beta_in_the_coordinates_of_the_process():
    process = gdiff.process.ddpm.DDPM()
    index = np.arange(999, -1, -1)
    grid = process.sigma(index)
    noise = DDPM().table(grid).c[:, 0] * process.signal(grid[1:])
    assert noise**2 == pytest.approx(np.linspace(1e-4, 0.02, 1000)[index[:-1]], rel=1e-10)


def test_it_keeps_the_law_of_unit_variance_on_any_grid():
    """Variance β is the optimal choice for x_0 ~ N(0, I) (Ho et al., sec. 3.2)."""
    mean, variance = gaussian_law(DDPM().table(np.array([3.0, 1.0, 0.2])), 0.0, 1.0)
    assert (mean, variance) == pytest.approx((0.0, 1.04))
