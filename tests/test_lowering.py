"""What the hot path compiles for a GPU, found out without one: it lowers, and stays on the device.

Rows on the host (`score.rows=host`) are the one exception: they are sent by callbacks.
"""

import re
from functools import partial
from types import SimpleNamespace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gdiff import config, memory, rng
from gdiff.dataset import Dataset
from gdiff.dataset.placed import Placed
from gdiff.denoiser import Posterior
from gdiff.network import files
from gdiff.network.unet import UNet
from gdiff.parallel.mesh import batch_sharding, make_mesh
from gdiff.sampler.drivers import driver, parallel, picard, sequential
from gdiff.score.golden.scan import GoldenScan

SIGMAS = (0.1, 1.0, 10.0)
GRID = np.array([10.0, 3.0, 1.0, 0.3, 0.0])
# The options of a group are its files.
SCORES, SAMPLERS = (
    sorted(path.stem for path in (config.config_dir() / group).glob("*.yaml"))
    for group in ("score", "sampler")
)


def callbacks(traced):
    """The primitives of a traced function that call Python."""
    return set(re.findall(r"\b(?:pure|io|debug)_callback\b", str(traced.jaxpr)))


def traced(function, *arguments):
    """A function of arrays and of other things, traced with these."""
    arrays, rest = eqx.partition(arguments, eqx.is_array)
    return jax.jit(lambda arrays: function(*eqx.combine(arrays, rest))).trace(arrays)


def assert_stays_on_a_gpu(function, *arguments):
    """It lowers for CUDA, without callbacks; returns zeros of the shapes of its results."""
    found = traced(function, *arguments)
    assert not callbacks(found)
    assert "callback" not in found.lower(lowering_platforms=("cuda",)).as_text()
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), found.out_info)


@pytest.fixture(scope="module")
def composer():
    with config.composer() as composer:
        yield composer


@pytest.fixture(scope="module")
def mesh():
    return make_mesh("data:2/batch:2")


@pytest.fixture
def data(mesh):
    """Images that leave the golden scan something to save: more than 512, of 432 numbers."""
    x = np.random.default_rng(0).integers(0, 256, (600, 12, 12, 3), np.uint8)
    return Placed(Dataset("noise", x, shift=127.5, scale=127.5), mesh)


@pytest.fixture
def _planned(monkeypatch, tmp_path):
    """Plans and sizes of heads by hand: measuring them takes long, and none is used here."""
    monkeypatch.setenv("GDIFF_CACHE", str(tmp_path))
    works = [[1, 1], [0, 1], [0, 1]]  # a coarse scan, and the full scan
    monkeypatch.setattr("gdiff.score.golden.plan._measure", lambda *_: np.array(works, float))
    heads = np.array([[192, 256, 192], [0, 0, 0]], float)
    monkeypatch.setattr("gdiff.score.local.subset._measure", lambda *_: heads)


@pytest.mark.usefixtures("_planned")
@pytest.mark.parametrize("name", SCORES)
def test_scores_stay_on_the_device(name, composer, mesh, data, tmp_path):
    words = [f"score={name}"]
    if name == "network":
        network, shape = UNet(width=4), data.dataset.event_shape
        facts = files.Facts(shape, None, "noise", "0", 0)
        files.write(tmp_path / files.NETWORK, network, files.empty(network, shape), facts)
        words += [f"score.path={tmp_path}"]
    spec = composer.experiment(words).score
    denoiser = spec.fit(data, SIGMAS)
    assert isinstance(denoiser, GoldenScan) or name != "golden"
    z = jax.device_put(np.zeros((2, 12, 12, 3), np.float32), batch_sharding(mesh))
    assert_stays_on_a_gpu(denoiser, z, jnp.full(2, 0.5))


def test_a_callback_is_found(composer, mesh, data):
    denoiser = composer.experiment(["score.rows=host"]).score.fit(data, SIGMAS)
    z = jax.device_put(np.zeros((2, 12, 12, 3), np.float32), batch_sharding(mesh))
    assert callbacks(traced(denoiser, z, jnp.full(2, 0.5))) == {"pure_callback"}


def shrunk(z, sigma):
    """The denoiser of standard normal data."""
    return Posterior(z / (1 + sigma[:, None] ** 2))


@pytest.fixture
def programs(monkeypatch):
    """Names of the drivers' programs that are called in the test: they are lowered, and not run."""
    seen = set()

    class Spy:
        def __init__(self, name, program):
            self.name, self.program = name, program

        def __call__(self, *arguments, **options):
            seen.add(self.name)
            return assert_stays_on_a_gpu(partial(self.program, **options), *arguments)

        def lower(self, *arguments, **options):
            nothing = SimpleNamespace(compiled=None)
            return SimpleNamespace(compile=lambda: nothing)

    monkeypatch.setattr(memory, "of_program", lambda _: 0)
    kind = type(sequential._advance)
    for module in (sequential, parallel, picard):
        for name, value in list(vars(module).items()):
            if isinstance(value, kind):
                monkeypatch.setattr(module, name, Spy(name, value))
    return seen


@pytest.fixture
def start(mesh):
    """Samples before their first step, and the keys of their noise."""
    keys = rng.sample_keys(np.uint32(0), rng.Role.STEP, jnp.arange(2))
    return jax.device_put((np.zeros((2, 6), np.float32), keys), batch_sharding(mesh))


@pytest.mark.parametrize("name", SAMPLERS)
def test_steps_stay_on_the_device(name, composer, mesh, start, programs):
    sampler = composer.experiment([f"sampler={name}", "sampler.block_size=1"]).sampler
    driver(shrunk, sampler.blocks(GRID), sampler, mesh).compile(*start)
    assert "_advance" in programs


@pytest.mark.parametrize("name", SAMPLERS)
def test_sweeps_stay_on_the_device(name, composer, mesh, start, programs):
    sampler = composer.experiment([f"sampler={name}", "sampler.block_size=3"]).sampler
    guess = None if sampler.start == "constant" else shrunk
    driver(shrunk, sampler.blocks(GRID), sampler, mesh, guess).compile(*start)
    assert programs >= {"begin", "sweep", "finish"}
