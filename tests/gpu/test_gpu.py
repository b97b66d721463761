"""What a GPU must do as the CPU does. GDIFF_TEST_GPU=cpu lets a CPU device stand in for it."""

import json
import os

import equinox as eqx
import fields
import jax
import numpy as np
import pytest
from commands import SMALL, gdiff
from jax.sharding import Mesh
from score.exact import posterior
from score.test_exact import check

from gdiff import config, rng
from gdiff.dataset import Dataset
from gdiff.dataset.digits import Digits
from gdiff.dataset.placed import Placed
from gdiff.parallel.mesh import BATCH, DATA, batch_sharding
from gdiff.sampler.drivers.parallel import ParallelEngine
from gdiff.sampler.drivers.sequential import Engine
from gdiff.sampler.methods.ancestral import Ancestral
from gdiff.sampler.methods.ddim import DDIM
from gdiff.score.exact import Exact
from gdiff.score.golden.scan import GoldenScan
from gdiff.score.golden.spec import Golden

PLATFORM = os.environ.get("GDIFF_TEST_GPU", "gpu")
GRID = np.append(np.geomspace(20.0, 0.02, 20), 0.0)
SCORES = ("golden", "golddiff", "pca_local", "pca_local_golden", "wiener", "patch_ls", "patch_els")

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        PLATFORM == "gpu" and jax.default_backend() != "gpu",
        reason="JAX has no GPU; make test-gpu looks for one",
    ),
]


@pytest.fixture(scope="module")
def mesh():
    """The device under test, which is also JAX's default."""
    return Mesh(np.array(jax.devices()[:1]).reshape(1, 1), (DATA, BATCH))


@pytest.fixture(scope="module")
def host():
    """The CPU of the same process."""
    return Mesh(np.array(jax.devices("cpu")[-1:]).reshape(1, 1), (DATA, BATCH))


def images(n, side=32, seed=0):
    """Smooth colour images, n different ones."""
    random = np.random.default_rng(seed)
    coarse = random.normal(size=(n, side // 4, side // 4, 3)).repeat(4, axis=1).repeat(4, axis=2)
    fine = random.normal(size=(n, side, side, 3))
    x = np.clip(128 + 50 * coarse + 8 * fine, 0, 255).astype(np.uint8)
    return Dataset("images", x, shift=127.5, scale=127.5)


def near(dataset, sigma, count=16):
    """Noised points z [count, *event] float32, and their level."""
    random = np.random.default_rng(1)
    clean = dataset.rows(random.integers(len(dataset), size=count))
    noise = random.standard_normal(clean.shape, np.float32)
    return clean + np.float32(sigma) * noise, np.full(count, sigma, np.float32)


def answer(denoiser, mesh, z, sigma):
    """Posterior from the devices of a mesh."""
    placed = jax.device_put((z, sigma), batch_sharding(mesh))
    return jax.block_until_ready(eqx.filter_jit(denoiser)(*placed))


def errors(got, expected):
    """‖got - expected‖ / ‖expected‖ for every row."""
    got, expected = (np.asarray(x, float).reshape(len(x), -1) for x in (got, expected))
    return np.linalg.norm(got - expected, axis=1) / np.linalg.norm(expected, axis=1)


def start(mesh, count=16, event=(8, 8, 1)):
    """States at the first level of GRID, and the keys of the steps."""
    z = GRID[0] * np.random.default_rng(2).standard_normal((count, *event))
    keys = rng.sample_keys(0, rng.Role.STEP, np.arange(count))
    return jax.device_put((z.astype(np.float32), keys), batch_sharding(mesh))


@pytest.mark.parametrize("dataset", [Digits().load(), images(1500)], ids=["digits", "images"])
def test_the_full_scan_is_that_of_float64_at_all_noise_levels(dataset):
    assert check(dataset, sigmas=(0.002, 0.05, 0.5, 2.0, 10.0, 80.0)) <= 1e-4


def test_the_golden_scan_meets_its_tolerance(mesh):
    dataset, sigmas = images(3000, side=16), (0.05, 0.5, 3.0, 20.0)
    rows = dataset.to_model(dataset.x, float).reshape(len(dataset), -1)
    golden = Golden(tolerance=0.01).fit(Placed(dataset, mesh), sigmas)
    assert isinstance(golden, GoldenScan)
    assert golden.plan.works
    for sigma in sigmas:
        z, level = near(dataset, sigma)
        expected, _, _ = posterior(rows, z.reshape(len(z), -1).astype(float), level.astype(float))
        assert errors(answer(golden, mesh, z, level).mean, expected).max() <= 0.01, sigma


@pytest.mark.parametrize("name", SCORES)
def test_every_score_is_that_of_the_cpu(name, mesh, host):
    with config.composer() as composer:
        score = composer.experiment([f"score={name}"]).score
    dataset = fields.dataset() if name == "golden" else Digits().load()
    for sigma in (0.1, 1.0, 10.0):
        z, level = near(dataset, sigma)
        here = answer(score.fit(Placed(dataset, mesh), [sigma]), mesh, z, level).mean
        with jax.default_device(host.devices.item()):
            there = answer(score.fit(Placed(dataset, host), [sigma]), host, z, level).mean
        assert here.devices() == set(mesh.devices.flat)
        assert errors(here, there).max() <= (0.02 if "gold" in name else 1e-4), sigma


@pytest.mark.parametrize("method", [DDIM(), Ancestral()], ids=["ddim", "ancestral"])
def test_samples_are_those_of_the_cpu(method, mesh, host):
    dataset, steps = Digits().load(), method.steps(GRID)
    here = Engine(Exact().fit(Placed(dataset, mesh)), steps).sample(*start(mesh, 100))
    with jax.default_device(host.devices.item()):
        there = Engine(Exact().fit(Placed(dataset, host)), steps).sample(*start(host, 100))
    assert np.mean(np.abs(np.asarray(here) - there).max(axis=(1, 2, 3)) < 1e-3) >= 0.99


def test_picard_blocks_repeat_the_steps_one_by_one(mesh):
    denoiser = Exact().fit(Placed(Digits().load(), mesh))
    sampler = DDIM(block_size="all", tolerance=1e-5, start="constant")
    engine = ParallelEngine(denoiser, sampler.blocks(GRID), sampler, mesh)
    found = engine.sample(*start(mesh))
    expected = Engine(denoiser, DDIM().steps(GRID)).sample(*start(mesh))
    assert np.abs(np.asarray(found) - expected).max() < 1e-3
    assert engine.account["sweeps"].max() <= 20


@pytest.mark.parametrize("sigma", [0.02, 2.0])
def test_rows_from_the_host_give_the_same_posterior(sigma, mesh):
    dataset = images(3000)
    z, level = near(dataset, sigma)
    found, expected = (
        answer(Exact(rows=where, chunk_rows=700).fit(Placed(dataset, mesh)), mesh, z, level)
        for where in ("host", "device")
    )
    assert errors(found.mean, expected.mean).max() <= 1e-5
    assert np.allclose(found.log_density, expected.log_density, rtol=1e-5)


@pytest.mark.parametrize("score", [Exact(), Golden()], ids=["full", "golden"])
def test_a_scan_neither_asks_the_host_nor_copies_the_data(score, mesh):
    dataset = images(10_000)
    z, level = jax.device_put(near(dataset, 0.5), batch_sharding(mesh))
    denoiser = score.fit(Placed(dataset, mesh), [0.5])
    scan = eqx.filter_jit(denoiser).lower(z, level).compile()
    assert "callback" not in scan.compiled.as_text()
    # Half of what all rows would take in float32.
    assert scan.compiled.memory_analysis().temp_size_in_bytes < 2 * dataset.x.nbytes
    with jax.transfer_guard("disallow"):
        jax.block_until_ready(scan(z, level))


def test_a_whole_run_is_on_the_device_and_has_all_its_results(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = [word for word in SMALL if "budget" not in word and "subset" not in word]
    words += fields.saved(tmp_path / "fields.npy")
    result = gdiff("sample", "-q", *words, "score=golden", "trajectory=true", "hydra.run.dir=run")
    assert result.code == 0, result.err
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["devices"] == [str(jax.devices()[0])]
    assert (tmp_path / "run" / "budget.png").is_file()
