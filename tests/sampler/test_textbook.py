"""Tables, run by the engine, against the methods as their papers write them."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gdiff import rng
from gdiff.denoiser import Posterior
from gdiff.process.ou import OU
from gdiff.sampler.drivers.sequential import Engine
from gdiff.sampler.methods.accelerated_ode import AcceleratedODE
from gdiff.sampler.methods.li_cai import LiCai
from gdiff.schedule.edm import EDM

from . import reference, textbook
from .methods import METHODS

POINTS = np.random.default_rng(0).standard_normal((7, 3))
WIDTH = 0.2  # standard deviation of a component, so that a map is smooth where samples end
GRIDS = {
    "geometric_to_zero": np.append(np.geomspace(20.0, 0.05, 8), 0.0),
    "edm_to_zero": EDM(steps=9, sigma_max=20.0).grid(OU()),
    "steps_that_grow": np.array([5.0, 4.9, 4.5, 3.0, 1.0, 0.1]),
}


def denoise(z, sigma, xp=np):
    """Posterior mean for a Gaussian mixture around a few points."""
    logits = -((z[:, None] - POINTS) ** 2).sum(-1) / (2 * (WIDTH**2 + sigma**2))
    weights = xp.exp(logits - logits.max(1, keepdims=True))
    centre = weights @ POINTS / weights.sum(1, keepdims=True)
    return (WIDTH**2 * z + sigma**2 * centre) / (WIDTH**2 + sigma**2)


def on_device(z, sigma):
    return Posterior(denoise(z, sigma[:, None], jnp))


def start(count):
    """z_T and keys of the first samples of a run."""
    prior, keys = (rng.sample_keys(3, role, jnp.arange(count)) for role in rng.Role)
    return 20 * rng.normal(prior, jnp.zeros((count, 3))), keys


def sample(method, grid, count=8):
    """Samples, their start, their noise and the engine, in double precision."""
    with jax.enable_x64(True):
        z, keys = start(count)
        engine = Engine(on_device, method.steps(grid))
        samples = engine.sample(z, keys)
        return np.asarray(samples), np.asarray(z), noise_of(engine.steps, keys, z), engine


def noise_of(steps, keys, z):
    """[K, N, n, dim] the numbers that the engine draws."""
    return np.stack([_draws(keys, z, k, steps.c.shape[1]) for k in range(steps.count)])


@partial(jax.jit, static_argnames="count")
def _draws(keys, z, k, count):
    return jnp.stack([rng.normal(rng.at_step(keys, k, n), z) for n in range(count)])


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
@pytest.mark.parametrize("name", textbook.STEPS)
def test_the_engine_does_what_the_paper_says(name, grid):
    samples, z, noise, engine = sample(METHODS[name], grid)
    expected = textbook.run(name, denoise, z, grid, noise)
    assert np.abs(samples - expected).max() < 1e-10
    assert np.abs(reference.run(engine.steps, denoise, z, noise) - expected).max() < 1e-10


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_the_accelerated_ode_is_the_formula_of_its_authors(grid):
    samples, z, _, _ = sample(AcceleratedODE(), grid)
    assert np.abs(samples - textbook.run_accelerated_ode(denoise, z, grid)).max() < 1e-10


@pytest.mark.parametrize("look", ["ahead", "back"])
def test_the_clip_rate_is_counted_sample_by_sample(look, monkeypatch):
    seen = []
    shortened = textbook.shortened

    def spy(vectors, limits):
        seen.append(np.linalg.norm(vectors, axis=1) > limits)
        return shortened(vectors, limits)

    monkeypatch.setattr(textbook, "shortened", spy)
    method, grid = LiCai(look=look, clip=0.1), GRIDS["steps_that_grow"]
    samples, z, noise, engine = sample(method, grid)
    for k, (sigma, s) in enumerate(itertools.pairwise(grid)):
        z = textbook.li_cai(denoise, z, sigma, s, noise[k], grid[0], look=look, clip=0.1)
    assert np.abs(samples - z).max() < 1e-10
    assert 0.1 < np.mean(seen) < 0.9
    assert np.asarray(engine.account["clip_rate"]) == pytest.approx(np.mean(seen, axis=0), abs=1e-6)


def test_other_methods_have_no_clip_rate():
    for method in (METHODS["heun"], LiCai(clip=None)):
        *_, engine = sample(method, GRIDS["steps_that_grow"])
        assert "clip_rate" not in engine.account


@pytest.mark.parametrize("name", ["accelerated_sde", "accelerated_ode", "li_cai"])
def test_samples_do_not_depend_on_the_batch(name):
    grid = GRIDS["edm_to_zero"]
    whole, *_ = sample(METHODS[name], grid)
    part, *_ = sample(METHODS[name], grid, 3)
    assert np.abs(whole[:3] - part).max() < 1e-12
