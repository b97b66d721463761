import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gdiff import rng
from gdiff.dataset.digits import Digits
from gdiff.dataset.placed import Placed
from gdiff.denoiser import Posterior, as_denoiser, from_numpy
from gdiff.errors import UserError
from gdiff.parallel.mesh import batch_sharding, make_mesh
from gdiff.sampler.drivers import driver
from gdiff.sampler.drivers import sequential as engine_module
from gdiff.sampler.drivers.sequential import Engine
from gdiff.sampler.methods.ancestral import Ancestral
from gdiff.sampler.methods.ddim import DDIM
from gdiff.sampler.methods.dpmpp_2m import DPMpp2M
from gdiff.sampler.methods.li_cai import LiCai
from gdiff.score.exact import Exact

from . import reference


def grid(count):
    return np.append(np.geomspace(20.0, 0.01, count), 0.0)


GRID = grid(23)


def gaussian(variance):
    """Denoiser of N(0, variance I)."""

    def denoise(z, sigma):
        shrink = variance / (variance + sigma**2)
        return Posterior(shrink.reshape(-1, *[1] * (z.ndim - 1)) * z)

    return denoise


DENOISER = gaussian(0.3)


def keys_of(b):
    return rng.sample_keys(0, rng.Role.STEP, jnp.arange(b))


@pytest.fixture
def start():
    """z_T and keys of one shape, in double precision: programs are shared."""
    with jax.enable_x64(True):
        yield 20 * jax.random.normal(jax.random.key(0), (5, 4, 3), jnp.float64), keys_of(5)


@pytest.mark.parametrize("method", [DDIM(), Ancestral(), DPMpp2M()])
def test_runs_a_table_as_the_reference_does(method, start):
    steps, (z, keys) = method.steps(GRID), start
    got = Engine(DENOISER, steps).sample(z, keys)
    noise = [[rng.normal(rng.at_step(keys, k), z)] for k in range(len(steps.sigma))]
    denoise = lambda z, sigma: 0.3 / (0.3 + sigma**2) * z  # noqa: E731
    expected = reference.run(steps, denoise, np.asarray(z), np.asarray(noise))
    assert np.allclose(got, expected, rtol=1e-12, atol=1e-12)


@pytest.fixture
def compilations():
    """A list that grows with every program that XLA compiles during the test."""
    seen = []

    def listen(event, duration, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            seen.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield seen
    jax.monitoring.unregister_event_duration_listener(listen)


@functools.cache
def exact(layout):
    """The devices, the exact score on them, and its data [n, d]."""
    mesh, data = make_mesh(layout), Digits(subset=64).load()
    return mesh, Exact().fit(Placed(data, mesh)), data.rows(slice(None)).reshape(64, -1)


@pytest.mark.parametrize(
    "method,layout",
    [
        (Ancestral(), "batch:4"),
        (DPMpp2M(), "data:2/batch:2"),
        pytest.param(DDIM(), "batch:1", marks=pytest.mark.slow),
        pytest.param(DPMpp2M(), "batch:4", marks=pytest.mark.slow),
    ],
)
def test_compiles_once_for_all_batches_segments_seeds_and_lengths(
    method, layout, monkeypatch, compilations
):
    monkeypatch.setattr(engine_module, "_SEGMENT_SECONDS", 0.0)
    mesh, denoiser, _ = exact(layout)
    index = jax.device_put(jnp.arange(8), batch_sharding(mesh))
    z = jax.device_put(20.0 * jnp.ones((8, 8, 8, 1)), batch_sharding(mesh))
    for turn, count in enumerate((9, 3, 12)):
        steps = method.steps(grid(count))
        for seed in (0, 1):
            engine = Engine(denoiser, steps)
            keys = rng.sample_keys(seed, rng.Role.STEP, index)
            engine.compile(z, keys)
            if turn == seed == 0:
                compilations.clear()
            engine.sample(z, keys)
    assert not compilations


def test_reports_progress_and_stops_where_asked(monkeypatch, start):
    monkeypatch.setattr(engine_module, "_SEGMENT_SECONDS", 1e9)
    seen = []
    engine = Engine(DENOISER, DDIM().steps(GRID))
    engine.sample(*start, report=lambda k, z: seen.append(k), stops=frozenset({5, 17}))
    assert {5, 17, 23} <= set(seen)
    assert seen == sorted(seen)


def test_segments_do_not_change_the_result(monkeypatch, start):
    results = []
    for seconds in (0.0, 1e9):
        monkeypatch.setattr(engine_module, "_SEGMENT_SECONDS", seconds)
        results.append(Engine(DENOISER, DPMpp2M().steps(GRID)).sample(*start))
    assert np.array_equal(*results)


def test_a_value_that_is_not_finite_is_named():
    def broken(z, sigma):
        return Posterior(jnp.where(sigma[:, None] < 1.0, jnp.nan, z))

    with pytest.raises(FloatingPointError, match=r"not finite after step .* of 23 \(sigma"):
        Engine(broken, DDIM().steps(GRID)).sample(jnp.ones((2, 3)), keys_of(2))


def test_the_exact_score_leads_to_data_points():
    mesh, denoiser, points = exact("data:2/batch:2")
    z = 20 * jax.random.normal(jax.random.key(0), (8, 8, 8, 1))
    engine = Engine(denoiser, DPMpp2M().steps(grid(12)), mesh)
    samples = np.asarray(engine.sample(z, keys_of(8))).reshape(8, -1)
    nearest = np.linalg.norm(samples[:, None] - points, axis=2).min(axis=1)
    assert nearest.max() < 1e-3


class Shrink(eqx.Module):
    """A denoiser of N(0, variance I) with leaves that are no arrays of JAX."""

    variance: np.ndarray
    name: str = "mine"

    def __call__(self, z, sigma):
        return self.scaled(z, sigma, jnp)

    def scaled(self, z, sigma, xp):
        variance = xp.asarray(self.variance, z.dtype)
        return (variance / (variance + sigma**2))[:, None] * z


SHRINK = Shrink(np.array(0.5))


def on_host(z, sigma):
    """It may overwrite what it is given, as functions of PyTorch tensors do."""
    assert isinstance(z, np.ndarray)
    z *= (0.5 / (0.5 + sigma**2))[:, None]
    return z.astype(np.float64)


FUNCTIONS = {
    "function": lambda z, sigma: SHRINK(z, sigma),
    "compiled": jax.jit(lambda z, sigma: SHRINK(z, sigma)),
    "module": SHRINK,
    "method": SHRINK.__call__,
    "numpy": from_numpy(on_host),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_any_function_is_a_denoiser_and_compiled_once(name, monkeypatch, compilations):
    monkeypatch.setattr(engine_module, "_SEGMENT_SECONDS", 0.0)
    steps, denoise = DDIM().steps(GRID), FUNCTIONS[name]
    z = 20 * jax.random.normal(jax.random.key(0), (3, 5))
    scale = np.prod(steps.a + steps.b * 0.5 / (0.5 + steps.sigma[:, None] ** 2))
    keys, expected = keys_of(3), scale * np.asarray(z)
    engine = Engine(denoise, steps)
    engine.compile(z, keys)
    compilations.clear()
    for _ in range(2):
        found = Engine(denoise, steps).sample(z, keys)
        assert np.allclose(found, expected, rtol=1e-4, atol=1e-7)
    assert not compilations


def test_a_denoiser_of_numpy_arrays_is_run_in_parallel_on_one_device_only():
    sampler, denoise = DDIM(block_size="all", tolerance=0.0), FUNCTIONS["numpy"]
    blocks = sampler.blocks(GRID[-8:])
    z = jax.random.normal(jax.random.key(0), (3, 5))
    found = driver(denoise, blocks, sampler).sample(z, keys_of(3))
    expected = Engine(SHRINK, blocks.steps).sample(z, keys_of(3))
    assert np.allclose(found, expected, rtol=1e-4, atol=1e-7)
    assert denoise(z, 0.5).mean == pytest.approx(np.asarray(SHRINK(z, jnp.full(3, 0.5))))
    for one in (sampler, DDIM()):
        with pytest.raises(UserError, match="runs on one device only"):
            driver(denoise, blocks, one, make_mesh("batch:2"))


def test_a_denoiser_that_answers_with_another_shape_is_refused_in_one_line():
    with pytest.raises(UserError, match=r"^the denoiser answers points \(2, 3\) with .* \(2,\)"):
        as_denoiser(lambda z, sigma: z.sum(1))(jnp.ones((2, 3)), 1.0)


@pytest.mark.parametrize("block_size, b", [(1, 5), (4, 1)])
def test_devices_share_batches_of_any_size(block_size, b):
    sampler = LiCai(block_size=block_size, tolerance=0.0)
    blocks = sampler.blocks(GRID[-8:])
    z, keys, seen = jax.random.normal(jax.random.key(0), (b, 4)), keys_of(b), []
    one, four = (
        driver(SHRINK, blocks, sampler, mesh, gaussian(0.4))
        for mesh in (None, make_mesh("batch:4"))
    )
    found = four.sample(z, keys, report=lambda done, z, note="": seen.append(z))
    assert np.allclose(found, one.sample(z, keys), rtol=1e-5, atol=1e-6)
    assert {x.shape for x in seen if x is not None} == {(b, 4)}
    assert four.account.keys() == one.account.keys()
    assert all(np.array_equal(four.account[name], one.account[name]) for name in one.account)
