"""What holds for the coefficients of every method."""

from dataclasses import dataclass
from decimal import Decimal, localcontext

import jax
import numpy as np
import pytest

from gdiff.errors import UserError
from gdiff.process.ou import OU
from gdiff.sampler.base import SamplerSpec
from gdiff.sampler.steps import Steps
from gdiff.schedule.edm import EDM
from gdiff.schedule.logsnr import LogSNR

from . import textbook
from .methods import METHODS, STAGES, unclipped
from .reference import gaussian_law, run

GRIDS = {
    "edm": EDM(steps=32, to_zero=False).grid(OU()),
    "one_step": np.array([3.0, 0.5]),
    "ends_far_apart": np.array([1e4, 10.0, 9.99, 1e-4]),
    "very_fine": LogSNR(steps=100_000, to_zero=False).grid(OU()),
}


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_shapes_and_types(name, grid):
    steps = METHODS[name].table(grid)
    rows = STAGES[name] * (len(grid) - 1)
    assert steps.sigma.shape == steps.step.shape == (rows,)
    tables = [steps.a, steps.b, steps.c, *(steps.clip or ())]
    tables += [] if steps.before is None else [steps.before]
    assert all(x.shape[0] == rows and x.ndim == 2 for x in tables)
    assert all(x.dtype == np.float64 and np.all(np.isfinite(x)) for x in [steps.sigma, *tables])
    assert steps.a.shape[1] >= 1 <= steps.b.shape[1]
    if steps.before is not None:
        assert steps.before.shape == steps.c.shape
    assert steps.step.tolist() == np.repeat(np.arange(len(grid) - 1), STAGES[name]).tolist()


@pytest.mark.parametrize("name", METHODS)
def test_the_first_step_looks_back_on_nothing(name):
    steps = METHODS[name].table(GRIDS["edm"])
    for row in range(STAGES[name]):
        assert not np.any(steps.a[row, row + 1 :])
        assert not np.any(steps.b[row, row + 1 :])


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_evaluations_are_within_the_grid_and_counted(name, grid):
    if METHODS[name].is_multistep and len(grid) == 2:
        pytest.skip("nothing to look back on")
    steps = METHODS[name].steps(grid)
    assert steps.count == len(grid) - 1
    assert steps.evaluations == STAGES[name] * steps.count
    assert steps.sigma[0] == pytest.approx(grid[0], rel=1e-15)
    assert grid[-1] <= steps.sigma.min() <= steps.sigma.max() <= grid[0] * (1 + 1e-12)
    after = np.searchsorted(-steps.levels, -grid[1:-1] * (1 + 1e-8))
    assert np.allclose(steps.levels[after], grid[1:-1], rtol=2e-8) or name == "midpoint"
    if name not in ("midpoint", "heun", "li_cai", "li_cai_back"):
        assert steps.sigma.tolist() == grid[:-1].tolist()
    # with a step onto zero, which takes one
    assert METHODS[name].steps(np.append(grid, 0.0)).evaluations == steps.evaluations + 1


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_weights_add_up_to_one(method, grid):
    """So that a shift of the data shifts the samples."""
    steps = method.table(grid)
    rounding = 2e-15 * (1 + np.abs(steps.a).max(1) + np.abs(steps.b).max(1))
    assert np.all(np.abs(steps.a.sum(1) + steps.b.sum(1) - 1) <= rounding)
    if steps.clip is not None:
        for a, b in (steps.clip[:2], steps.clip[2:]):
            assert np.all(np.abs(a.sum(1) + b.sum(1)) <= 4e-15 * np.abs(b).max(1))


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_a_step_onto_zero_returns_the_mean(method):
    for grid in (EDM(steps=4).grid(OU()), np.array([2.0, 0.5, 0.0])):
        steps = method.steps(grid)
        assert (steps.sigma[-1], steps.step[-1]) == (grid[-2], len(grid) - 2)
        assert (steps.a[-1].sum(), steps.b[-1, 0], steps.b[-1].sum()) == (0, 1, 1)
        assert not np.any(steps.c[-1])
        z = np.ones((3, 2))
        noise = np.ones((len(grid) - 1, 2, 3, 2))
        assert np.all(run(steps, lambda z, _: np.full_like(z, 0.25), z, noise) == 0.25)


@pytest.mark.parametrize(
    "method", [m for m in METHODS.values() if not m.is_multistep], ids=lambda m: type(m).__name__
)
def test_a_single_step_onto_zero_is_the_denoiser(method):
    steps = method.steps(np.array([2.0, 0.0]))
    assert (steps.count, steps.evaluations, steps.levels.tolist()) == (1, 1, [2.0])
    assert run(steps, lambda z, _: z / 3, np.ones((1, 1))) == 1 / 3


@pytest.mark.parametrize("name", ["dpmpp_2m", "accelerated_ode"])
def test_a_multistep_method_with_one_step_is_refused_in_one_line(name):
    for grid in ([2.0, 0.0], [2.0, 1.0]):
        with pytest.raises(UserError, match=r"^schedule\.steps=1 gives a multistep .* at least 2"):
            METHODS[name].steps(np.array(grid))


def test_a_method_that_asks_above_the_first_level_is_refused_in_one_line():
    class Above(SamplerSpec):
        def table(self, sigma):
            one = np.ones(len(sigma) - 1)
            return Steps(sigma=2 * sigma[:-1], a=0 * one, b=one)

    with pytest.raises(UserError, match=r"^this sampler evaluates .* at sigma = 6, above .* 3 of"):
        Above().steps(np.array([3.0, 2.0, 1.0, 0.0]))


def test_a_method_of_ones_own_is_its_parameters_and_a_table():
    @dataclass(frozen=True)
    class Mine(SamplerSpec):
        power: float

        def table(self, sigma):
            a = (sigma[1:] / sigma[:-1]) ** self.power
            return Steps(sigma=sigma[:-1], a=a, b=1 - a)

    grid = np.array([3.0, 2.0, 1.0, 0.0])
    mine = Mine(1.0, block_size=2)
    assert mine.blocks(grid).ends == (2, 3)
    assert np.array_equal(mine.steps(grid).a, METHODS["ddim"].steps(grid).a)
    with pytest.raises(UserError, match=r"^block_size=0 must be at least 1"):
        Mine(2.0, block_size=0)


def _decimal_table(name, sigma, s):
    """a, b, c of one step without history, from the plain formulas in 50 digits."""
    h, one = sigma**2 - s**2, Decimal(1)
    if name.startswith("ddim"):
        eta = {"ddim": Decimal(0), "ddim_half": Decimal("0.5"), "ddim_one": one}[name]
        c = eta * s / sigma * h.sqrt()
        a = (s**2 - c**2).sqrt() / sigma
    elif name.startswith("exponential"):
        k = 2 * (1 + sigma**2) * (1 - ((1 + s**2) / (1 + sigma**2)).sqrt())
        a, c = 1 - k / sigma**2, h.sqrt()
        if name == "exponential_ode":
            a, c = 1 - k / sigma**2 / 2, Decimal(0)
    else:
        a = s**2 / sigma**2
        c = {
            "ancestral": s / sigma * h.sqrt(),
            "ddpm": (h * (1 + s**2) / (1 + sigma**2)).sqrt(),
            "euler_maruyama": h.sqrt(),
        }[name]
    return a, 1 - a, c


@pytest.mark.parametrize("name", list(METHODS)[:8])
def test_coefficients_of_a_very_fine_grid_are_exact_to_rounding(name):
    grid = GRIDS["very_fine"]
    steps = METHODS[name].table(grid)
    with localcontext() as context:
        context.prec = 50
        for k in range(0, len(grid) - 1, 997):
            a, b, c = _decimal_table(name, Decimal(grid[k]), Decimal(grid[k + 1]))
            assert steps.a[k, 0] == pytest.approx(float(a), rel=4e-15, abs=0)
            assert steps.b[k, 0] == pytest.approx(float(b), rel=4e-15, abs=0)
            assert steps.c[k, 0] == pytest.approx(float(c), rel=4e-15, abs=0)


def test_multistep_coefficients_of_a_very_fine_grid_are_exact_to_rounding():
    grid = GRIDS["very_fine"]
    steps = METHODS["dpmpp_2m"].table(grid)
    with localcontext() as context:
        context.prec = 50
        for k in range(1, len(grid) - 1, 997):
            before, sigma, s = (Decimal(level) for level in grid[k - 1 : k + 2])
            w = (sigma / s).ln() / (before / sigma).ln() / 2
            b = 1 - s / sigma
            assert steps.a[k, 0] == pytest.approx(float(s / sigma), rel=1e-15, abs=0)
            assert steps.b[k] == pytest.approx([float(b + b * w), float(-b * w)], rel=4e-15, abs=0)


@pytest.mark.parametrize("name", textbook.STEPS)
def test_a_step_of_a_very_fine_grid_is_exact_to_rounding(name):
    """The textbook's step on decimal unit vectors gives the weights of z, the outputs and ξ."""
    grid, stages = GRIDS["very_fine"], STAGES[name]
    steps = unclipped(METHODS[name]).table(grid)
    units = np.eye(5).reshape(5, 1, 5)  # z, the outputs of two stages, two noises
    options = {"clip": None} if name.startswith("li_cai") else {}
    with localcontext() as context:
        context.prec = 50
        exactly = np.vectorize(Decimal, otypes=[object])
        for k in range(1, len(grid) - 1, 4999):
            row = jax.tree.map(lambda x, k=k: x[k * stages : (k + 1) * stages], steps)
            outputs = iter(units[1:3])
            got = run(
                Steps(row.sigma, row.a, row.b, row.c, before=row.before, step=row.step - k),
                lambda z, sigma, outputs=outputs: next(outputs),
                units[0],
                units[None, 3:],
            )
            outputs = iter(exactly(units[1:3]))
            expected = textbook.STEPS[name](
                lambda z, sigma, outputs=outputs: next(outputs),
                exactly(units[0]),
                *map(Decimal, (grid[k], grid[k + 1])),
                exactly(units[3:]),
                Decimal(grid[0]),
                **options,
            )
            assert got == pytest.approx(expected.astype(float), rel=1e-11, abs=4e-15)


def test_the_accelerated_ode_on_a_very_fine_grid_is_exact_to_rounding():
    grid = GRIDS["very_fine"]
    steps = METHODS["accelerated_ode"].table(grid)
    with localcontext() as context:
        context.prec = 50
        for k in range(1, len(grid) - 1, 4999):
            before, sigma, s = (Decimal(level) for level in grid[k - 1 : k + 2])
            alpha, past = 1 / (1 + sigma**2), 1 / (1 + before**2)
            angle = (sigma - s) / (1 + sigma * s)
            powers = range(1, 15, 2)  # of the arctangent's series
            arctan = sum((-1) ** (n // 2) * angle**n / n for n in powers)
            w = (alpha * (sigma - s) - arctan) / (alpha - past)
            expected = [float(x) for x in ((s + w) / sigma, -w / before)]
            assert steps.a[k] == pytest.approx(expected, rel=1e-11, abs=1e-14)
            expected = [float(x) for x in ((sigma - s - w) / sigma, w / before)]
            assert steps.b[k] == pytest.approx(expected, rel=1e-11, abs=1e-14)


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_a_single_point_of_data_is_reached_from_any_grid(method):
    """The mean stays at the point, and the noise left is of the size of the last levels."""
    for grid in (GRIDS["edm"], GRIDS["very_fine"][::100]):
        mean, variance = gaussian_law(unclipped(method).table(grid), 3.0, 0.0)
        assert mean == pytest.approx(3.0)
        assert 0 < variance < 9 * grid[-2] ** 2
