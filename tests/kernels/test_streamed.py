from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from commands import gdiff

from gdiff.dataset import Dataset
from gdiff.dataset.placed import Placed
from gdiff.errors import UserError
from gdiff.kernels import streamed
from gdiff.kernels.fold import on_devices
from gdiff.kernels.streamed import Source, Streamed, placed
from gdiff.parallel.mesh import make_mesh
from gdiff.score.exact import Exact
from gdiff.score.golden import index


def mapped(folder, x):
    """Pictures in a memory-mapped file."""
    np.save(folder / "x.npy", x)
    return Dataset("images", np.load(folder / "x.npy", mmap_mode="r"), shift=127.5, scale=127.5)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """1 003 smooth pictures, some of them twice."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (1003, 3, 3, 3))
    x = coarse.repeat(4, axis=1).repeat(4, axis=2) + rng.integers(-20, 20, (1003, 12, 12, 3))
    x = np.clip(x, 0, 255).astype(np.uint8)
    x[500:520] = x[:20]
    return mapped(tmp_path_factory.mktemp("images"), x)


def answers(spec, dataset, mesh, sigmas=(0.01, 0.3, 3.0, 30.0)):
    """Posteriors at noised data, four per level."""
    denoiser = jax.jit(spec.fit(Placed(dataset, make_mesh(mesh)), sigmas).__call__)
    rng = np.random.default_rng(1)
    z = dataset.rows(rng.integers(0, len(dataset), 4))
    noise = rng.standard_normal(z.shape)
    return [denoiser(jnp.asarray(z + s * noise, jnp.float32), jnp.full(4, s)) for s in sigmas]


@pytest.mark.parametrize(
    "mesh, chunk_rows",
    [
        ("data:3", 64),
        pytest.param("data:2/batch:2", 0, marks=pytest.mark.slow),
        pytest.param("batch:1", 100, marks=pytest.mark.slow),
    ],
)
def test_rows_on_the_host_give_the_same_posterior(images, mesh, chunk_rows):
    device, host = (
        answers(Exact(rows=rows, chunk_rows=chunk_rows), images, mesh)
        for rows in ("device", "host")
    )
    for a, b in zip(device, host, strict=True):
        # Products of the same numbers may be summed in another order.
        assert np.allclose(a.mean, b.mean, rtol=0, atol=5e-6)
        assert np.allclose(a.trace_cov, b.trace_cov, rtol=1e-5, atol=1e-5)
        assert np.allclose(a.log_density, b.log_density, rtol=1e-6)


def test_norms_come_from_the_cache_the_second_time(images, tmp_path, monkeypatch):
    monkeypatch.setenv("GDIFF_CACHE", str(tmp_path))
    first = Exact(rows="host").fit(Placed(images, make_mesh("data:2")))
    monkeypatch.setattr(Source, "part", None)
    again = Exact(rows="host").fit(Placed(images, make_mesh("data:3")))
    n = len(images)
    assert np.array_equal(first.rows.half_norms[:n], again.rows.half_norms[:n])
    assert np.array_equal(first.rows.centre, again.rows.centre)
    assert float(first.rows.radius) == float(again.rows.radius)


def test_a_memory_map_is_read_through_its_file(images):
    flat = images.x.reshape(len(images), -1)
    for x in (flat, flat[7:], np.array(flat), flat[::2]):
        source = Source(x, 1)
        assert (source._file is not None) == (isinstance(x, np.memmap) and x.flags.c_contiguous)
        index = np.array([[3, 0, 3], [len(x) - 1, 5, len(x)]])
        got = source.rows(np.int32(0), index, count=len(x))
        assert np.array_equal(got, x[np.minimum(index, len(x) - 1)])
        for start in (0, 100, 200, len(x) - 100, 0):
            got = source.part(np.int32(0), np.int32(start), size=100, count=len(x))
            assert np.array_equal(got, x[start : start + 100])


def test_rows_beyond_the_end_are_zeros(images):
    x = images.x.reshape(len(images), -1)
    count = -(-len(x) // 2)
    got = Source(x, 2).part(np.int32(1), np.int32(count - 10), size=10, count=count)
    assert np.array_equal(got[:9], x[-9:])
    assert not got[9:].any()


def test_few_chunks_are_in_memory_at_a_time(images):
    x = images.x.reshape(len(images), -1)
    source = Source(x, 1)
    for start in [*range(0, 1000, 10), 993]:
        source.part(np.int32(0), np.int32(start), size=10, count=len(x))
    assert len(source._chunks) <= 2 * (streamed._MOST_AHEAD + 1)


def test_a_file_that_shrinks_is_an_error(images, tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, images.x.reshape(len(images), -1))
    x = np.load(path, mmap_mode="r")
    source = Source(x, 1)
    with path.open("r+b") as file:
        file.truncate(1000)
    with pytest.raises(EOFError, match="shorter"):
        source.rows(np.int32(0), np.array([900]), count=len(x))


def test_files_that_are_large_for_the_memory_stay_on_the_host(images, monkeypatch):
    x, mesh = images.x.reshape(len(images), -1), make_mesh("batch:1")
    assert isinstance(placed(x, mesh, "auto"), jax.Array)
    monkeypatch.setattr("gdiff.memory.of_host", lambda: 2 * x.nbytes)
    assert isinstance(placed(x, mesh, "auto"), Streamed)
    assert isinstance(placed(x, mesh, "device"), jax.Array)
    assert isinstance(placed(np.array(x), mesh, "auto"), jax.Array)


def test_another_place_for_rows_is_a_mistake():
    with pytest.raises(UserError, match=r"rows='disk' is not one of: auto, device, host"):
        Exact(rows="disk")


@pytest.mark.slow
@pytest.mark.parametrize("mesh", ["batch:1", "data:2/batch:2"])
def test_golden_with_rows_on_the_host_gives_the_same_posterior(images, mesh):
    mesh, aim = make_mesh(mesh), 1e-3
    z, sigma = jnp.asarray(images.rows(slice(4)).reshape(4, -1)) + 0.1, jnp.full(4, 0.5)
    found = []
    for rows in ("device", "host"):
        full = Exact(rows=rows).fit(Placed(images, mesh))
        golden = index.build(images, full, (64, 128), tolerance=0.01)
        run = partial(on_devices, mesh, lambda x, *query: x.scan(2, aim, *query), golden)
        found.append(jax.jit(run)(z, sigma))
    for a, b in zip(*map(jax.tree.leaves, found), strict=True):
        assert np.allclose(a, b, rtol=1e-4, atol=5e-6)


@pytest.mark.slow
def test_samples_are_the_same_wherever_the_rows_are(images, tmp_path):
    common = [
        *(
            "dataset=array",
            f"dataset.path={images.x.filename}",
            "num_samples=2",
            "runtime.mesh=batch:1",
        ),
        *("schedule.steps=3", "schedule.sigma_min=0.3", "metrics=none"),
    ]
    samples = []
    for rows in ("device", "host"):
        folder = tmp_path / rows
        assert (
            gdiff("sample", "-q", *common, f"score.rows={rows}", f"hydra.run.dir={folder}").code
            == 0
        )
        samples.append(np.load(folder / "samples.npz")["samples"])
    assert np.allclose(*samples, rtol=0, atol=1e-5)
