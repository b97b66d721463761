from itertools import combinations

import numpy as np
import pytest

from gdiff.schedule.programme import Optimum, Programme, optimal_sums, refined

from .curves import ENDS, MEMORISED, NORMAL, TWO_POINTS

CURVES = pytest.mark.parametrize("losses", [NORMAL, TWO_POINTS, MEMORISED])


def riemann(snr, loss, index):
    index = np.array(index)
    return np.diff(snr[index]) @ loss[index[:-1]]


@pytest.mark.parametrize("seed", range(20))
def test_the_programme_finds_the_best_of_all_grids(seed):
    rng = np.random.default_rng(seed)
    count = rng.integers(2, 11)
    snr = np.cumsum(rng.exponential(size=count))
    # Some losses are equal, some vanish.
    loss = np.sort(np.maximum(rng.normal(size=count).round(1), 0))[::-1]
    programme = Programme(snr, loss)
    for steps in range(1, count):
        inner = combinations(range(1, count - 1), steps - 1)
        best = min(riemann(snr, loss, [0, *chosen, count - 1]) for chosen in inner)
        index = programme.indices(steps)
        assert (index[0], index[-1], len(index)) == (0, count - 1, steps + 1)
        assert np.all(np.diff(index) > 0)
        assert riemann(snr, loss, index) == pytest.approx(best, rel=1e-12, abs=1e-12)
        assert programme.sums(steps)[-1] == pytest.approx(best, rel=1e-12, abs=1e-12)


def test_a_layer_is_that_of_all_pairs():
    sigma = np.geomspace(*ENDS, 300)
    snr, loss = sigma**-2.0, TWO_POINTS.at(sigma)
    value = (snr - snr[0]) * loss[0]
    costs = np.triu((snr - snr[:, None]) * loss[:, None], 1) + np.tril(np.full((300, 300), np.inf))
    expected = [value[-1]]
    for _ in range(30):
        value = (value[:, None] + costs).min(axis=0)
        expected.append(value[-1])
    assert Programme(snr, loss).sums(31) == pytest.approx(expected, rel=1e-12)


@CURVES
def test_refined_nodes_are_no_worse_and_in_order(losses):
    for count in (2, 3, 10, 100):
        grid = np.geomspace(*ENDS, count)
        moved = refined(losses.at, grid, 0.05)
        assert moved[[0, -1]].tolist() == list(ENDS)
        assert np.all(np.diff(moved) < 0)
        assert losses.discretization(moved) <= losses.discretization(grid)


def test_refined_nodes_approach_the_stationary_grid():
    geometric = np.geomspace(1 + 80**-2, 1 + 0.05**-2, 11)
    best = np.append(80.0, (geometric[1:] - 1) ** -0.5)
    start = best * np.exp(0.05 * np.sin(np.arange(11)) * (np.arange(11) % 10 > 0))
    found = refined(NORMAL.at, start, 0.05)
    excess = [NORMAL.discretization(grid) - NORMAL.discretization(best) for grid in (start, found)]
    assert -1e-6 < excess[1] < 0.01 * excess[0]


@CURVES
def test_the_values_of_all_counts_are_those_of_grids(losses):
    sums = optimal_sums(losses, *ENDS, 200)
    assert np.all(np.diff(sums) < 0)
    optimum = Optimum(losses, *ENDS)
    for steps in (1, 2, 5, 20, 200):
        nats = losses.discretization(optimum.nodes(steps + 1))
        assert nats <= sums[steps - 1] * (1 + 1e-6)
        assert nats == pytest.approx(sums[steps - 1], rel=0.02)


@CURVES
def test_many_steps_reach_the_asymptotic_constant(losses):
    constant = losses.asymptotic_constant(*ENDS)
    optimum = Optimum(losses, *ENDS)
    nats = [losses.discretization(optimum.nodes(steps + 1)) for steps in (100, 400)]
    assert nats[1] * 400 == pytest.approx(constant, rel=0.02)
    assert abs(nats[1] * 400 - constant) < abs(nats[0] * 100 - constant)


def test_a_loss_that_vanishes_everywhere_leaves_grids_of_any_size():
    losses = type(NORMAL)(NORMAL.sigma, np.zeros(len(NORMAL.sigma)))
    for count in (2, 3, 63, 64):
        nodes = Optimum(losses, *ENDS, 64).nodes(count)
        assert (len(nodes), *nodes[[0, -1]]) == (count, *ENDS)
        assert np.all(np.diff(nodes) < 0)
