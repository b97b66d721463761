from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gdiff.dataset import Dataset
from gdiff.dataset.digits import Digits
from gdiff.dataset.placed import Placed
from gdiff.errors import UserError
from gdiff.parallel.mesh import make_mesh
from gdiff.score import crowded
from gdiff.score.exact import Exact

from .exact import posterior

SIGMAS = (0.002, 0.01, 0.05, 0.2, 0.7, 2.0, 5.0, 15.0, 80.0, 160.0)
KINDS = ("near", "between", "far", "elsewhere", "nearly equidistant", "on a point")


def queries(y, sigma, kind, rng, count):
    """Queries [count, d] float32 of one kind, in model coordinates like y."""
    a, b = y[rng.integers(0, len(y), count)], y[rng.integers(0, len(y), count)]
    noise = rng.standard_normal(a.shape)
    z = {
        "near": a + sigma * noise,
        "between": (a + b) / 2,
        "far": sigma * noise,
        "elsewhere": rng.uniform(-1, 1, a.shape),
        "nearly equidistant": (a + b) / 2 + sigma * noise,
        "on a point": a,
    }[kind]
    return z.astype(np.float32)


def check(dataset, sigmas=SIGMAS, count=8, seed=0, mesh="batch:1"):
    """Compare with float64 on all kinds of queries; returns the largest relative error."""
    rng = np.random.default_rng(seed)
    y = dataset.to_model(dataset.x, np.float64).reshape(len(dataset), -1)
    denoiser = jax.jit(Exact().fit(Placed(dataset, make_mesh(mesh))).__call__)
    worst = 0.0
    for sigma in sigmas:
        level = np.full(count, sigma, np.float32)
        for kind in KINDS:
            z = queries(y, sigma, kind, rng, count)
            got = denoiser(z.reshape(count, *dataset.event_shape), level)
            mean, trace, log_density = posterior(y, z.astype(float), level.astype(float))
            error = np.asarray(got.mean, np.float64).reshape(count, -1) - mean
            size = np.maximum(np.linalg.norm(mean, axis=1), 1e-2)
            relative = np.linalg.norm(error, axis=1) / size
            assert relative.max() <= 1e-4, (sigma, kind, relative)
            # The divergence of D, per dimension, is between 0 and about 1.
            divergence = np.abs(got.trace_cov - trace) / (trace + dataset.dim * sigma**2)
            assert divergence.max() <= 1e-4, (sigma, kind, divergence)
            assert np.allclose(got.log_density, log_density, rtol=2e-6, atol=2e-4), (sigma, kind)
            worst = max(worst, relative.max())
    return worst


def images(x):
    return Dataset("images", x, shift=127.5, scale=127.5)


def test_matches_float64_on_digits():
    assert check(Digits().load()) <= 1e-5


def test_matches_float64_with_duplicates_near_duplicates_and_constant_pixels():
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (300, 12, 12, 3), dtype=np.uint8)
    x[:, :3] = 0
    x[:, :, -2:] = 255
    x[100:150] = x[:50]
    x[150:200] = x[:50]
    x[150:200, 5, 5] ^= 1  # one grey level in three of 432 numbers
    check(images(x))


@pytest.mark.parametrize("copies", [20, pytest.param(5, marks=pytest.mark.slow)])
def test_many_copies_of_a_row_share_its_weight(copies):
    rng = np.random.default_rng(2)
    x = np.repeat(rng.integers(0, 256, (20, 768), dtype=np.uint8), copies, axis=0)
    x[1::copies, 0] ^= 1
    assert check(images(x), sigmas=(0.002, 0.01, 0.05, 0.3, 1.0)) <= 1e-5


@pytest.mark.parametrize("near", [False, True])
def test_two_images_in_any_number_of_copies_divide_the_weight(near):
    rng = np.random.default_rng(0)
    pair = rng.integers(0, 256, (2, 3072)).astype(np.uint8)
    errors = []
    for copies in (8, 500):
        x = np.repeat(pair, copies, axis=0)
        if near:
            x[np.arange(len(x)), rng.integers(0, 3072, len(x))] ^= 1
        data = Dataset("copies", x[rng.permutation(len(x))], shift=127.5, scale=127.5)
        y = data.to_model(data.x, np.float64)
        a, b = data.to_model(pair, np.float64)
        denoise = eqx.filter_jit(Exact().fit(Placed(data, make_mesh("data:2"))))
        for sigma in (0.002, 0.01, 0.1, 0.5, 1.5, 5.0):
            odds = np.array([0.0, 0.3, -1.0, 2.0])[:, None] * sigma**2 / np.sum((a - b) ** 2)
            middle = (a + b) / 2 + odds * (a - b)
            z = np.r_[middle, middle + sigma * rng.standard_normal(middle.shape)]
            z, level = z.astype(np.float32), np.full(8, sigma, np.float32)
            got = denoise(z, level)
            mean, trace, _ = posterior(y, z.astype(float), level.astype(float))
            error = np.linalg.norm(got.mean - mean, axis=1) / np.linalg.norm(mean, axis=1)
            errors.append(error.max())
            divergence = np.abs(got.trace_cov - trace) / (trace + data.dim * sigma**2)
            assert divergence.max() <= 1e-4, (copies, sigma, divergence)
    assert max(errors) <= 1e-5, errors


def test_only_queries_with_more_rows_in_contention_than_leaders_are_scanned_again(monkeypatch):
    again, scans = crowded._posterior_of, []

    def counted(rows, size, z, *rest):
        jax.debug.callback(lambda: scans.append(len(z)))
        return again(rows, size, z, *rest)

    monkeypatch.setattr(crowded, "_posterior_of", counted)
    rng = np.random.default_rng(0)
    y = rng.standard_normal((200, 16)) * 3
    # Thirty rows so near each other that affinities in single precision do not tell them apart.
    y[:30] = y[0] + 1e-4 * rng.standard_normal((30, 16))
    y, sigma = y.astype(np.float32), np.full(8, 1e-3, np.float32)
    z = y[[0, 40, 50, 7, 60, 70, 80, 90]] + 1e-4 * rng.standard_normal((8, 16)).astype(np.float32)
    denoiser = Exact().fit(Placed(Dataset("crowd", y), make_mesh("batch:1")))
    got = jax.block_until_ready(eqx.filter_jit(lambda d, *x: d(*x).mean)(denoiser, z, sigma))
    jax.effects_barrier()
    assert scans == [4]
    mean = posterior(y.astype(float), z.astype(float), sigma.astype(float))[0]
    assert np.max(np.abs(got - mean)) < 1e-5


def test_matches_float64_on_float_data_far_from_the_origin():
    rng = np.random.default_rng(1)
    x = (1000 + rng.standard_normal((500, 7))).astype(np.float32)
    data = Dataset("far", x)
    y = x.astype(float)
    z = x[:4] + np.float32(0.01)
    got = eqx.filter_jit(Exact().fit(Placed(data, make_mesh("batch:1"))))(
        jnp.asarray(z), jnp.full(4, 0.5)
    )
    mean, trace, _ = posterior(y, z.astype(float), np.full(4, 0.5))
    assert np.allclose(got.mean, mean, atol=3e-4)
    assert np.allclose(got.trace_cov, trace, atol=1e-3)


@pytest.mark.parametrize("n", [1, 2, 3, 9])
def test_tiny_data_sets_are_exact(n):
    x = np.linspace(-1, 1, n + 2, dtype=np.float32)[1:-1, None]
    check(Dataset("tiny", x))


@pytest.mark.parametrize(
    "layout",
    ["data:4", "data:2/batch:2", "data:3", pytest.param("batch:4", marks=pytest.mark.slow)],
)
def test_every_layout_of_devices_gives_the_same_posterior(layout):
    data = Digits(subset=101).load()
    check(data, sigmas=(0.002, 0.5, 3.0, 160.0), mesh=layout)


def test_more_devices_than_points():
    check(Dataset("two", np.array([[-1.0], [1.0]], np.float32)), sigmas=(0.1, 2.0), mesh="data:4")


def test_the_chunk_size_does_not_matter():
    data = Digits(subset=100).load()
    mesh = make_mesh("batch:1")
    z = jax.random.normal(jax.random.key(0), (8, *data.event_shape))
    whole, *parts = (
        eqx.filter_jit(Exact(chunk_rows=c).fit(Placed(data, mesh))) for c in (0, 1, 99)
    )
    for sigma in (0.01, 1.0, 20.0):
        level = jnp.full(8, sigma)
        expected = whole(z, level)
        for chunked in parts:
            part = chunked(z, level)
            assert np.allclose(part.mean, expected.mean, atol=2e-6)
            assert np.allclose(part.trace_cov, expected.trace_cov, rtol=1e-4, atol=1e-5)
            assert np.allclose(part.log_density, expected.log_density, rtol=1e-6)


def test_rows_of_a_batch_have_their_own_noise_levels():
    data = Digits(subset=200).load()
    denoise = eqx.filter_jit(Exact().fit(Placed(data, make_mesh("batch:1"))))
    z = jax.random.normal(jax.random.key(0), (len(SIGMAS), *data.event_shape))
    together = denoise(z, jnp.array(SIGMAS)).mean
    for i, sigma in enumerate(SIGMAS):
        # As many rows as above, for the program is compiled for their number.
        alone = denoise(jnp.stack([z[i]] * len(SIGMAS)), jnp.array([sigma] * len(SIGMAS))).mean
        assert np.allclose(together[i], alone, atol=1e-5)


def test_trace_is_the_divergence_and_the_score_is_the_gradient_of_the_log_density():
    with jax.enable_x64(True):
        data = Digits(subset=50).load()
        denoise = Exact().fit(Placed(data, make_mesh("batch:1")))
        z = jax.random.normal(jax.random.key(1), (1, *data.event_shape), jnp.float64)
        sigma = jnp.array([1.5])

        @jax.jit
        @partial(jax.jacfwd, has_aux=True)
        def differentiated(z):
            posterior = denoise(z, sigma)
            return posterior.mean.ravel(), posterior

        jacobian, posterior = differentiated(z)
        jacobian = jacobian.reshape(64, 64)
        assert np.isclose(jnp.trace(jacobian) * 1.5**2, posterior.trace_cov[0], rtol=1e-8)
        gradient = jax.jit(jax.grad(lambda z: denoise(z, sigma).log_density[0]))(z)
        assert np.allclose(gradient, (posterior.mean - z) / 1.5**2, atol=1e-9)


def test_never_holds_a_second_copy_of_the_data_or_all_logits():
    n, d, b = 200_000, 256, 64
    data = images(np.zeros((n, d), np.uint8))
    denoiser = Exact(chunk_rows=2048).fit(Placed(data, make_mesh("batch:1")))
    program = jax.jit(denoiser.__call__).lower(jnp.zeros((b, d)), jnp.ones(b)).compile()
    assert program.memory_analysis().temp_size_in_bytes < n * b * 4 / 2


def test_no_product_is_left_to_the_hardwares_own_precision():
    """On accelerators the default precision of a product is lower than that of its operands."""
    denoiser = Exact().fit(Placed(images(np.zeros((64, 48), np.uint8)), make_mesh("batch:1")))
    program = jax.jit(denoiser.__call__).lower(jnp.zeros((8, 48)), jnp.ones(8)).as_text()
    products = [line for line in program.splitlines() if "dot_general" in line]
    assert products
    assert all("precision = [HIGHEST, HIGHEST]" in line for line in products)


def test_uint8_rows_stay_uint8_on_the_device():
    denoiser = Exact().fit(Placed(images(np.zeros((10, 4), np.uint8)), make_mesh("batch:1")))
    assert denoiser.rows.stored.dtype == jnp.uint8


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
@pytest.mark.slow
def test_matches_float64_on_real_images(name, real_data_dir):
    from gdiff.dataset.tfds import Tfds

    data = Tfds(name=name, data_dir=real_data_dir).load()
    assert check(data, sigmas=SIGMAS[::2], count=2) <= 1e-5


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_matches_float64_on_a_part_of_the_real_images(name, real_data_dir):
    from gdiff.dataset.tfds import Tfds

    check(Tfds(name=name, data_dir=real_data_dir, split="test", subset=1000).load(), count=3)


def test_bad_settings_are_refused():
    with pytest.raises(UserError, match="precision"):
        Exact(precision="low")
    with pytest.raises(UserError, match="chunk_rows"):
        Exact(chunk_rows=-1)
