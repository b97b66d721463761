"""Total variation on a mixture of two Gaussians, by exact propagation of densities."""

import numpy as np
import pytest
from scipy.stats import norm

from gdiff.sampler.methods.accelerated_sde import AcceleratedSDE
from gdiff.sampler.methods.ancestral import Ancestral
from gdiff.sampler.methods.ddpm import DDPM
from gdiff.sampler.methods.euler_maruyama import EulerMaruyama
from gdiff.sampler.methods.li_cai import LiCai
from gdiff.sampler.methods.midpoint import Midpoint
from gdiff.sampler.steps import Steps

from .density import Line, Mixture, propagate, transport
from .methods import METHODS, unclipped
from .reference import gaussian_law

LAW = Mixture([0.4, 0.6], [-1.5, 1.0], [0.3, 0.5])
LINE = Line(points=2**11)
MULTISTEP = ("dpmpp_2m", "accelerated_ode")
SECOND = (*MULTISTEP, "li_cai", "li_cai_back", "midpoint", "heun")


def grid(count):
    return np.sqrt(np.geomspace(9, 0.05, count + 1))


def distance(follow, steps, line=LINE):
    """Total variation between the end of a table and the exact law there."""
    return line.total_variation(follow(line, LAW, steps), LAW.density(line.z, np.sqrt(0.05)))


def euler_in_variance(sigma):
    """Euler steps of the probability-flow ODE in sigma² (Li et al., arXiv 2403.03852)."""
    steps = EulerMaruyama().table(sigma)
    return Steps(sigma=steps.sigma, a=1 - steps.b / 2, b=steps.b / 2)


@pytest.mark.parametrize(
    "table,few,many",
    [
        (EulerMaruyama().table, 2.0e-2, 2.6e-3),  # the DDPM-type sampler of arXiv 2403.03852
        (Ancestral().table, 1.4e-2, 1.7e-3),
        (AcceleratedSDE().table, 7.0e-3, 8.5e-4),
        (euler_in_variance, 2.2e-2, 2.8e-3),
        (LiCai(look="back").table, 3.0e-3, 5.1e-5),
        (Midpoint().table, 3.0e-4, 5.0e-6),
    ],
    ids=["euler_maruyama", "ancestral", "accelerated_sde", "ode", "li_cai_back", "midpoint"],
)
def test_total_variation_after_40_and_320_steps(table, few, many):
    line = Line(points=2**12)
    assert distance(propagate, table(grid(40)), line) == pytest.approx(few, rel=0.05)
    assert distance(propagate, table(grid(320)), line) == pytest.approx(many, rel=0.05)


@pytest.mark.parametrize("name", METHODS)
def test_the_order_in_total_variation(name):
    follow = transport if name in MULTISTEP else propagate
    few, many = (distance(follow, METHODS[name].table(grid(count))) for count in (20, 80))
    order = np.log(few / many) / np.log(4)
    assert order == pytest.approx(2 if name in SECOND else 1, abs=0.15)


def test_two_stages_beat_ddpm_five_times_with_as_many_evaluations():
    rival = min(distance(propagate, m.table(grid(40))) for m in (DDPM(), EulerMaruyama()))
    for method in (LiCai(), Midpoint()):
        steps = method.table(grid(20))
        assert steps.evaluations == 40
        assert 5 * distance(propagate, steps) < rival


def test_looking_ahead_is_more_accurate_than_looking_back():
    for count in (20, 80):
        ahead, back = (
            distance(propagate, LiCai(look=look).table(grid(count))) for look in ("ahead", "back")
        )
        assert 3 * ahead < back


@pytest.mark.parametrize("name", ["ddim", "heun"])
def test_following_the_map_agrees_with_following_the_density(name):
    steps = METHODS[name].table(grid(20))
    one, other = transport(LINE, LAW, steps), propagate(LINE, LAW, steps)
    assert LINE.total_variation(one, other) < 1e-5


@pytest.mark.parametrize(
    "name",
    ["ddim", "ddpm", "exponential_sde", "accelerated_sde", "srk", "midpoint", "li_cai", "heun"],
)
def test_the_propagated_density_of_gaussian_data_is_the_closed_form(name):
    steps = unclipped(METHODS[name]).table(grid(20))
    density = propagate(LINE, Mixture([1.0], [0.7], [0.5]), steps)
    mean, variance = gaussian_law(steps, 0.7, 0.25)
    exact = norm.pdf(LINE.z, mean, np.sqrt(variance))
    assert LINE.total_variation(density, exact) < 1e-6
