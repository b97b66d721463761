"""The closed form for Gaussian data: against an oracle, known tables, and samples."""

import json
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from sampler.methods import METHODS, unclipped
from sampler.reference import gaussian_denoiser, gaussian_law, run

from gdiff.budget.forecast import GaussianForecast
from gdiff.budget.gaussian import divergence, frechet, outputs, sliced_w2
from gdiff.budget.spectrum import Spectrum
from gdiff.dataset import Dataset
from gdiff.errors import UserError
from gdiff.prior.gaussian import Gaussian
from gdiff.prior.ppca import PPCA
from gdiff.prior.standard import Standard
from gdiff.process.vp import VPLinear
from gdiff.sampler.methods.ancestral import Ancestral
from gdiff.sampler.methods.ddim import DDIM
from gdiff.sampler.methods.li_cai import LiCai
from gdiff.sampler.traced import Traced, bare
from gdiff.schedule.compare import compare
from gdiff.schedule.las import LAS
from gdiff.schedule.programme import smooth

GRID = np.geomspace(20, 0.05, 7)
ENDS = (80.0, 0.002)


def spectrum(variance=(4.0, 0.3, 1e-4), prior=None, shift=None, count=None):
    variance = np.array(variance)
    prior = variance if prior is None else np.array(prior)
    shift = np.zeros(len(variance)) if shift is None else np.array(shift)
    count = np.ones(len(variance)) if count is None else np.array(count)
    return Spectrum(variance, count, prior, shift)


@pytest.fixture(scope="module")
def data():
    """Spectra of images, measured once."""
    path = Path(__file__).parents[1] / "data" / "spectra.json"
    return {
        name: spectrum(each["variance"], count=each["count"])
        for name, each in json.loads(path.read_text()).items()
    }


@pytest.mark.parametrize("name", METHODS)
def test_outputs_have_the_law_that_each_direction_has_alone(name):
    steps = unclipped(METHODS[name]).table(GRID)
    found = outputs(spectrum(), steps, GRID[0])
    for variance, its in zip(spectrum().variance, found.variance, strict=True):
        assert its == pytest.approx(gaussian_law(steps, 0.0, variance)[1], rel=1e-9)


def test_another_prior_and_another_mean_are_carried_through():
    given = spectrum(prior=(1.0, 1.0, 1.0), shift=(1.0, 4.0, 0.0))
    steps = DDIM().table(GRID)
    law = outputs(given, steps, GRID[0])
    gain = [run(steps, gaussian_denoiser(0.0, v), np.ones((1, 1)))[0, 0] for v in given.variance]
    assert law.gain == pytest.approx(gain)
    assert law.variance == pytest.approx(np.array(gain) ** 2 * (1 + GRID[0] ** 2))
    roots = np.sqrt(law.variance) - np.sqrt(given.variance)
    assert frechet(given, law) == pytest.approx(roots @ roots + given.shift @ law.gain**2)


def test_a_clipped_part_is_shortened_by_the_mean_square_lengths():
    """In many dimensions: samples of 400 equal directions, and the law of one of them."""
    steps = LiCai(clip=0.2).table(GRID[:4])
    rng, dim = np.random.default_rng(0), 400
    z = np.sqrt(0.3 + GRID[0] ** 2) * rng.standard_normal((300, dim))
    noise = rng.standard_normal((steps.count, 1, 300, dim))
    samples = run(steps, gaussian_denoiser(0.0, 0.3), z, noise)
    many = Spectrum(*map(np.array, ([0.3], [dim], [0.3], [0.0])))
    assert outputs(many, steps, GRID[0]).variance == pytest.approx(samples.var(), rel=0.02)
    free = replace(steps, clip=None)
    assert outputs(many, free, GRID[0]).variance != pytest.approx(samples.var(), rel=0.1)


FEW = ("ddim", "midpoint", "li_cai", "accelerated_ode")


@pytest.mark.parametrize(
    "name", [n if n in FEW else pytest.param(n, marks=pytest.mark.slow) for n in METHODS]
)
def test_tables_are_differentiated_as_they_are(name):
    """One program for each: the values of the table, and a slope by differences."""
    method, weights = METHODS[name], np.random.default_rng(0).standard_normal(7)

    def table(levels):
        steps = bare(method.coefficients(Traced(levels), to_zero=True))
        return steps.a, steps.b, steps.c

    def plain(levels):
        steps = method.coefficients(levels, to_zero=True)
        return sum(np.sin(x).sum() for x in (steps.a, steps.b, steps.c))

    with jax.enable_x64(True):
        found, slope = jax.jvp(table, (GRID,), (GRID * weights,))
        total = sum(np.sum(np.cos(x) * dx) for x, dx in zip(found, slope, strict=True))
    expected = method.coefficients(GRID, to_zero=True)
    for x, y in zip(found, (expected.a, expected.b, expected.c), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-9, atol=1e-12)
    if name in ("midpoint", "li_cai_back"):  # what depends on the first level has a kink there
        return
    moved = [plain(GRID * (1 + 1e-6 * sign * weights)) for sign in (1, -1)]
    assert total == pytest.approx((moved[0] - moved[1]) / 2e-6, rel=1e-4, abs=1e-6)


# Squared Fréchet distances of Gaussian data with these spectra, by steps: density over the measures
# g = 0, .5 and 1, and usual grids.
TABLE = {
    ("mnist", DDIM): {
        5: {0: 168, 0.5: 69.7, 1: 23.6, "cosine": 32.5, "vp": 30.0, "edm": 41.6, "logsnr": 50.0},
        10: {0: 123, 0.5: 21.2, 1: 5.61, "cosine": 8.21, "vp": 8.70, "edm": 11.6, "logsnr": 13.7},
        20: {0: 74.8, 0.5: 5.96, 1: 1.39, "cosine": 2.07, "vp": 2.51, "edm": 2.99, "logsnr": 3.57},
    },
    ("cifar10", DDIM): {
        5: {0: 572, 0.5: 298, 1: 93.2, "cosine": 222, "vp": 96.6, "edm": 126, "logsnr": 176},
        10: {0: 476, 0.5: 110, 1: 22.8, "cosine": 96.0, "vp": 26.4, "edm": 33.1, "logsnr": 48.2},
        20: {0: 357, 0.5: 32.5, 1: 5.73, "cosine": 32.1, "vp": 7.25, "edm": 8.43, "logsnr": 12.5},
    },
    ("mnist", Ancestral): {
        10: {0: 129, 0.5: 26.6, 1: 12.5, "cosine": 11.8, "vp": 16.1, "edm": 27.5, "logsnr": 30.5}
    },
    ("cifar10", Ancestral): {
        10: {0: 503, 0.5: 162, 1: 53.5, "cosine": 126, "vp": 55.9, "edm": 83.7, "logsnr": 109}
    },
}


@pytest.mark.parametrize("name, method", TABLE)
def test_the_table_of_grids_is_reproduced(data, name, method):
    given = data[name]
    losses, forecast = given.losses(ENDS), GaussianForecast(given, method())
    for steps, row in TABLE[name, method].items():
        usual = compare(losses, VPLinear(), steps - 1, *ENDS)
        for key, value in row.items():
            nodes = usual[key] if isinstance(key, str) else smooth(losses, *ENDS, steps, key)
            # The photographs' spectrum there is of other rows.
            rel = 0.006 if name == "mnist" else 0.025
            assert forecast.of(np.append(nodes, 0.0)) == pytest.approx(value, rel=rel)
        las = LAS(steps=steps).adapted(losses, VPLinear()).grid(VPLinear())
        assert forecast.of(las) == pytest.approx(row[1], rel=0.01)


def test_fewer_variances_give_the_same_to_a_per_mille(data):
    forecast = GaussianForecast(data["mnist"], DDIM())
    grid = np.append(np.geomspace(*ENDS, 10), 0.0)
    assert forecast.quick(grid) == pytest.approx(forecast.of(grid), rel=2e-3)


def test_sliced_distance_and_divergence_of_one_direction():
    given = Spectrum(*map(np.array, ([2.0], [1], [2.0], [0.5])))
    law = outputs(given, DDIM().table(GRID), GRID[0])
    (gain,), (variance,) = law
    square = (np.sqrt(variance) - np.sqrt(2)) ** 2 + 0.5 * gain**2
    assert sliced_w2(given, law) == pytest.approx(np.sqrt(square))
    ratio = (2 + GRID[-1] ** 2) / variance
    nats = 0.5 * (ratio - 1 - np.log(ratio) + 0.5 * gain**2 / variance)
    assert divergence(given, law, GRID[-1]) == pytest.approx(nats)


def test_a_spectrum_knows_its_prior():
    x = np.random.default_rng(0).normal(size=(200, 5)) * [3, 2, 1, 0.5, 0.1] + [1, 0, 0, 0, 0]
    dataset = Dataset("cloud", x.astype(np.float32), scale=1.0, shift=0.0)
    gaussian, standard, ppca = (
        Spectrum.of(dataset, prior)
        for prior in (Gaussian(), Standard(data_variance=0.25), PPCA(rank=2))
    )
    assert gaussian.prior == pytest.approx(np.linalg.eigvalsh(np.cov(x.T, bias=True))[::-1])
    assert not gaussian.shift.any()
    assert standard.prior.tolist() == [0.25] * 5
    assert standard.shift.sum() == pytest.approx(np.sum(x.mean(0) ** 2), rel=1e-5)
    assert ppca.prior[2:] == pytest.approx(gaussian.prior[2:].mean())


@pytest.mark.parametrize(
    "values, message",
    [
        (np.ones((2, 2)), "is a list of variances"),
        (np.array([1.0, -1.0]), "not negative"),
        (np.zeros(3), "not all zero"),
        (np.array([1.0, np.nan]), "finite"),
    ],
)
def test_what_is_no_spectrum_is_refused_in_one_line(values, message):
    with pytest.raises(UserError, match=message):
        Spectrum.read(values, Standard())


def test_a_corrector_has_no_closed_form():
    with pytest.raises(UserError, match=r"^sampler\.corrector=2 has no closed form"):
        GaussianForecast(spectrum(), DDIM(block_size=2, corrector=2))
