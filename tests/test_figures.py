import importlib
import io
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from gdiff import figures
from gdiff.dataset.base import Dataset
from gdiff.figures import images, points, trajectory
from gdiff.figures.trajectory import telling
from gdiff.process.vp import VPLinear
from gdiff.schedule.edm import EDM


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


@pytest.mark.parametrize("count, columns, blocks", [(1, 1, 1), (3, 3, 1), (30, 8, 4)])
def test_images_stand_above_their_partners(count, columns, blocks):
    upper, lower = (np.clip(normal(count, 8, 8, 1, seed=k), -1, 1) for k in (0, 1))
    grid = images.paired_grid(upper, lower)
    factor = ((grid.shape[1] - 2) // columns - 2) // 8
    tile, block = 8 * factor + 2, 2 * (8 * factor + 2) + 2 + 12
    assert grid.shape == (blocks * block - 12, 2 + columns * tile, 3)
    for k in range(count):
        top, left = 2 + k // columns * block, 2 + k % columns * tile
        for part, start in ((upper, top), (lower, top + tile)):
            found = grid[start : start + tile - 2 : factor, left : left + tile - 2 : factor, 0]
            np.testing.assert_array_equal(found, np.round(127.5 * (part[k, ..., 0] + 1)))


@pytest.mark.parametrize("value", [-1.0, 1.0])
def test_white_and_black_images_can_be_told_from_what_is_around_them(value):
    grid = figures.image_grid(np.full((3, 8, 8, 1), value, np.float32))[..., 0].astype(int)
    side = (grid.shape[0] - 2) // 2
    for top, left in ((0, 0), (0, side), (side, 0)):
        tile = grid[top : top + side + 2, left : left + side + 2]
        edges = np.concatenate([tile[:2].ravel(), tile[-2:].ravel(), tile[:, :2].ravel()])
        assert np.abs(edges - tile[side // 2, side // 2]).min() >= 40
    assert (grid[side + 2 :, side + 2 :] == 255).all()  # there is no fourth


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


def test_a_picture_of_wide_vectors_takes_no_matrix_of_their_width():
    wide, samples = Dataset("wide", normal(12, 20_000)), normal(3, 20_000, seed=1)
    tracemalloc.start()
    assert figures.picture(samples, wide)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20_000**2 / 4


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
        "import numpy as np, sys; from gdiff import figures; from gdiff.dataset import Dataset; "
        "figures.picture(np.zeros((3, 2)), Dataset('d', np.ones((3, 2)))); "
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


def marks(axes):
    """Where the marks of a budget stand."""
    return [float(bar[0].get_xdata()[0]) for bar in axes.containers]


def white_border(image, width=3):
    sides = image[:width], image[-width:], image[:, :width], image[:, -width:]
    return min(side.min() for side in sides) == 255


def drawn(monkeypatch, figure, *arguments):
    """What a figure of lines or bars holds when it becomes a picture, and that picture."""
    module, seen = importlib.import_module(f"gdiff.figures.{figure.removesuffix('_figure')}"), []
    keep = module.encoded
    monkeypatch.setattr(module, "encoded", lambda it, kind: seen.append(it) or keep(it, kind))
    picture = pixels(getattr(figures, figure)(*arguments))
    return seen[0], picture


def written(axes):
    return [text.get_text() for text in axes.texts]


def schedule_arguments(names=("las", "logsnr", "edm"), levels=21, chosen="las"):
    sigma, steps = np.geomspace(80, 0.05, levels), np.array([2, 10, 100, 1000])
    grids = {name: np.append(np.geomspace(80 - i, 0.05, 9), 0) for i, name in enumerate(names)}
    curves = {name: (steps, (i + 1) * 10.0 / steps) for i, name in enumerate(names)}
    loss = sigma**2 / (1 + sigma**2)
    return [sigma, loss, 0.1 * loss, grids, curves, (steps, 50.0 / steps), chosen]


@pytest.mark.filterwarnings("error")
def test_the_plot_of_schedules_has_a_row_and_a_line_for_each_grid(monkeypatch):
    names = [f"schedule{i}" for i in range(10)]
    figure, picture = drawn(monkeypatch, "schedule_figure", *schedule_arguments(names, chosen="a"))
    loss, rows, nats = figure.axes
    assert [label.get_text() for label in rows.get_yticklabels()] == names
    assert [len(line.get_xdata()) for line in rows.lines] == [9] * 10
    assert [line.get_label() for line in nats.lines] == [*names, "order by entropy, H²/K"]
    looks = {(line.get_color(), str(line.get_linestyle())) for line in nats.lines}
    assert len(looks) == 11
    assert rows.get_xlim() == loss.get_xlim()
    assert [axes.get_xscale() for axes in figure.axes] == ["log"] * 3
    assert white_border(picture)


def test_the_schedule_of_the_run_is_drawn_heavier_than_the_others(monkeypatch):
    figure, _ = drawn(monkeypatch, "schedule_figure", *schedule_arguments(chosen="edm"))
    for axes in figure.axes[1:]:
        widths = [line.get_linewidth() for line in axes.lines[:3]]
        assert widths[2] > 2 * max(widths[:2])


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("losses", ["some", "all"])
def test_losses_of_zero_are_left_out_and_counted(monkeypatch, losses):
    arguments = schedule_arguments()
    arguments[1][-5 if losses == "some" else 0 :] = 0
    arguments[1][-1] *= 1e-300
    arguments[5] = None
    figure, picture = drawn(monkeypatch, "schedule_figure", *arguments)
    count = 5 if losses == "some" else 21
    assert written(figure.axes[0]) == [f"{count} of 21 losses are zero, or nearly"]
    assert np.isnan(figure.axes[0].lines[0].get_ydata()).sum() == count
    assert white_border(picture)


TIMES = np.linspace(0.1, 1, 10)


def horizon_arguments(**kl):
    kl = {name: (np.asarray(nats), np.full(10, 0.01)) for name, nats in kl.items()}
    return [5 * TIMES**2, TIMES, "vp", kl, 0.1, {}]


@pytest.mark.filterwarnings("error")
def test_the_plot_of_horizons_marks_the_shortest_time_of_each_prior(monkeypatch):
    nats = 100 * np.exp(-9 * TIMES)
    arguments = horizon_arguments(standard=nats + 1, gaussian=nats)
    arguments[-1] = {"gaussian": 0.8}
    figure, picture = drawn(monkeypatch, "horizon_figure", *arguments)
    (axes,) = figure.axes
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["standard", "gaussian, ★ T = 0.8"]
    stars = [line.get_xydata().tolist() for line in axes.lines if line.get_marker() == "*"]
    assert stars == [[[0.8, 0.1]]]
    assert written(axes) == ["0.1 nats"]
    assert axes.get_xscale() == "linear"
    assert white_border(picture)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [0.0, -1e-9, -5.0])
def test_divergences_of_zero_are_triangles_on_the_axis(monkeypatch, value):
    nats = np.append(np.geomspace(10, 1, 7), [value, np.nan, np.inf])
    figure, _ = drawn(monkeypatch, "horizon_figure", *horizon_arguments(empirical=nats))
    (axes,) = figure.axes
    (triangles,) = [line for line in axes.lines if line.get_marker() == "v"]
    assert triangles.get_xydata().tolist() == [[TIMES[7], 0.001]]
    assert axes.get_ylim()[0] == 0.001
    assert "▽ below 0.001" in written(axes)


def test_times_that_span_decades_are_logarithmic(monkeypatch):
    sigma = np.geomspace(0.002, 80, 10)
    arguments = [sigma, sigma, "ve", {"standard": (1 / sigma, 0 * sigma)}, 1e-3, {}]
    figure, picture = drawn(monkeypatch, "horizon_figure", *arguments)
    assert figure.axes[0].get_xscale() == "log"
    assert white_border(picture)


TERMS = [
    ("initialization", 7.52, 0.12, "prior=gaussian"),
    ("discretization", 1234.5, None, ""),
    ("score", 0.0, None, "zero: the full scan is exact"),
    ("picard", None, None, "does not apply: " + "one step after another, " * 9),
    ("total", 1242.02, 0.12, ""),
]


@pytest.mark.filterwarnings("error")
def test_the_plot_of_a_budget_has_a_bar_or_a_statement_for_each_term(monkeypatch):
    figure, picture = drawn(monkeypatch, "budget_figure", TERMS, 10)
    (axes,) = figure.axes
    assert marks(axes) == pytest.approx([7.52, 1234.5, 1242.02])
    texts = written(axes)
    assert TERMS[2][3] in texts
    assert TERMS[0][3] not in texts
    assert sum(text.startswith("does not apply") and text.endswith("…") for text in texts) == 1
    for numbers in (["7.52 ± 0.12", "0.752"], ["0", "0"], ["–", "–"], ["1,242 ± 0.12", "124"]):
        assert numbers[0] in texts
        assert texts[texts.index(numbers[0]) + 1] == numbers[1]
    assert white_border(picture)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("nats", [None, 0.0, -0.01, 1e-6, 1e6])
def test_a_budget_of_any_size_is_a_readable_picture(monkeypatch, nats):
    terms = [("score", nats, 0.01, ""), ("total", nats, 0.01, "not known")]
    figure, picture = drawn(monkeypatch, "budget_figure", terms, 3072)
    is_shown = nats is not None and nats > 0
    assert marks(figure.axes[0]) == ([nats] * 2 if is_shown else [])
    assert white_border(picture)


@pytest.mark.parametrize("kind, start", [("pdf", b"%PDF"), ("svg", b"<?xml")])
def test_plots_come_in_the_formats_of_papers_with_a_title(kind, start):
    arguments = (
        (figures.budget_figure, (TERMS, 10)),
        (figures.schedule_figure, schedule_arguments()),
        (figures.horizon_figure, horizon_arguments(gmm=9 - 9 * TIMES)),
        (figures.score_error, (curve(*ERRORS), 100)),
        (figures.picture, (normal(9, 2), Dataset("d", normal(30, 2, seed=1)))),
    )
    for draw, those in arguments:
        content = draw(*those, title="Wiener score on moons", kind=kind)
        assert content.startswith(start)
        assert kind != "svg" or b"Wiener score on moons" in content


def test_a_moving_picture_shows_where_things_change():
    sigmas = EDM(steps=200).grid(VPLinear())
    places = telling(sigmas, 0.5, 32)
    assert places[0] == 0
    assert places[-1] == 200
    assert 25 <= len(places) <= 32
    # Noise that hides the data, or that cannot be seen, takes few frames.
    assert np.mean((sigmas[places] > 0.05) & (sigmas[places] < 5)) > 0.8
    assert telling(np.array([80.0, 0.0]), 1.0, 32) == [0, 1]


def test_a_moving_picture_of_noise_is_not_too_large(monkeypatch):
    monkeypatch.setattr("gdiff.figures.trajectory._MOST_BYTES", 300_000)
    images = Dataset("d", normal(8, 16, 16, 3))
    sigmas = np.append(np.geomspace(10, 0.1, 31), 0.0)
    content = figures.trajectory_gif(normal(32, 8, 16, 16, 3), images, sigmas)
    with Image.open(io.BytesIO(content)) as gif:
        assert 8 <= gif.n_frames < 32
