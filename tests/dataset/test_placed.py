"""Rows on the devices: placed once, for whoever needs them, wherever they are."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gdiff.dataset import Dataset
from gdiff.dataset.placed import Placed
from gdiff.kernels.fold import Chunk, Fold, Rows
from gdiff.parallel.mesh import make_mesh
from gdiff.prior.empirical import Empirical
from gdiff.prior.gaussian import Gaussian
from gdiff.score.exact import Exact
from gdiff.score.golddiff import GoldDiff
from gdiff.score.patch import Patch
from gdiff.score.smoothed import Smoothed
from gdiff.score.wiener import Wiener

N = 70
SCORES = (Exact(), Wiener(), GoldDiff(), Patch(patch_size=3), Smoothed(perturbations=2))


@pytest.fixture(scope="module")
def data():
    x = np.random.default_rng(0).integers(0, 256, (N, 4, 4, 1), dtype=np.uint8)
    return Dataset("noise", x, shift=127.5, scale=127.5)


class Nearest(Fold):
    """Least distance of a query to the first coordinate of a row."""

    def start(self, rows: Rows, z):
        return jnp.full(len(z), jnp.inf)

    def step(self, rows: Rows, state, chunk: Chunk, z):
        away = jnp.abs(z - chunk.stored[:, 0].astype(z.dtype))
        return jnp.minimum(state, jnp.min(jnp.where(chunk.counts, away, jnp.inf), axis=1))

    def finish(self, rows: Rows, state, z):
        return jax.lax.pmin(state, "data")


@pytest.mark.parametrize("where", ["device", "host"])
@pytest.mark.parametrize("layout", ["batch:1", "data:2/batch:2"])
def test_a_fold_sees_every_row_once_for_any_number_of_queries(data, layout, where):
    rows = Placed(data, make_mesh(layout), where).rows
    flat = data.x.reshape(N, -1)
    for count in (1, 3):
        z = jnp.linspace(0, 300, count)[:, None]
        expected = np.abs(np.asarray(z) - flat[:, 0]).min(axis=1)
        for size in (None, 16):
            assert np.array_equal(rows.fold(Nearest(), z, size=size), expected)
    assert np.array_equal(rows.centre, np.round(flat.mean(axis=0)))
    expected = 0.5 * ((flat - np.asarray(rows.centre)) ** 2).sum(axis=1)
    assert np.allclose(rows.half_norms[:N], expected, rtol=1e-6)


@pytest.mark.parametrize("where", ["device", "host"])
@pytest.mark.parametrize("layout", ["batch:1", "data:2/batch:2"])
def test_any_rows_can_be_taken(data, layout, where):
    index = np.array([0, 69, 35, 35, 1])
    taken = Placed(data, make_mesh(layout), where).rows.take(index)
    assert np.allclose(taken, data.rows(index).reshape(5, -1), atol=1e-6)


def test_all_who_need_rows_share_them(data):
    placed = Placed(data, make_mesh("batch:1"))
    stored = [
        Exact().fit(placed).rows.stored,
        Empirical().fit(placed, 1.0).scan.rows.stored,
        GoldDiff().fit(placed).rows.stored,
        Patch().fit(placed).rows.stored,
    ]
    assert all(each is stored[0] for each in stored)
    # Rows that are to be elsewhere get there once.
    far = [Exact(rows="host").fit(placed).rows.stored for _ in range(2)]
    assert far[0] is far[1]
    assert far[0] is not stored[0]


def test_norms_follow_the_working_precision_and_rows_stay(data):
    placed = Placed(data, make_mesh("batch:1"))
    narrow = placed.rows
    with jax.enable_x64(True):
        wide = placed.rows
    assert (narrow.half_norms.dtype, wide.half_norms.dtype) == (jnp.float32, jnp.float64)
    assert narrow.stored is wide.stored


@pytest.mark.parametrize("layout", ["batch:1", "data:2/batch:2"])
def test_the_extent_is_that_of_the_values(data, layout):
    low, high, variance = Placed(data, make_mesh(layout)).extent
    flat = data.x.reshape(N, -1)
    assert np.array_equal(low, flat.min(axis=0))
    assert np.array_equal(high, flat.max(axis=0))
    assert float(variance) == pytest.approx(flat.var(), rel=1e-12)


@pytest.mark.parametrize("score", SCORES, ids=lambda score: type(score).__name__)
def test_a_denoiser_takes_any_batch_and_one_level_for_all(data, score):
    denoiser = score.fit(Placed(data, make_mesh("batch:2")), (0.5,))
    z = jnp.asarray(data.rows(slice(3))) + 0.3
    together = denoiser(z, 0.5)
    for one, level in ((slice(0, 1), 0.5), (slice(1, 3), np.full(2, 0.5, np.float32))):
        alone = denoiser(z[one], level)
        assert alone.mean.shape == z[one].shape
        assert np.allclose(alone.mean, together.mean[one], atol=1e-5)
        assert np.allclose(alone.trace_cov, together.trace_cov[one], rtol=1e-4, atol=1e-4)


def test_draws_from_the_data_are_the_same_wherever_the_rows_are(data):
    keys = jax.random.split(jax.random.key(0), 3)
    draws = [
        Empirical().fit(Placed(data, make_mesh(layout), where), 0.5).sample(keys)
        for layout, where in (("batch:1", "device"), ("data:2", "device"), ("data:2", "host"))
    ]
    for other in draws[1:]:
        assert np.array_equal(draws[0], other)


def test_a_data_set_will_do_without_a_mesh(data):
    z = data.rows(slice(2))
    assert np.isfinite(Exact().fit(data)(z, 1.0).mean).all()
    assert np.isfinite(Gaussian().fit(data, 1.0).log_prob(z)).all()


def test_rows_keep_their_stored_type(data):
    assert Placed(data).rows.stored.dtype == jnp.uint8
    wide = dataclasses.replace(data, x=data.x.astype(np.float32))
    assert Placed(wide).rows.stored.dtype == jnp.float32
