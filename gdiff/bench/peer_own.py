"""This project's scores as contenders, and the matrix products that a full scan needs."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from gdiff.bench.peer import Ask, Peer, Problem
from gdiff.bench.turns import compiled_mean
from gdiff.parallel.mesh import batch_sharding
from gdiff.score.base import ScoreSpec


def score(spec: ScoreSpec, sigmas: tuple[float, ...]) -> Peer:
    """A score of ours, prepared for these noise levels."""
    name = type(spec).__name__.lower()
    return Peer(f"gdiff {name}", partial(_prepare_score, spec, sigmas))


def _prepare_score(spec: ScoreSpec, sigmas: tuple[float, ...], problem: Problem) -> Ask:
    mesh = problem.mesh
    shape = (problem.queries, *problem.dataset.event_shape)
    denoiser = spec.fit(problem.data, sigmas)

    def placed(z: np.ndarray) -> jax.Array:
        return jax.device_put(z.reshape(shape), batch_sharding(mesh))

    mean = compiled_mean(denoiser, placed(np.zeros(shape, np.float32)), np.float32(1))
    return lambda z, sigma: np.asarray(mean(placed(z), np.float32(sigma))).reshape(z.shape)


def _prepare_products(problem: Problem) -> Ask:
    data = jnp.asarray(problem.rows)

    @jax.jit
    def products(z: jax.Array, data: jax.Array) -> jax.Array:
        highest = jax.lax.Precision.HIGHEST
        return jnp.matmul(jnp.matmul(z, data.T, precision=highest), data, precision=highest)

    return lambda z, sigma: np.asarray(products(z, data))


PRODUCTS = Peer("2 products, XLA", _prepare_products, is_mean=False)
