"""The golden scan on real images against the float64 full scan; all of it is slow."""

import equinox as eqx
import numpy as np
import pytest

from gdiff.dataset.placed import Placed
from gdiff.dataset.tfds import Tfds
from gdiff.metrics.exact import exact_posterior
from gdiff.parallel.mesh import make_mesh
from gdiff.score.golden.spec import Golden

pytestmark = pytest.mark.slow

BATCH = 64


@pytest.fixture(scope="module", params=["mnist", "cifar10"])
def images(request, real_data_dir):
    def load(split):
        return Tfds(name=request.param, data_dir=real_data_dir, split=split).load()

    return load("train"), load("test").rows(slice(1000)).reshape(1000, -1)


def answered(golden, data, z, sigma):
    """Errors against float64, norms of the exact means, and the golden scan's answers: [q]."""
    denoise = eqx.filter_jit(golden)
    parts = []
    for start in range(0, len(z), BATCH):
        part = slice(start, start + BATCH)
        query = z[part].reshape(-1, *data.event_shape)
        answer = denoise(query, sigma[part])._replace(trace_cov=None)
        parts.append([np.asarray(x).reshape(len(query), -1) for x in answer if x is not None])
    mean, bound, likely, size = (np.concatenate(part) for part in zip(*parts, strict=True))
    exact = exact_posterior(data, z, sigma.astype(float)).mean
    error = np.linalg.norm(mean - exact, axis=1)
    return error, np.linalg.norm(exact, axis=1), bound[:, 0], likely[:, 0], size[:, 0]


def test_nearly_all_queries_at_every_level_of_the_ddpm_grid_are_within_the_tolerance(images):
    """The tolerance is held against an estimate, which fewer than one query in a hundred exceed."""
    data, unseen = images
    far, unlikely = [], []
    alpha = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    sigmas = np.sqrt(1 / alpha - 1)[::100]
    golden = Golden(tolerance=0.01).fit(Placed(data, make_mesh("batch:1")), sigmas)
    rng = np.random.default_rng(0)
    rows = data.rows(rng.integers(0, len(data), BATCH)).reshape(BATCH, -1)
    for level in sigmas:
        x = np.concatenate([unseen[:BATCH], (rows + rows[::-1]) / 2])
        z = (x + level * rng.standard_normal(x.shape)).astype(np.float32)
        sigma = np.full(len(z), level, np.float32)
        error, norm, bound, likely, _ = answered(golden, data, z, sigma)
        assert np.all(error <= bound)
        assert np.max(error / norm) <= 0.05
        far.append(error / norm > 0.01)
        unlikely.append(error > likely)
    assert np.mean(far) <= 0.01
    assert np.mean(unlikely) <= 0.01


def test_no_bound_is_exceeded_near_the_data_far_from_it_and_between(images):
    data, unseen = images
    golden = Golden(tolerance=0.01).fit(
        Placed(data, make_mesh("batch:1")), (0.01, 0.1, 1.0, 10.0, 80.0)
    )
    rng = np.random.default_rng(1)
    # 80 levels, at each 128 queries of four kinds: 10 240 pairs.
    for level in np.exp(rng.uniform(np.log(0.005), np.log(100), 80)):
        a, b = (data.rows(rng.integers(0, len(data), 32)).reshape(32, -1) for _ in range(2))
        test = unseen[rng.integers(0, len(unseen), 32)]
        noise = rng.standard_normal((4, *a.shape))
        z = [a + level * noise[0], (a + b) / 2 + level * noise[1], test + level * noise[2]]
        z = np.concatenate([*z, 10 ** rng.uniform(-2, 2) * noise[3]]).astype(np.float32)
        error, _, bound, _, _ = answered(golden, data, z, np.full(len(z), level, np.float32))
        assert np.all(error <= bound)
