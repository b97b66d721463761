from functools import cache

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gdiff.dataset import Dataset
from gdiff.dataset.digits import Digits
from gdiff.dataset.placed import Placed
from gdiff.errors import UserError
from gdiff.kernels import selection
from gdiff.parallel.mesh import make_mesh
from gdiff.process.ddpm import DDPM
from gdiff.score import golddiff
from gdiff.score.exact import Exact
from gdiff.score.golddiff import GoldDiff

SIGMAS = (0.02, 0.2, 0.7, 2.0, 5.0, 30.0)
# Where two rows are closer than this, relatively, float32 may take one for the other.
MARGIN = 1e-5


def pooled(images, side):
    """Adaptive average pooling of [n, h, w, c], one window after another."""
    h, w = images.shape[1:3]
    out = np.zeros((len(images), min(side, h), min(side, w), images.shape[3]))
    for i in range(out.shape[1]):
        for j in range(out.shape[2]):
            top, bottom = i * h // out.shape[1], -(-(i + 1) * h // out.shape[1])
            left, right = j * w // out.shape[2], -(-(j + 1) * w // out.shape[2])
            out[:, i, j] = images[:, top:bottom, left:right].mean(axis=(1, 2))
    return out.reshape(len(images), -1)


def nearest(distances, rows, count):
    """The `count` nearest of `rows`, ties included, and the relative gap to the next one."""
    order = np.sort(distances[rows])
    chosen = rows[distances[rows] <= order[count - 1]]
    gap = order[len(chosen)] - order[count - 1] if len(chosen) < len(rows) else np.inf
    return chosen, gap / np.ptp(order) if len(rows) > 1 else np.inf


def rule(dataset, spec, z, sigma, drawn=None):
    """The rule for one query in float64: mean, trace of covariance, and the narrowest gap."""
    y = dataset.to_model(dataset.x, np.float64)
    n = len(y)
    flat, query = y.reshape(n, -1), z.astype(np.float64).ravel()
    distances = np.sum((flat - query) ** 2, axis=1)
    coarse = distances
    if spec.proxy_size is not None:
        image = z.astype(np.float64).reshape(1, *dataset.event_shape)
        coarse = np.sum((pooled(y, spec.proxy_size) - pooled(image, spec.proxy_size)) ** 2, axis=1)
    k_min, k_max = max(1, round(spec.k_min * n)), max(1, round(spec.k_max * n))
    rest = 1 - sigma / np.sqrt(1 + sigma**2)
    m = round(k_max + (n - k_max) * rest)
    k = round(k_max - (k_max - k_min) * rest)
    rows = np.arange(n)
    if drawn is not None:
        assert drawn.sum() == m
        rows, m = rows[drawn], k_max
    rows, gap = nearest(coarse, rows, m)
    rows, other_gap = nearest(distances, rows, k)
    size = len(rows) if spec.estimator == "ss" else spec.wss_batch
    batches = [rows[i : i + size] for i in range(0, len(rows), size)]
    weights = np.zeros(n)
    for batch in batches:
        part = np.exp((distances[batch].min() - distances[batch]) / (2 * sigma**2))
        weights[batch] = part / part.sum() / len(batches)
    mean = weights @ flat
    return mean, weights @ np.sum((flat - mean) ** 2, axis=1), min(gap, other_gap)


def queries(dataset, sigmas=SIGMAS, each=4, seed=0):
    """Noised points and others, z [b, *event] and sigma [b]."""
    rng = np.random.default_rng(seed)
    x = dataset.rows(rng.integers(len(dataset), size=len(sigmas) * each))
    sigma = np.repeat(np.array(sigmas, np.float32), each)
    wide = sigma.reshape(-1, *[1] * (x.ndim - 1))
    noisy = x + wide * rng.standard_normal(x.shape)
    is_far = (np.arange(len(x)) % 4 == 3).reshape(wide.shape)
    return np.where(is_far, noisy - x, noisy).astype(np.float32), sigma


def drawn_rows(denoiser, z, sigma):
    """The random part of the rows that each query sees."""
    rows = denoiser.rows
    flat = z.reshape(len(z), -1) * rows.scale + rows.shift - rows.centre
    keys = eqx.filter_jit(denoiser.keys)(flat, sigma * np.float32(rows.scale))
    draw = jax.jit(selection.uniform_subset, static_argnums=3)
    n = rows.n
    return np.asarray(draw(keys, denoiser.candidate_size(sigma), np.arange(n), n))


def denoised(denoiser, z, sigma):
    return eqx.filter_jit(denoiser)(jnp.asarray(z), jnp.asarray(sigma))


def check(dataset, spec, mesh="batch:1", ask=queries):
    """Compare with the rule in float64 on one batch of all noise levels."""
    denoiser = spec.fit(Placed(dataset, make_mesh(mesh)))
    z, sigma = ask(dataset)
    got = denoised(denoiser, z, sigma)
    drawn = drawn_rows(denoiser, z, sigma) if spec.presample else [None] * len(z)
    clear = 0
    for i in range(len(z)):
        mean, trace, gap = rule(dataset, spec, z[i], float(sigma[i]), drawn[i])
        if gap > MARGIN:
            clear += 1
            assert np.allclose(got.mean[i].ravel(), mean, atol=1e-5 * max(1, np.abs(mean).max()))
            assert np.isclose(got.trace_cov[i], trace, rtol=1e-4, atol=1e-5 * dataset.dim)
    assert clear >= 0.7 * len(z)
    assert got.log_density is None
    assert got.error_bound is None
    return got


@cache
def digits():
    return Digits(subset=301).load()


def digit_spec(estimator, presample):
    """One spec for several tests, so that they share programs."""
    return GoldDiff(estimator=estimator, presample=presample, wss_batch=7, proxy_size=4)


@cache
def colour_images(shape=(6, 20, 3)):
    """Random pictures with some common structure, so that distances differ."""
    rng = np.random.default_rng(0)
    basis = rng.standard_normal((5, *shape))
    x = np.tensordot(rng.standard_normal((150, 5)), basis, 1) + rng.standard_normal((150, *shape))
    x = np.clip(127.5 + 40 * x, 0, 255).astype(np.uint8)
    return Dataset("colours", x, shift=127.5, scale=127.5)


@pytest.mark.parametrize("estimator, presample", [("ss", False), ("wss", True)])
def test_follows_the_rule_on_digits(estimator, presample):
    check(digits(), digit_spec(estimator, presample))


@pytest.mark.parametrize("size, presample", [(4, True), (7, False)])
def test_follows_the_rule_on_colour_images_that_are_not_square(size, presample):
    spec = GoldDiff(k_min=0.03, k_max=0.5, proxy_size=size, presample=presample)
    check(colour_images(), spec)


def test_follows_the_rule_on_points_in_the_plane():
    x = np.random.default_rng(1).standard_normal((200, 2)).astype(np.float32)
    check(Dataset("plane", x), GoldDiff(presample=True))


@pytest.mark.parametrize(
    "layout, estimator",
    [
        pytest.param("data:4", "ss", marks=pytest.mark.slow),
        ("data:2/batch:2", "wss"),
    ],
)
def test_every_layout_of_devices_follows_the_rule(layout, estimator):
    check(digits(), digit_spec(estimator, presample=True), layout)


@pytest.mark.parametrize(
    "x, layout", [([0.3], "batch:1"), ([-1, 1], "batch:1"), ([-1, 1], "data:4")]
)
def test_one_and_two_points_follow_the_rule_on_any_number_of_devices(x, layout):
    data = Dataset("tiny", np.array(x, np.float32)[:, None])
    check(data, GoldDiff(k_max=1.0, estimator="wss", wss_batch=1, presample=True), layout)


def test_duplicates_that_tie_for_the_last_place_are_all_used():
    # Whole numbers, for which float32 is exact: so ties are ties.
    rng = np.random.default_rng(2)
    x = np.repeat(rng.integers(0, 20, (60, 5), dtype=np.uint8), 3, axis=0)[rng.permutation(180)]

    def ask(dataset):
        z = rng.integers(0, 20, (24, 5)).astype(np.float32)
        return z, np.repeat(np.array([0.5, 2, 9], np.float32), 8)

    spec = GoldDiff(k_min=0.03, k_max=0.21, estimator="wss", wss_batch=10)
    check(Dataset("whole numbers", x), spec, "data:2", ask)


def test_a_query_does_not_depend_on_its_batch():
    denoiser = digit_spec("wss", presample=True).fit(Placed(digits(), make_mesh("batch:1")))
    z, sigma = queries(digits())
    together = denoised(denoiser, z, sigma)
    for i in range(0, len(z), 5):
        single = denoised(denoiser, z[i : i + 1], sigma[i : i + 1])
        assert np.allclose(single.mean[0], together.mean[i], atol=1e-5)
        assert np.allclose(single.trace_cov[0], together.trace_cov[i], rtol=1e-4, atol=1e-4)


def test_batches_too_large_for_memory_go_in_parts(monkeypatch):
    denoiser = digit_spec("ss", presample=False).fit(Placed(digits(), make_mesh("batch:1")))
    z, sigma = queries(digits())
    whole = denoised(denoiser, z, sigma)
    monkeypatch.setattr(golddiff, "_LARGEST_ARRAY", 7 * 512)
    program = jax.jit(lambda z, sigma: denoiser(z, sigma)).lower(z, sigma)
    assert "24x301" not in program.as_text()
    parts = program.compile()(z, sigma)
    assert np.allclose(parts.mean, whole.mean, atol=1e-5)
    assert np.allclose(parts.trace_cov, whole.trace_cov, rtol=1e-4, atol=1e-4)


def test_all_rows_in_one_softmax_are_the_exact_posterior():
    x = digits().x.copy()
    x[50:60] = x[:10]
    x[60:70] = x[:10]
    x[60:70, 3, 3] ^= 1
    x[100:120] = x[200]
    data = Dataset("digits", x, shift=digits().shift, scale=digits().scale)
    z, sigma = queries(data, sigmas=(0.002, 0.01, *SIGMAS, 160.0))
    mesh = make_mesh("batch:1")
    got = denoised(GoldDiff(k_min=1.0, k_max=1.0).fit(Placed(data, mesh)), z, sigma)
    exact = denoised(Exact().fit(Placed(data, mesh)), z, sigma)
    assert np.allclose(got.mean, exact.mean, atol=1e-5)
    assert np.allclose(got.trace_cov, exact.trace_cov, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layout", ["batch:1", "data:2"])
def test_copies_divide_the_weight_however_many_they_are(layout):
    rng = np.random.default_rng(0)
    pair = rng.integers(0, 256, (2, 768)).astype(np.uint8)
    x = np.repeat(pair, 100, axis=0)
    x[:100:2, 0] ^= 1
    data = Dataset("copies", x[rng.permutation(200)], shift=127.5, scale=127.5)
    a, b = data.to_model(pair, np.float64)

    def ask(dataset):
        sigma = np.repeat(np.array([0.002, 0.01, 0.1], np.float32), 4)[:, None]
        odds = np.tile([0.0, 0.3, -1.0, 2.0], 3)[:, None] * sigma**2 / np.sum((a - b) ** 2)
        z = (a + b) / 2 + odds * (a - b)
        return z.astype(np.float32), sigma[:, 0]

    check(data, GoldDiff(k_min=1.0, k_max=1.0), layout, ask)


def test_the_trace_is_the_divergence():
    with jax.enable_x64(True):
        denoiser = GoldDiff(k_min=0.1, k_max=0.3).fit(Placed(digits(), make_mesh("batch:1")))
        z = jax.random.normal(jax.random.key(1), (1, *digits().event_shape), jnp.float64)

        def denoise(z):
            posterior = denoiser(z, jnp.array([0.8]))
            return posterior.mean.ravel(), posterior

        jacobian, posterior = jax.jit(jax.jacfwd(denoise, has_aux=True))(z)
        divergence = jnp.trace(jacobian.reshape(64, 64))
        assert np.isclose(divergence * 0.8**2, posterior.trace_cov[0], rtol=1e-8)


def test_subset_sizes_run_from_k_min_to_k_max():
    denoiser = GoldDiff(k_min=1 / 15, k_max=1 / 7.5).fit(Placed(digits(), make_mesh("batch:1")))
    sigma = np.array([0, 1e-4, 0.1, 1, 3, 100, 1e4], np.float32)
    rest = 1 - sigma / np.sqrt(1 + sigma.astype(float) ** 2)
    assert np.array_equal(denoiser.subset_size(sigma), np.round(40 - (40 - 20) * rest))
    assert np.array_equal(denoiser.candidate_size(sigma), np.round(40 + (301 - 40) * rest))


@pytest.mark.parametrize(
    "shape, sides",
    [
        ((28, 28, 1), (14, 14)),
        ((32, 32, 3), (16, 16)),
        ((218, 20, 3), (16, 10)),
        ((8, 40, 1), (8, 10)),
        ((12, 16, 3), None),
        ((300,), None),
    ],
)
def test_the_automatic_proxy_divides_the_sides_where_it_can(shape, sides):
    data = Dataset("zeros", np.zeros((2, *shape), np.uint8))
    denoiser = GoldDiff().fit(Placed(data, make_mesh("batch:1")))
    assert denoiser.sides == sides
    assert (denoiser.proxy is None) == (sides is None)


def test_bad_settings_are_refused():
    for bad in ({"k_min": 0.0}, {"k_min": 0.2}, {"k_max": 1.5}, {"k_min": float("nan")}):
        with pytest.raises(UserError, match="k_min"):
            GoldDiff(**bad)
    with pytest.raises(UserError, match="estimator"):
        GoldDiff(estimator="sss")
    with pytest.raises(UserError, match="wss_batch"):
        GoldDiff(wss_batch=0)
    with pytest.raises(UserError, match="proxy_size"):
        GoldDiff(proxy_size=0)
    with pytest.raises(UserError, match="seed"):
        GoldDiff(seed=-1)


# Mean squared error to the exact posterior mean at DDPM times, measured by another program; those
# below 1e-4 count as 0, and None was not measured.
TIMES = (900, 700, 600, 300, 100)
MEASURED = {True: (0, 0.0021, 0.027, 0.045, 0.036), False: (0.035, 0.0010, 0, 0, None)}


def errors(approximate, exact, clean, level, batch=64):
    """Mean squared error of the posterior mean at noised points of `clean`, one number each."""
    noise = np.random.default_rng(0).standard_normal(clean.shape)
    z, sigma = (clean + level * noise).astype(np.float32), np.full(batch, level, np.float32)
    parts = [z[i : i + batch] for i in range(0, len(z), batch)]
    found = [denoised(approximate, z, sigma).mean - denoised(exact, z, sigma).mean for z in parts]
    return np.mean(np.concatenate(found) ** 2, axis=(1, 2, 3))


@pytest.mark.parametrize("presample", [True, False])
@pytest.mark.slow
def test_errors_on_cifar10_are_those_of_the_released_code_and_of_a_proxy_scan(
    presample, real_data_dir
):
    from gdiff.dataset.tfds import Tfds

    data = Tfds(name="cifar10", data_dir=real_data_dir).load()
    clean = Tfds(name="cifar10", data_dir=real_data_dir, split="test", subset=192).load()
    mesh = make_mesh("batch:1")
    exact, subset = (
        Exact().fit(Placed(data, mesh)),
        GoldDiff(presample=presample).fit(Placed(data, mesh)),
    )
    for time, expected in zip(TIMES, MEASURED[presample], strict=True):
        found = errors(subset, exact, clean.rows(slice(None)), DDPM().sigma(time))
        error = found.mean()
        # A presample holds the nearest point or does not: one query's error varies by its size.
        noise = 2 * found.std() / np.sqrt(len(found))
        print(f"presample={presample} i={time}: {error:.3g} ± {noise:.1g}, table {expected}")
        if expected == 0:
            assert error < 1e-4
        elif expected is not None:
            assert expected / 1.5 - noise < error < 1.5 * expected + noise
