import numpy as np
import pytest

from gdiff.errors import UserError
from gdiff.process.ddpm import DDPM
from gdiff.process.ou import OU
from gdiff.schedule.ddpm import DDPMIndices

TABLE = DDPM()


def indices(schedule, process=TABLE):
    """DDPM indices of the positive part of a grid."""
    grid = schedule.grid(process)
    positive = grid[grid > 0]
    index = np.round(TABLE.time(positive)).astype(int)
    assert TABLE.sigma(index) == pytest.approx(positive, rel=1e-12)
    return index.tolist()


def test_ten_leading_steps_are_every_hundredth_index_and_then_zero():
    schedule = DDPMIndices(steps=10, spacing="leading", process=TABLE)
    assert indices(schedule, OU()) == list(range(900, -1, -100))
    assert schedule.grid(OU())[-1] == 0


def test_ten_trailing_steps_start_at_the_last_index():
    assert indices(DDPMIndices(steps=10, spacing="trailing")) == list(range(999, 0, -100))


def test_trailing_steps_are_rounded():
    assert indices(DDPMIndices(steps=3, spacing="trailing")) == [999, 666, 332]


def test_quadratic_steps_are_squares_up_to_the_last_index():
    schedule = DDPMIndices(steps=4, spacing="quadratic")
    assert indices(schedule) == [999, 444, 111, 0]


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_all_indices_can_be_used_and_no_more(spacing):
    assert indices(DDPMIndices(steps=1000, spacing=spacing)) == list(range(999, -1, -1))
    with pytest.raises(UserError, match=r"^schedule\.steps=1001 .*$"):
        DDPMIndices(steps=1001, spacing=spacing).grid(TABLE)


@pytest.mark.parametrize("spacing", ["leading", "trailing", "quadratic"])
@pytest.mark.parametrize("steps", [1000, 2000, 5000])
def test_repeated_indices_are_refused(spacing, steps):
    with pytest.raises(UserError, match=rf"^schedule\.steps={steps} .*$"):
        DDPMIndices(steps=steps, spacing=spacing, sigma_max=20.0).grid(TABLE)


@pytest.mark.parametrize("spacing", ["leading", "trailing", "quadratic"])
def test_a_single_node_is_the_noisiest(spacing):
    assert indices(DDPMIndices(steps=1, spacing=spacing)) == [999]


def test_without_zero_the_last_node_is_the_end():
    schedule = DDPMIndices(steps=9, to_zero=False)
    assert indices(schedule) == list(range(900, -1, -100))
    assert len(schedule.grid(TABLE)) == 10


def test_the_ends_restrict_the_indices():
    low, high = TABLE.sigma([99.5, 799.5])
    chosen = indices(DDPMIndices(steps=70, sigma_min=low, sigma_max=high))
    assert chosen == list(range(790, 99, -10))


def test_ends_that_leave_nothing_are_refused_in_one_line():
    with pytest.raises(UserError, match=r"^schedule\.sigma_min=200.* leave no index .*$"):
        DDPMIndices(sigma_min=200.0).grid(TABLE)


def test_the_table_of_the_run_s_process_is_used_when_none_is_given():
    short = DDPM(timesteps=50)
    assert DDPMIndices(steps=50).grid(short)[:-1].tolist() == short.sigma(range(50))[::-1].tolist()
    with pytest.raises(UserError, match=r"^schedule\.process=null needs process=ddpm.*$"):
        DDPMIndices().grid(OU())


def test_unknown_options_are_refused_in_one_line():
    with pytest.raises(UserError, match=r"^spacing='linear' is not one of.*$"):
        DDPMIndices(spacing="linear")
    with pytest.raises(UserError, match=r"^process=OU.* .*$"):
        DDPMIndices(process=OU())


@pytest.mark.parametrize(
    "spacing, start, last",
    [("leading", 300, 339), ("trailing", 300, 300), ("quadratic", 300, 300), ("leading", 950, 999)],
)
def test_a_grid_reaches_a_level_with_the_fewest_indices(spacing, start, last):
    schedule = DDPMIndices(steps=10, spacing=spacing, horizon="auto")
    sigma = float(TABLE.sigma(start - 0.5))
    found = schedule.reaching(sigma, TABLE)
    assert found == DDPMIndices(steps=10, spacing=spacing, sigma_max=float(TABLE.sigma(last)))
    assert last == 999 or found.grid(TABLE)[0] >= sigma


def test_the_least_level_is_reached_with_as_many_indices_as_steps():
    found = DDPMIndices(steps=10, spacing="trailing").reaching(1e-4, TABLE)
    assert indices(found) == list(range(9, -1, -1))


@pytest.mark.parametrize(
    "spacing, steps, is_doubtful",
    [
        *[("leading", steps, False) for steps in (1, 10, 50, 100, 250, 500, 999, 1000)],
        *[("leading", steps, True) for steps in (2, 334, 501, 700)],
        *[(spacing, 501, False) for spacing in ("trailing", "quadratic")],
    ],
)
def test_a_start_far_below_the_noisiest_index_is_doubtful(spacing, steps, is_doubtful):
    schedule = DDPMIndices(steps=steps, spacing=spacing)
    assert (schedule.doubt(DDPM()) is not None) == is_doubtful
