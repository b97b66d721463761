import numpy as np
import pytest

from gdiff.errors import UserError
from gdiff.sampler.methods.ddim import DDIM

GRID = np.array([80.0, 10.0, 1.5, 1.4, 0.002])


def test_eta_zero_moves_along_the_line_through_the_mean():
    steps = DDIM().table(GRID)
    assert steps.a[:, 0] == pytest.approx(GRID[1:] / GRID[:-1])
    assert not np.any(steps.c)


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_a_perfect_denoiser_keeps_the_noise_level(eta):
    """With D = x_0 the noise of z' = x_0 + a sigma ε + c ξ must have variance s²."""
    steps = DDIM(eta=eta).table(GRID)
    assert (steps.a[:, 0] * steps.sigma) ** 2 + steps.c[:, 0] ** 2 == pytest.approx(GRID[1:] ** 2)


@pytest.mark.parametrize("eta", [-0.1, 1.1, np.nan])
def test_an_impossible_eta_is_refused_in_one_line(eta):
    with pytest.raises(UserError, match=r"^eta=.* must be between 0 and 1$"):
        DDIM(eta=eta)
