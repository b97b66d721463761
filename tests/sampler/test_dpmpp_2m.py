import numpy as np
import pytest

from gdiff.sampler.methods.ddim import DDIM
from gdiff.sampler.methods.dpmpp_2m import DPMpp2M

from .reference import run

GRID = np.array([80.0, 10.0, 1.5, 1.4, 0.002])


def test_the_first_step_is_ddim():
    steps, ddim = DPMpp2M().table(GRID), DDIM().table(GRID)
    assert steps.a == pytest.approx(ddim.a)
    assert steps.b[0] == pytest.approx([ddim.b[0, 0], 0.0])


def test_the_denoiser_is_extrapolated_to_the_middle_of_the_step():
    """For D linear in -log sigma, the step uses its value half a step ahead, on uneven grids."""
    steps = DPMpp2M().table(GRID)
    value = -np.log(GRID)
    middle = (value[1:-1] + value[2:]) / 2
    used = (steps.b[1:, 0] * value[1:-1] + steps.b[1:, 1] * value[:-2]) / steps.b[1:].sum(1)
    assert used == pytest.approx(middle)


def test_it_is_second_order_on_uneven_grids():
    """Steps in the ratio 1 : 3, D = -log sigma; the exact solution is by variation of constants."""
    errors = []
    for pairs in (40, 80, 160):
        widths = np.tile([0.25, 0.75], pairs) * np.log(60) / pairs
        grid = 3 * np.exp(-np.append(0.0, np.cumsum(widths)))
        # (z / sigma)' = D e^λ in λ = -log sigma, and ∫ λ e^λ = (λ - 1) e^λ
        start, end = -np.log(grid[0]), -np.log(grid[-1])
        integral = (end - 1) * np.exp(end) - (start - 1) * np.exp(start)
        exact = grid[-1] * (1.0 / grid[0] + integral)
        got = run(DPMpp2M().table(grid), lambda z, s: np.full_like(z, -np.log(s)), np.ones((1, 1)))
        errors.append(abs(got.item() - exact))
    assert np.diff(np.log2(errors)) == pytest.approx(-2, abs=0.1)
