"""Orders of convergence on Gaussian data, where every table acts on the law in closed form."""

import numpy as np
import pytest

from .methods import METHODS, unclipped
from .reference import gaussian_denoiser, gaussian_law, run

SECOND = ("dpmpp_2m", "accelerated_sde", "accelerated_ode", "li_cai_back", "srk", "heun")
ORDERS = (
    dict.fromkeys(METHODS, 1) | dict.fromkeys(SECOND, 2) | dict.fromkeys(("li_cai", "midpoint"), 3)
)
START, END = 3.0, np.sqrt(0.05)


@pytest.mark.parametrize("variance", [0.09, 0.5, 2.0])
@pytest.mark.parametrize("name", METHODS)
def test_the_variance_converges_at_the_order_of_the_method(name, variance):
    counts = [80, 160, 320, 640]
    errors = []
    for count in counts:
        steps = unclipped(METHODS[name]).table(np.geomspace(START, END, count + 1))
        mean, got = gaussian_law(steps, 0.7, variance)
        assert mean == pytest.approx(0.7)
        errors.append(abs(got - variance - END**2))
    order = -np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert order == pytest.approx(ORDERS[name], abs=0.15)


def test_noise_outside_of_the_accelerated_step_would_be_of_first_order():
    """Where the README of the authors' code puts the second noise of the accelerated SDE."""
    counts, errors = [80, 160, 320], []
    for count in counts:
        grid = np.geomspace(START, END, count + 1)
        steps = METHODS["accelerated_sde"].table(grid)
        steps.c[:, 1] *= np.sqrt((1 + grid[1:] ** 2) / (1 + grid[:-1] ** 2))
        errors.append(abs(gaussian_law(steps, 0.0, 0.5)[1] - 0.5 - END**2))
    assert -np.polyfit(np.log(counts), np.log(errors), 1)[0] == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("name", METHODS)
def test_samples_follow_the_law_in_closed_form(name):
    """The driver and the recursion of the law are two codes for one table."""
    rng = np.random.default_rng(0)
    steps = unclipped(METHODS[name]).table(np.geomspace(START, END, 9))
    count = 200_000
    start = 0.7 + np.sqrt(0.5 + START**2) * rng.standard_normal((count, 1))
    noise = rng.standard_normal((8, steps.c.shape[1], count, 1))
    samples = run(steps, gaussian_denoiser(0.7, 0.5), start, noise)
    mean, variance = gaussian_law(steps, 0.7, 0.5)
    assert samples.mean() == pytest.approx(mean, abs=5 * np.sqrt(variance / count))
    assert samples.var() == pytest.approx(variance, rel=5 * np.sqrt(2 / count))
