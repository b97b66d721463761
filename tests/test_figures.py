import io

import numpy as np
import pytest
from PIL import Image

from gdiff import figures
from gdiff.dataset.base import Dataset
from gdiff.figures import points, trajectory


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def pixels(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def near(image, colour, tolerance=60):
    wanted = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
    return np.abs(image.astype(int) - wanted).sum(-1) < tolerance


@pytest.mark.parametrize("count, columns, rows", [(1, 1, 1), (2, 2, 1), (10, 4, 3), (64, 8, 8)])
def test_a_grid_is_nearly_square_and_magnified_by_a_whole_factor(count, columns, rows):
    samples = np.clip(normal(count, 8, 8, 1), -1, 1)
    grid = figures.image_grid(samples)
    factor = ((grid.shape[1] - 2) // columns - 2) // 8
    assert grid.shape == (2 + rows * (8 * factor + 2), 2 + columns * (8 * factor + 2), 3)
    assert factor * 8 >= 64
    first = grid[2 : 2 + 8 * factor : factor, 2 : 2 + 8 * factor : factor, 0]
    np.testing.assert_array_equal(first, np.round(127.5 * (samples[0, ..., 0] + 1)))
    last_row, last_column = divmod(count - 1, columns)
    top, left = (2 + k * (8 * factor + 2) for k in (last_row, last_column))
    last = grid[top : top + 8 * factor, left : left + 8 * factor, 1]
    expected = np.round(127.5 * (samples[-1, ..., 0] + 1))
    np.testing.assert_array_equal(last, np.kron(expected, np.ones((factor, factor))))


def test_a_grid_shows_no_more_than_asked_and_leaves_large_images_alone():
    samples = normal(9, 200, 200, 3)
    assert figures.image_grid(samples, max_images=4).shape == (406, 406, 3)


def test_values_out_of_range_are_clipped_and_nan_is_grey():
    samples = np.array([-7.0, 7.0, np.nan, np.inf], np.float32).reshape(1, 2, 2, 1)
    grid = figures.image_grid(samples)
    corners = [grid[4, 4, 0], grid[4, -5, 0], grid[-5, 4, 0], grid[-5, -5, 0]]
    assert corners == [0, 255, 128, 255]


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_any_number_of_channels_gives_colours(channels):
    samples = np.full((1, 16, 16, channels), -1.0, np.float32)
    samples[..., 0] = 1
    expected = {1: (255, 255, 255), 2: (128, 128, 128)}.get(channels, (255, 0, 0))
    assert tuple(figures.image_grid(samples)[10, 10]) == expected


@pytest.mark.parametrize("shape", [(1,), (2,), (5,), (3, 4), (8, 8, 1), (6, 5, 3)])
def test_a_picture_of_any_event_shape_is_a_readable_png(shape):
    image = pixels(figures.picture(normal(12, *shape), Dataset("d", normal(30, *shape, seed=1))))
    assert min(image.shape[:2]) > 200
    assert image.std() > 10


@pytest.mark.parametrize("shape", [(1,), (2,), (5,)])
def test_plots_show_samples_and_data_with_nothing_cut_at_the_border(shape):
    image = pixels(figures.picture(normal(50, *shape), Dataset("d", normal(400, *shape, seed=1))))
    assert near(image, points.SAMPLES).sum() > 100
    assert (near(image, points.DATA, 120) | near(image, "#bdc3c9")).sum() > 100
    border = np.concatenate([image[:4].ravel(), image[-4:].ravel()])
    sides = np.concatenate([image[:, :4].ravel(), image[:, -4:].ravel()])
    assert border.min() == sides.min() == 255


@pytest.mark.parametrize("shape", [(1,), (2,), (5,)])
def test_far_and_broken_samples_and_single_points_give_a_picture(shape):
    samples = normal(10, *shape)
    samples[0], samples[1] = 1e6, np.nan
    assert figures.picture(samples, Dataset("d", normal(30, *shape, seed=1)))
    for count in (1, 2):
        assert figures.picture(samples[2:3], Dataset("few", np.zeros((count, *shape))))


def test_one_far_sample_does_not_shrink_the_frame():
    data, samples = normal(100, 2), normal(10, 2, seed=1)
    expected = points.limits_of(samples, data)
    far = np.concatenate([samples, [[500.0, 0.0]]])
    np.testing.assert_allclose(points.limits_of(far, data), expected, rtol=1e-5)
    assert np.all(data > expected[0])
    assert np.all(data < expected[1])


def test_the_extreme_data_lie_at_centres_of_bins():
    data, samples = np.array([[-1.0], [1.0]]), np.zeros((5, 1))
    limits = points.limits_of(samples, data)
    edges = points.edges_of(samples, data, limits)
    centres = (edges[1:] + edges[:-1]) / 2
    assert min(abs(centres - 1)) < 1e-9
    assert min(abs(centres + 1)) < 1e-9
    assert edges[0] <= limits[0, 0] < limits[1, 0] <= edges[-1]
    area = points.density(np.array([[-1.0], [0.3], [9.0]]), edges) @ np.diff(edges)
    assert area == pytest.approx(2 / 3)


@pytest.mark.parametrize("shape", [(1,), (2,), (5,), (8, 8, 1), (6, 5, 3)])
def test_a_trajectory_is_a_looping_gif_with_a_frame_for_each_state(shape):
    dataset = Dataset("d", np.clip(normal(30, *shape, seed=1), -1, 1))
    sigmas = np.array([80.0, 1.0, 0.0])
    frames = dataset.x[:4] + sigmas.reshape(3, 1, *[1] * len(shape)) * normal(4, *shape)
    gif = Image.open(io.BytesIO(figures.trajectory_gif(frames, dataset, sigmas)))
    assert gif.format == "GIF"
    assert gif.n_frames == 3
    assert gif.info["loop"] == 0


def test_the_last_image_frame_is_the_grid_of_samples():
    dataset = Dataset("d", np.clip(normal(30, 8, 8, 1), -1, 1))
    frames = np.stack([50 * normal(4, 8, 8, 1, seed=2), dataset.x[:4]])
    gif = Image.open(io.BytesIO(figures.trajectory_gif(frames, dataset, np.array([50.0, 0.0]))))
    gif.seek(1)
    grid = figures.image_grid(dataset.x[:4], side=400)
    shown = np.asarray(gif.convert("RGB"))[-grid.shape[0] :]
    assert np.abs(shown.astype(int) - grid).max() <= 1


def test_a_last_frame_that_is_still_noisy_is_shrunk_and_says_so(monkeypatch):
    dataset = Dataset("d", np.clip(normal(300, 8, 8, 1), -1, 1))
    sigmas, seen = np.array([50.0, 2.0]), []
    frames = sigmas[:, None, None, None, None] * normal(2, 4, 8, 8, 1, seed=2)
    monkeypatch.setattr(
        trajectory, "captioned", lambda grid, caption: seen.append((grid, caption)) or grid
    )
    figures.trajectory_gif(frames, dataset, sigmas)
    assert [caption for _, caption in seen] == ["σ = 50", "σ = 2"]
    (grid, _), raw = seen[1], figures.image_grid(frames[1], side=400)
    assert np.mean((grid == 0) | (grid == 255)) < np.mean((raw == 0) | (raw == 255)) / 2


def test_a_trajectory_shows_as_many_images_as_asked():
    dataset = Dataset("d", normal(30, 8, 8, 1))
    frames = normal(2, 64, 8, 8, 1)
    sizes = {}
    for count in (9, 49, 64):
        gif = figures.trajectory_gif(frames, dataset, np.array([1.0, 0.0]), max_images=count)
        sizes[count] = Image.open(io.BytesIO(gif)).size[0]
        assert sizes[count] == figures.image_grid(frames[0, :count], side=400).shape[1]
    assert len(set(sizes.values())) == 3


def test_figures_leave_pyplot_alone():
    import subprocess
    import sys

    code = (
        "import numpy as np, sys; from gdiff import figures; "
        "figures.scatter(np.zeros((3, 2)), np.ones((3, 2))); "
        "sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def curve(*columns, rows=5):
    sigma = np.geomspace(80, 0.01, rows)
    # Lines that do not cover each other.
    factors = {name: 3.0**i for i, name in enumerate(columns)} | {"sigma": 1.0}
    return [{name: f * level for name, f in factors.items()} for level in sigma.tolist()]


ERRORS = ("relative_error_median", "relative_error_max", "effective_sample_size", "rows_99")


def test_the_plot_of_a_score_shows_its_errors_and_as_many_bounds_as_it_has():
    plain = pixels(figures.score_error(curve(*ERRORS), 1000))
    bounds = ("error_bound_median", "likely_bound_median", "subset_size")
    full = pixels(figures.score_error(curve(*ERRORS, *bounds), 1000))
    assert near(plain, points.SAMPLES).sum() > 500
    assert near(plain, "#1971c2").sum() == 0
    assert near(full, "#1971c2").sum() > 500
    assert min(np.concatenate([plain[:3].ravel(), plain[-3:].ravel()])) == 255


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value, rows", [(0.0, 1), (np.nan, 1), (np.inf, 4)])
def test_errors_that_have_no_place_on_a_logarithmic_axis_are_left_out(value, rows):
    nothing = dict.fromkeys(ERRORS[:2], value) | {"subset_size": 0.0}
    broken = [row | nothing for row in curve(*ERRORS, rows=rows)]
    assert pixels(figures.score_error(broken, 2)).std() > 10
