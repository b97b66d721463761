"""Small data sets, and what tests of every prior need."""

import equinox as eqx
import numpy as np

from gdiff import rng
from gdiff.dataset import Dataset
from gdiff.parallel.mesh import make_mesh

MESH = make_mesh("data:1/batch:1")
# Compiled once for all priors whose arrays have the same shapes.
log_prob = eqx.filter_jit(lambda prior, z: prior.log_prob(z))
sample = eqx.filter_jit(lambda prior, keys: prior.sample(keys))


@eqx.filter_jit
def draw_and_judge(prior, keys):
    z = prior.sample(keys)
    return z, prior.log_prob(z)


def keys(count):
    return _ALL_KEYS[:count]


_ALL_KEYS = rng.sample_keys(0, rng.Role.PRIOR, np.arange(2000))


def line():
    """60 points on a line, 20 of them equal."""
    x = np.random.default_rng(0).gamma(2.0, 1.0, (60, 1)) - 3.0
    x[:20] = 1.5
    return Dataset("line", x.astype(np.float32))


def plane():
    """300 points in three unequal, slanted clusters."""
    random = np.random.default_rng(0)
    centre = np.array([[-2.0, 0.0], [1.0, 1.5], [1.5, -1.0]])[random.integers(0, 3, 300)]
    x = centre + random.standard_normal((300, 2)) @ np.array([[0.5, 0.3], [0.0, 0.1]])
    return Dataset("plane", x.astype(np.float32))


def images():
    """Rows with copies, constant pixels and fewer points than dimensions."""
    x = np.random.default_rng(0).integers(0, 256, (12, 4, 5, 1), dtype=np.uint8)
    x[6:] = x[:6]
    x[:, 0] = 7
    return Dataset("images", x, shift=127.5, scale=127.5)


def many_dimensions():
    """More dimensions than are decomposed whole."""
    x = np.random.default_rng(0).integers(0, 256, (6, 37, 37, 3), dtype=np.uint8)
    return Dataset("large", x, shift=127.5, scale=127.5)


def model_rows(dataset):
    return dataset.to_model(dataset.x, np.float64).reshape(len(dataset), -1)
