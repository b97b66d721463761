import numpy as np
import pytest
from sklearn.datasets import make_moons, make_swiss_roll

from gdiff.dataset.toy import Checkerboard, Gaussians, Moons, SwissRoll, TwoPoints

from .errors import one_line

RANDOM = [Moons, SwissRoll, Gaussians, Checkerboard]


@pytest.mark.parametrize("toy", RANDOM)
def test_toys_are_float32_of_order_one_and_follow_their_seed(toy):
    data = toy(num_points=1001, seed=3).load()
    assert data.x.shape == (1001, 2)
    assert data.x.dtype == np.float32
    assert (data.shift, data.scale) == (0, 1)
    assert 0.5 < np.abs(data.x).max() < 1.6
    np.testing.assert_array_equal(data.x, toy(num_points=1001, seed=3).load().x)
    assert not np.array_equal(data.x, toy(num_points=1001, seed=4).load().x)


@pytest.mark.parametrize("toy", RANDOM)
def test_impossible_options_are_refused(toy):
    for option, value in (("num_points", 1), ("noise", -0.1), ("noise", np.inf), ("seed", -1)):
        with one_line(f"{option}={value}"):
            toy(**{option: value})
    with one_line("subset"):
        toy(subset=0)


def test_gaussians_need_a_component():
    with one_line("num_modes=0"):
        Gaussians(num_modes=0)


def test_moons_lie_on_scikit_learns_moons():
    data = Moons(num_points=400, noise=0).load()
    theirs, labels = make_moons(400, noise=None)
    theirs = (theirs - [0.5, 0.25]) / 1.5
    for label in (0, 1):
        ours, reference = data.x[data.labels == label], theirs[labels == label]
        gaps = np.linalg.norm(ours[:, None] - reference[None], axis=-1)
        assert len(ours) == 200
        assert gaps.min(axis=1).max() < np.pi / 200 / 1.5
        assert gaps.min(axis=0).max() < 0.1


def test_the_roll_lies_on_scikit_learns_roll():
    data = SwissRoll(num_points=500, noise=0).load()
    theirs = make_swiss_roll(20_000, random_state=0)[0][:, [0, 2]] / (4.5 * np.pi)
    gaps = np.linalg.norm(data.x[:, None] - theirs[None], axis=-1).min(axis=1)
    assert gaps.max() < 0.01


def test_gaussians_have_their_means_and_spread():
    data = Gaussians(num_points=40_000, num_modes=4, noise=0.1).load()
    means = np.array([[1, 0], [0, 1], [-1, 0], [0, -1]])
    for label, mean in enumerate(means):
        x = data.x[data.labels == label]
        assert len(x) == 10_000
        np.testing.assert_allclose(x.mean(axis=0), mean, atol=6 * 0.1 / 100)
        np.testing.assert_allclose(x.std(axis=0), 0.1, rtol=0.05)


def test_the_checkerboard_fills_the_dark_squares_alone():
    x = Checkerboard(num_points=16_000).load().x
    square = np.floor((x + 1) * 2).astype(int)
    assert set(map(tuple, square)) == {
        (i, j) for i in range(4) for j in range(4) if (i + j) % 2 == 0
    }
    _, counts = np.unique(square[:, 0] * 4 + square[:, 1], return_counts=True)
    assert abs(counts - 2000).max() < 5 * np.sqrt(2000)


def test_noise_has_the_stated_deviation():
    quiet, noisy = (Moons(num_points=20_000, noise=noise).load().x for noise in (0, 0.2))
    np.testing.assert_allclose((noisy - quiet).std(axis=0), 0.2, rtol=0.03)


def test_two_points_are_plus_and_minus_one():
    data = TwoPoints().load()
    np.testing.assert_array_equal(data.x, [[-1], [1]])
    assert data.x.dtype == np.float32
    with one_line("only one point"):
        TwoPoints(classes=[1]).load()
