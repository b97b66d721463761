"""What every option of a group promises, whoever adds one."""

from pathlib import Path

import numpy as np
import pytest

from gdiff import config

ROOT = Path(__file__).parents[1]
OPTIONS = {
    group.name: sorted(path.stem for path in group.glob("*.yaml"))
    for group in sorted(config.config_dir().iterdir())
    if group.is_dir() and group.name != "hydra"
}
# What an option does not start without.
NEEDED = {"levels": ("schedule.levels=[40,5,0.5]",)}
GRID = np.array([40.0, 10.0, 3.0, 1.0, 0.3, 0.1, 0.02])


def walk(group):
    return pytest.mark.parametrize(group, OPTIONS[group])


@pytest.fixture(scope="module")
def specs():
    """The specs of the groups sampler, process and schedule, by group and option."""
    with config.composer() as composer:
        yield {
            group: {
                name: getattr(
                    composer.experiment([f"{group}={name}", *NEEDED.get(name, ())]), group
                )
                for name in OPTIONS[group]
            }
            for group in ("sampler", "process", "schedule")
        }


@walk("sampler")
@pytest.mark.parametrize("last", [(), (0.0,)], ids=["", "to zero"])
def test_a_point_that_the_denoiser_returns_stays_where_it_is(specs, sampler, last):
    steps = specs["sampler"][sampler].steps(np.append(GRID, last))
    np.testing.assert_allclose(steps.a.sum(axis=1) + steps.b.sum(axis=1), 1.0, atol=1e-12)
    assert steps.count == len(GRID) + len(last) - 1
    assert np.all(steps.levels > 0)
    assert np.all(np.isfinite(steps.c))
    if last:
        assert (steps.a[-1].any(), steps.c[-1].any()) == (False, False)


@walk("process")
def test_time_and_noise_level_are_each_others_inverse(specs, process):
    process = specs["process"][process]
    low, high = process.time_range
    times = low + (min(high, low + 10) - low) * np.linspace(0.05, 0.9, 40)
    sigma = process.sigma(times)
    assert np.all(np.diff(sigma) > 0)
    np.testing.assert_allclose(process.time(sigma), times, rtol=1e-6)


@walk("schedule")
def test_a_grid_falls_from_its_first_level_to_zero(specs, schedule):
    schedule, process = specs["schedule"][schedule], specs["process"]["vp"]
    grid = schedule.grid(process)
    assert np.all(np.diff(grid) < 0)
    assert grid[-1] == 0
    assert schedule.first_level(process) == grid[0]
    assert schedule.finds_steps or len(grid) == schedule.steps + 1
    shorter = schedule.reaching(2.0, process).grid(process)
    assert grid[0] >= shorter[0] >= 2.0 * (1 - 1e-12)
    assert np.all(np.diff(shorter) < 0)


@pytest.mark.parametrize("group", OPTIONS)
def test_the_readme_names_every_option(group):
    text = (ROOT / "README.md").read_text()
    (row,) = (row for row in text.splitlines() if row.startswith(f"| `{group}` |"))
    named = set(row.split("|")[2].replace("·", " ").split())
    assert named == {f"`{name}`" for name in OPTIONS[group]}
