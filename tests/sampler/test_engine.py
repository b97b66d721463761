import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gdiff import rng
from gdiff.dataset.digits import Digits
from gdiff.dataset.placed import Placed
from gdiff.denoiser import Posterior
from gdiff.parallel.mesh import batch_sharding, make_mesh
from gdiff.sampler.drivers import sequential as engine_module
from gdiff.sampler.drivers.sequential import Engine
from gdiff.sampler.methods.ancestral import Ancestral
from gdiff.sampler.methods.ddim import DDIM
from gdiff.sampler.methods.dpmpp_2m import DPMpp2M
from gdiff.score.exact import Exact

from . import reference

GRID = np.append(np.geomspace(20.0, 0.01, 23), 0.0)


def gaussian(variance):
    """Denoiser of N(0, variance I)."""

    def denoise(z, sigma):
        shrink = variance / (variance + sigma**2)
        return Posterior(shrink.reshape(-1, *[1] * (z.ndim - 1)) * z)

    return denoise


def keys_of(b):
    return rng.sample_keys(0, rng.Role.STEP, jnp.arange(b))


@pytest.mark.parametrize("method", [DDIM(), Ancestral(), DPMpp2M()])
def test_runs_a_table_as_the_reference_does(method):
    with jax.enable_x64(True):
        steps = method.steps(GRID)
        keys = keys_of(5)
        z = 20 * jax.random.normal(jax.random.key(0), (5, 4, 3), jnp.float64)
        got = Engine(gaussian(0.3), steps).sample(z, keys)
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
    mesh = make_mesh(layout)
    denoiser = Exact().fit(Placed(Digits(subset=64).load(), mesh))
    index = jax.device_put(jnp.arange(8), batch_sharding(mesh))
    z = jax.device_put(20.0 * jnp.ones((8, 8, 8, 1)), batch_sharding(mesh))
    for turn, count in enumerate((9, 3, 12)):
        steps = method.steps(np.append(np.geomspace(20.0, 0.01, count), 0.0))
        for seed in (0, 1):
            engine = Engine(denoiser, steps)
            keys = rng.sample_keys(seed, rng.Role.STEP, index)
            engine.compile(z, keys)
            if turn == seed == 0:
                compilations.clear()
            engine.sample(z, keys)
    assert not compilations


def test_reports_progress_and_stops_where_asked(monkeypatch):
    monkeypatch.setattr(engine_module, "_SEGMENT_SECONDS", 1e9)
    seen = []
    engine = Engine(gaussian(1.0), DDIM().steps(GRID))
    engine.sample(
        jnp.ones((2, 3)), keys_of(2), report=lambda k, z: seen.append(k), stops=frozenset({5, 17})
    )
    assert {5, 17, 23} <= set(seen)
    assert seen == sorted(seen)


def test_segments_do_not_change_the_result(monkeypatch):
    z, keys = 20 * jax.random.normal(jax.random.key(0), (3, 4)), keys_of(3)
    results = []
    for seconds in (0.0, 1e9):
        monkeypatch.setattr(engine_module, "_SEGMENT_SECONDS", seconds)
        results.append(Engine(gaussian(0.5), DPMpp2M().steps(GRID)).sample(z, keys))
    assert np.array_equal(*results)


def test_a_value_that_is_not_finite_is_named():
    def broken(z, sigma):
        return Posterior(jnp.where(sigma[:, None] < 1.0, jnp.nan, z))

    with pytest.raises(FloatingPointError, match=r"not finite after step .* of 23 \(sigma"):
        Engine(broken, DDIM().steps(GRID)).sample(jnp.ones((2, 3)), keys_of(2))


def test_the_exact_score_leads_to_data_points():
    data = Digits(subset=100).load()
    engine = Engine(Exact().fit(Placed(data, make_mesh("batch:1"))), DDIM().steps(GRID))
    z = 20 * jax.random.normal(jax.random.key(0), (16, *data.event_shape))
    samples = np.asarray(engine.sample(z, keys_of(16))).reshape(16, -1)
    points = data.rows(slice(None)).reshape(100, -1)
    nearest = np.linalg.norm(samples[:, None] - points, axis=2).min(axis=1)
    assert nearest.max() < 1e-3
