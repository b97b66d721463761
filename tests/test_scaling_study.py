"""The study of scaling, at small sizes."""

import jax.numpy as jnp
import numpy as np
import pytest
import scaling_study
from sampler import density
from sampler.reference import run
from scipy.integrate import quad

from gdiff import config, rng
from gdiff.process.ou import OU
from gdiff.sampler.drivers.sequential import Engine
from gdiff.sampler.methods.exponential import Exponential

PNG = b"\x89PNG"


@pytest.fixture(scope="module")
def study():
    return scaling_study


@pytest.fixture(scope="module")
def grid(study):
    return study.schedule(3.0, 12).grid(OU())


@pytest.mark.parametrize("measure,power", [("SDE, path", 1), ("SDE, law", 0.5), ("ODE", 0.5)])
def test_steps_one_by_one_grow_with_the_dimension_as_the_theory_says(study, measure, power):
    dims, steps = (4, 16, 64), []
    for dim in dims:
        schedule, error = study.within_budget(measure, dim)
        assert error <= study.MEASURES[measure][2]
        assert dim * study.start_divergence(study.LAW, schedule.sigma_max) == pytest.approx(
            study.START_KL
        )
        steps.append(len(schedule.grid(OU())) - 1)
    assert np.polyfit(np.log(dims), np.log(steps), 1)[0] == pytest.approx(power, abs=0.25)


@pytest.mark.slow
@pytest.mark.parametrize("measure", ["SDE, path", "ODE"])
def test_rounds_in_parallel_grow_less_than_steps(study, measure, monkeypatch):
    monkeypatch.setattr(study, "MOST_SAMPLES", 4)
    few, many = (study.rounds_row(measure, dim) for dim in (4, 64))
    for row in (few, many):
        assert row["blocks"] <= row["rounds"] <= row["rounds_max"] <= row["steps"]
        assert row["picard_error"] <= study.PICARD_ERROR
    assert many["rounds"] / few["rounds"] < 0.7 * many["steps"] / few["steps"]


def test_the_grid_is_no_finer_than_it_must_be(study):
    coarsest = study.coarsest(lambda grid: 1 / len(grid), 3.0, 0.01)
    assert len(study.schedule(3.0, coarsest).grid(OU())) >= 100
    assert len(study.schedule(3.0, coarsest - 1).grid(OU())) < 100


def test_the_divergence_of_paths_of_gaussian_data_is_the_integral_of_its_definition(study, grid):
    grid = grid[::4]

    def gap(rho, first):
        # Of a score frozen at `first`: z there and z at rho have covariance 1 + rho.
        bend = np.sqrt((1 + first) / (1 + rho))
        return 1 / (1 + rho) - 2 * bend / (1 + first) + bend**2 / (1 + first)

    exact = sum(
        quad(gap, low, high, args=(high,))[0] / 2
        for high, low in zip(grid[:-1] ** 2, grid[1:] ** 2, strict=True)
    )
    normal = study.Mixture([1.0], [0.0], [1.0])
    assert study.path_divergence(normal, grid) == pytest.approx(exact, rel=1e-6)


def test_the_end_diverges_less_than_the_path(study, grid):
    end, path = study.law_divergence(study.LAW, grid), study.path_divergence(study.LAW, grid)
    assert 0 < end < path / 5


def test_the_error_of_the_flow_is_that_of_sampled_coordinates(study, grid):
    dim, law = 16, study.LAW
    steps = Exponential(stochastic=False).table(grid)
    keys = rng.sample_keys(0, rng.Role.PRIOR, jnp.arange(500))
    z = jnp.hypot(1, grid[0]) * rng.normal(keys, jnp.zeros((500, dim)))
    found = Engine(study.product(law), steps).sample(z, keys)
    start = np.asarray(z, np.float64).ravel()
    exact = law.quantile(law.below(start, grid[0]), grid[-1]).reshape(z.shape)
    square = np.square(found - exact).sum(1).mean()
    assert square == pytest.approx(dim * study.flow_error(law, grid), rel=0.1)


def test_both_denoisers_of_the_mixture_are_the_same(study):
    z = np.random.default_rng(0).normal(size=(5, 7)) * 3
    for sigma in (0.05, 1.0, 20.0):
        found = study.product(study.LAW)(jnp.array(z), jnp.full(5, sigma)).mean
        exact = study.LAW.denoise(z.ravel(), sigma).reshape(z.shape)
        np.testing.assert_allclose(found, exact, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("method", ["ancestral", "accelerated_sde", "li_cai", "dpmpp_2m"])
def test_densities_do_not_depend_on_the_units_of_the_line(study, method):
    levels = np.sqrt(np.geomspace(9, 0.05, 11))
    steps, line, unit = study.METHODS[method].steps(levels), density.Line(), study.Line()
    exact = study.follow(line, study.LAW, steps)
    scale = np.hypot(1, levels)
    found = study.follow(unit, study.LAW, steps, scale)
    found = np.interp(line.z / scale[-1], unit.y, found, left=0, right=0) / scale[-1]
    assert line.total_variation(found, exact) < 1e-5


@pytest.mark.parametrize("method", ["ancestral", "accelerated_sde", "srk", "li_cai", "midpoint"])
def test_densities_are_those_of_samples(study, method):
    levels, count = np.sqrt(np.geomspace(9, 0.05, 6)), 100_000
    steps, line = study.METHODS[method].steps(levels), density.Line()
    random = np.random.default_rng(0)
    start = study.LAW.quantile(random.uniform(size=count), levels[0])[:, None]
    noise = random.standard_normal((steps.count, steps.c.shape[1], count, 1))
    samples = run(steps, lambda z, sigma: study.LAW.denoise(z[:, 0], sigma)[:, None], start, noise)
    below = np.cumsum(study.follow(line, study.LAW, steps)) * line.spacing
    found = np.searchsorted(np.sort(samples[:, 0]), line.z + line.spacing / 2) / count
    # Kolmogorov and Smirnov, at one in a thousand
    assert np.abs(found - below).max() < 1.95 / np.sqrt(count)


@pytest.mark.parametrize("method,error", [("ancestral", 1.4e-2), ("accelerated_sde", 7.0e-3)])
def test_total_variation_after_40_evaluations(study, method, error):
    assert study.errors_row(method, 40)["total_variation"] == pytest.approx(error, rel=0.05)


@pytest.mark.parametrize("method", ["li_cai", "midpoint", "heun", "accelerated_ode", "dpmpp_2m"])
def test_methods_of_second_order_gain_a_factor_of_four(study, method):
    few, many = (study.errors_row(method, count)["total_variation"] for count in (40, 80))
    assert few / many == pytest.approx(4, rel=0.1)


@pytest.mark.slow
def test_images_are_compared_with_their_data(study):
    words = ["dataset.subset=60", "num_samples=20", "batch_size=16", "runtime.mesh=batch:1"]
    with config.composer() as composer:
        experiment = composer.experiment([*words, "sampler=heun", "schedule.steps=4"])
    found = study.images_error(experiment)
    assert found["evaluations"] == 7
    assert 0 < found["sliced_w2_null"] < 1
    assert 0 < found["sliced_w2"] < 1


@pytest.mark.slow
def test_surrogate_sweeps_take_fewer_rounds(study):
    words = ["dataset.subset=60", "num_samples=4", "runtime.mesh=batch:1", "schedule.steps=40"]
    few, many = (study.sweeps_row(words, "ddim", sweep) for sweep in ("surrogate", "picard"))
    assert few["rows"] == many["rows"] == 60
    assert 1 <= few["rounds"] <= few["rounds_max"] <= 4 < many["rounds"] < 40
    assert few["evaluations"] < many["evaluations"]


def test_plots_are_drawn(study):
    rounds = [
        dict.fromkeys(study.ROUNDS, 1.0) | {"measure": measure, "dim": d, "steps": d, "rounds": 5}
        for measure in study.MEASURES
        for d in (4, 16)
    ]
    assert study.rounds_figure(rounds).startswith(PNG)
    errors = [study.errors_row(method, 10) for method in ("ddim", "heun")]
    images = [row | {"sliced_w2": 0.2, "sliced_w2_null": 0.1} for row in errors]
    assert study.errors_figure(errors).startswith(PNG)
    assert study.errors_figure(errors, images).startswith(PNG)
