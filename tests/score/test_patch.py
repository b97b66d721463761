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
from gdiff.score import patch as module
from gdiff.score.patch import Patch

from .exact import posterior

SIGMAS = (0.02, 0.3, 1.0, 5.0, 80.0)


def fit(dataset, layout="batch:1", **options):
    return eqx.filter_jit(Patch(**options).fit(Placed(dataset, make_mesh(layout))))


def images(n, h, w, c, seed=0):
    x = np.random.default_rng(seed).integers(0, 256, (n, h, w, c), dtype=np.uint8)
    return Dataset("images", x, shift=127.5, scale=127.5)


def queries(dataset, sigmas, seed=0):
    """A noised data point for each level, float32."""
    rng = np.random.default_rng(seed)
    y = dataset.rows(rng.integers(0, len(dataset), len(sigmas)))
    noise = np.reshape(sigmas, (-1, 1, 1, 1)) * rng.standard_normal(y.shape)
    return jnp.asarray(y + noise, jnp.float32), jnp.array(sigmas, jnp.float32)


def places(m, radius, length):
    """Coordinates whose windows are cut like the one around m: whole ones, or only its own."""
    whole = range(radius, length - radius)
    return whole if m in whole else (m,)


def by_hand(dataset, z, sigma, radius, equivariant):
    """Mean and trace in float64, window by window."""
    y = dataset.to_model(dataset.x, np.float64)
    z = np.asarray(z, np.float64)
    _, h, w, _ = y.shape

    def window(x, i, j):
        return x[..., max(i - radius, 0) : i + radius + 1, max(j - radius, 0) : j + radius + 1, :]

    mean, trace = np.empty_like(z), np.zeros(len(z))
    for b, i, j in np.ndindex(len(z), h, w):
        rows = places(i, radius, h) if equivariant else (i,)
        columns = places(j, radius, w) if equivariant else (j,)
        where = [(p, q) for p in rows for q in columns]
        patches = np.concatenate([window(y, p, q) for p, q in where])
        centres = np.concatenate([y[:, p, q] for p, q in where])
        squares = np.sum((window(z[b], i, j) - patches) ** 2, axis=(1, 2, 3))
        weights = np.exp(-(squares - squares.min()) / (2 * float(sigma[b]) ** 2))
        weights /= weights.sum()
        mean[b, i, j] = weights @ centres
        trace[b] += np.sum(weights @ (centres - mean[b, i, j]) ** 2)
    return mean, trace


def check(dataset, radius, equivariant, got, z, sigma):
    mean, trace = by_hand(dataset, z, sigma, radius, equivariant)
    assert np.allclose(got.mean, mean, atol=2e-5)
    scale = trace + dataset.dim * np.asarray(sigma) ** 2
    assert np.all(np.abs(got.trace_cov - trace) <= 1e-5 * scale)
    assert got.log_density is None
    assert got.error_bound is None


BOTH = pytest.mark.parametrize("equivariant", [False, True], ids=["ls", "els"])


@BOTH
@pytest.mark.parametrize(
    "shape, size",
    [((5, 6, 7, 1), 5), ((4, 7, 5, 3), 3), ((1, 3, 4, 2), 1), ((2, 1, 9, 1), 3)],
    ids=str,
)
def test_matches_windows_compared_one_by_one(shape, size, equivariant):
    data = images(*shape)
    z, sigma = queries(data, SIGMAS)
    got = fit(data, patch_size=size, equivariant=equivariant)(z, sigma)
    check(data, (size - 1) // 2, equivariant, got, z, sigma)


@BOTH
def test_rows_of_a_batch_have_windows_of_their_own_size(equivariant):
    data = images(6, 8, 6, 1)
    spread = data.rows(slice(None)).std()
    sigmas = spread * np.array([0.1, 0.9, 1.2, 2.3, 4.5, 100.0])
    z, sigma = queries(data, sigmas)
    got = fit(data, equivariant=equivariant)(z, sigma)
    for i, radius in enumerate([1, 1, 2, 3, 5, 7]):
        part = got._replace(mean=got.mean[i : i + 1], trace_cov=got.trace_cov[i : i + 1])
        check(data, radius, equivariant, part, z[i : i + 1], sigma[i : i + 1])


def test_windows_as_large_as_the_image_give_the_exact_posterior():
    data = Digits(subset=200).load()
    z, sigma = queries(data, (0.002, *SIGMAS))
    y = data.to_model(data.x, np.float64).reshape(200, 64)
    mean, trace, _ = posterior(y, np.asarray(z, float).reshape(-1, 64), np.asarray(sigma, float))
    for equivariant in (False, True):
        got = fit(data, patch_size=15, equivariant=equivariant)(z, sigma)
        assert np.allclose(got.mean.reshape(mean.shape), mean, atol=2e-5)
        assert np.allclose(got.trace_cov, trace, rtol=1e-4, atol=1e-6)


def test_windows_of_one_pixel_give_scalar_posteriors():
    data = Digits(subset=100).load()
    z, sigma = queries(data, SIGMAS)
    got = fit(data, patch_size=1)(z, sigma)
    y = data.rows(slice(None)).astype(float)
    trace = 0
    for i, j in np.ndindex(8, 8):
        mean, spread, _ = posterior(y[:, i, j], np.asarray(z, float)[:, i, j], np.asarray(sigma))
        assert np.allclose(got.mean[:, i, j], mean, atol=1e-5)
        trace += spread
    assert np.allclose(got.trace_cov, trace, rtol=1e-4)


def test_a_moved_image_has_a_moved_equivariant_denoiser_away_from_the_border():
    data = images(3, 12, 12, 1)
    denoise = fit(data, patch_size=3, equivariant=True)
    z = jax.random.normal(jax.random.key(0), (1, 12, 12, 1))
    sigma = jnp.array([0.5])
    here = denoise(z, sigma).mean
    there = denoise(jnp.roll(z, (2, -3), (1, 2)), sigma).mean
    moved = jnp.roll(here, (2, -3), (1, 2))
    assert np.allclose(there[:, 3:11, 1:8], moved[:, 3:11, 1:8], atol=1e-5)
    local = fit(data, patch_size=3)
    there = local(jnp.roll(z, (2, -3), (1, 2)), sigma).mean
    moved = jnp.roll(local(z, sigma).mean, (2, -3), (1, 2))
    assert not np.allclose(there[:, 3:11, 1:8], moved[:, 3:11, 1:8], atol=1e-2)


def test_mosaics_of_two_images_are_kept():
    data = images(2, 6, 8, 3)
    y = data.rows(slice(None))
    mosaic = np.concatenate([y[:1, :, :4], y[1:, :, 4:]], axis=2)
    got = fit(data, patch_size=3)(jnp.asarray(mosaic), jnp.array([0.05]))
    assert np.allclose(got.mean, mosaic, atol=1e-5)


@BOTH
def test_trace_is_the_divergence(equivariant):
    with jax.enable_x64(True):
        data = images(4, 4, 5, 2)
        denoise = fit(data, patch_size=3, equivariant=equivariant)
        z = jax.random.normal(jax.random.key(1), (1, 4, 5, 2), jnp.float64)
        steps = 1e-5 * jnp.eye(40).reshape(40, 4, 5, 2)
        got = denoise(jnp.concatenate([z + steps, z - steps, z]), jnp.full(81, 1.1))
        change = (got.mean[:40] - got.mean[40:80]).reshape(40, 40) / 2e-5
        assert np.isclose(jnp.trace(change) * 1.1**2, got.trace_cov[80], rtol=1e-7)
        expected, _ = by_hand(data, z, [1.1], 1, equivariant)
        assert np.allclose(got.mean[80:], expected, atol=1e-12)


@pytest.mark.parametrize("layout, equivariant", [("data:4", True), ("data:2/batch:2", False)])
def test_every_layout_of_devices_gives_the_same(layout, equivariant):
    data = images(7, 4, 5, 1)
    z, sigma = queries(data, (0.05, 0.5, 2.0, 40.0))
    got = fit(data, layout, patch_size=3, equivariant=equivariant)(z, sigma)
    check(data, 1, equivariant, got, z, sigma)


@pytest.mark.parametrize("values", [1, 1000])
def test_the_chunk_size_does_not_matter(values, monkeypatch):
    monkeypatch.setattr(module, "_CHUNK_VALUES", values)
    data = images(11, 6, 6, 2)
    z, sigma = queries(data, SIGMAS)
    check(data, 1, False, fit(data, patch_size=3)(z, sigma), z, sigma)


def test_constant_pixels_and_duplicates_stay_exact():
    data = images(10, 6, 6, 1)
    data.x[:, :2] = 31
    data.x[5:] = data.x[:5]
    for equivariant in (False, True):
        z, sigma = queries(data, (1e-3, *SIGMAS))
        got = fit(data, patch_size=3, equivariant=equivariant)(z, sigma)
        assert np.isfinite(got.mean).all()
        if not equivariant:
            assert np.allclose(got.mean[:, :2], data.to_model(np.uint8(31)), atol=1e-7)
        check(data, 1, equivariant, got, z, sigma)


def test_float_images_far_from_the_origin():
    x = (1000 + np.random.default_rng(0).standard_normal((30, 4, 4, 1))).astype(np.float32)
    data = Dataset("far", x)
    z, sigma = jnp.asarray(x[:2] + np.float32(0.01)), jnp.array([0.1, 0.5])
    mean, trace = by_hand(data, z, sigma, 1, False)
    got = fit(data, patch_size=3)(z, sigma)
    assert np.allclose(got.mean, mean, atol=2e-4)
    assert np.allclose(got.trace_cov, trace, rtol=1e-3, atol=1e-5)


def test_fewer_images_are_a_fixed_choice_among_all():
    data = images(20, 4, 4, 1)
    z, sigma = queries(data, SIGMAS)
    some = [fit(data, patch_size=3, max_images=5)(z, sigma).mean for _ in range(2)]
    assert np.array_equal(*some)
    assert Patch(max_images=5).fit(Placed(data, make_mesh("batch:1"))).rows.n == 5
    for more in (None, 20, 99):
        scan = Patch(max_images=more).fit(Placed(data, make_mesh("batch:1")))
        assert np.array_equal(scan.rows.stored, data.x.reshape(20, -1))


def test_never_holds_the_distances_to_all_images():
    data = Dataset("many", np.zeros((20_000, 8, 8, 1), np.uint8), shift=127.5, scale=127.5)
    scan = Patch().fit(Placed(data, make_mesh("batch:1")))
    assert scan.rows.stored.dtype == jnp.uint8
    program = jax.jit(scan.__call__).lower(jnp.zeros((64, 8, 8, 1)), jnp.ones(64)).compile()
    assert program.memory_analysis().temp_size_in_bytes < 32 * 2**20


def test_bad_settings_are_refused():
    for size in (0, 4, -1, "large", 3.5):
        with pytest.raises(UserError, match="patch_size"):
            Patch(patch_size=size)
    with pytest.raises(UserError, match="max_images=0"):
        Patch(max_images=0)


@pytest.mark.parametrize("shape", [(2,), (5, 3)])
def test_points_that_are_no_images_are_refused_in_one_line(shape):
    data = Dataset("points", np.zeros((4, *shape), np.float32))
    with pytest.raises(UserError, match="need images, and the points of points have shape"):
        Patch().fit(Placed(data, make_mesh("batch:1")))
