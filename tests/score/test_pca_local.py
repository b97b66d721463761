import dataclasses
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
from gdiff.score.local import filters as local_filters
from gdiff.score.local import masks as local_masks
from gdiff.score.local import scan as local_scan
from gdiff.score.local import subset as local_subset
from gdiff.score.local.filters import filters
from gdiff.score.local.masks import WORD, Masks, MasksByWidth, masks
from gdiff.score.local.spec import PcaLocal

from .exact import posterior

SIGMAS = (0.01, 0.1, 0.4, 1.0, 3.0, 60.0)


# Shared, so that denoisers of the same shapes are compiled once.
evaluate = eqx.filter_jit(lambda denoiser, z, sigma: denoiser(z, sigma))


def fit(dataset, layout="batch:1", sigmas=SIGMAS, **options):
    return partial(evaluate, PcaLocal(**options).fit(Placed(dataset, make_mesh(layout)), sigmas))


def golden(dataset, layout="batch:1", sigmas=SIGMAS, **options):
    return fit(dataset, layout, sigmas, subset="golden", **options)


def images(n, h, w, c, seed=0):
    """Smooth 8-bit images, so that near pixels tell about each other."""
    rng = np.random.default_rng(seed)
    coarse = rng.standard_normal((n, h // 3 + 2, w // 3 + 2, c))
    fine = np.repeat(np.repeat(coarse, 3, axis=1), 3, axis=2)[:, :h, :w]
    x = 127.5 + 60 * fine + 15 * rng.standard_normal((n, h, w, c))
    return Dataset("images", x.clip(0, 255).astype(np.uint8), shift=127.5, scale=127.5)


def queries(dataset, sigmas=SIGMAS, seed=0, between=False):
    """A noised row, or one between two rows, for each level: float32."""
    rng = np.random.default_rng(seed)
    y = dataset.rows(rng.integers(0, len(dataset), len(sigmas)))
    if between:
        y = (y + dataset.rows(rng.integers(0, len(dataset), len(sigmas)))) / 2
    noise = np.reshape(sigmas, (-1, *[1] * (y.ndim - 1))) * rng.standard_normal(y.shape)
    return jnp.asarray(y + noise, jnp.float32), jnp.array(sigmas, jnp.float32)


def dense_mask(dataset, sigma, threshold):
    """M of the paper, by an inverse instead of eigenvectors: [d, d]."""
    y = dataset.to_model(dataset.x, np.float64).reshape(len(dataset), -1)
    covariance = np.cov(y.T, bias=True).reshape(y.shape[1], -1)
    wiener = covariance @ np.linalg.inv(covariance + sigma**2 * np.eye(len(covariance)))
    diagonal = np.diag(wiener)
    size = np.abs(wiener) / np.where(diagonal < 0.01 * diagonal.max(), 1, diagonal)
    return size >= threshold * size.max()


def mask(dataset, sigma, threshold):
    """The mask as the score makes it: [d, d], inputs first."""
    bits = masks(filters(dataset)(sigma), dataset.dim, threshold)
    return np.unpackbits(bits, axis=1, count=dataset.dim).astype(bool).T


def by_hand(dataset, z, sigma, looks):
    """Mean and trace in float64, with a dense mask for every query."""
    y = dataset.to_model(dataset.x, np.float64).reshape(len(dataset), -1)
    flat = np.asarray(z, np.float64).reshape(len(z), -1)
    mean, trace = np.empty_like(flat), np.empty(len(flat))
    for b, level in enumerate(np.asarray(sigma, np.float64)):
        squares = (flat[b] - y) ** 2 @ looks[b].astype(float)
        weights = np.exp(-(squares - squares.min(axis=0)) / (2 * level**2))
        weights /= weights.sum(axis=0)
        mean[b] = np.sum(weights * y, axis=0)
        spread = np.sum(weights * (y - mean[b]) ** 2, axis=0)
        trace[b] = np.sum(spread[np.diag(looks[b])])
    return mean.reshape(z.shape), trace


def check(dataset, got, z, sigma, threshold=None):
    if threshold is None:
        threshold = 0.02 if dataset.event_shape[2:] == (1,) else 0.03
    looks = [dense_mask(dataset, level, threshold) for level in np.asarray(sigma, np.float64)]
    mean, trace = by_hand(dataset, z, sigma, looks)
    # Float32 holds a squared distance to one part in 10⁷, and the weights divide it by σ²: that
    # tells where noise alone makes the distance about d σ², and no more at small σ than elsewhere.
    tolerance = 1e-5 + 4e-6 / np.maximum(sigma, 0.4) + 6e-8 * dataset.dim
    error = np.abs(np.asarray(got.mean) - mean).reshape(len(mean), -1)
    assert np.all(error.max(axis=1) <= tolerance), error.max(axis=1)
    scale = trace + dataset.dim * np.asarray(sigma) ** 2
    assert np.all(np.abs(got.trace_cov - trace) <= tolerance + 1e-4 * scale)
    assert got.log_density is None
    assert got.error_bound is None


@pytest.mark.parametrize("between", [False, True])
@pytest.mark.parametrize(
    "shape",
    [
        *[(200, 8, 8, 1), (50, 10, 7, 3), (2, 4, 4, 1)],
        *(pytest.param(x, marks=pytest.mark.slow) for x in [(60, 12, 9, 1), (30, 2, 3, 2)]),
    ],
    ids=str,
)
def test_matches_dense_masks_in_float64(shape, between):
    data = images(*shape)
    z, sigma = queries(data, between=between)
    check(data, fit(data)(z, sigma), z, sigma)


@pytest.mark.parametrize(
    "subset, layout", [("full", "batch:1"), ("golden", "batch:1"), ("full", "data:2")]
)
def test_rows_that_compete_far_from_the_query_share_its_weight_at_low_noise(subset, layout):
    data = images(50, 10, 7, 3)
    sigmas = (0.002, 0.003, 0.005, 0.01, 0.02, 0.05)
    y = data.rows(slice(None)).reshape(2, 25, 10, 7, 3)[:, :6]  # on two devices
    # Halfway between two rows, but for some nats: float32 tells their distances to 10⁻⁶.
    noise = np.random.default_rng(0).standard_normal(y.shape[1:])
    z = jnp.asarray(y.mean(axis=0) + np.reshape(sigmas, (-1, 1, 1, 1)) ** 2 * noise, jnp.float32)
    sigma = jnp.array(sigmas)
    denoise = fit(data, layout, sigmas, subset=subset, min_rows=50)
    check(data, denoise(z, sigma), z, sigma)


def test_matches_dense_masks_in_float64_on_digits():
    data = Digits().load()
    for seed in range(3):
        z, sigma = queries(data, seed=seed, between=seed == 2)
        check(data, fit(data)(z, sigma), z, sigma)


@pytest.mark.parametrize("d", [1, 2, 5, 70])
def test_points_that_are_no_images(d):
    rng = np.random.default_rng(d)
    x = (rng.standard_normal((300, d)) @ rng.standard_normal((d, d))).astype(np.float32)
    data = Dataset("points", x)
    z, sigma = queries(data)
    check(data, fit(data)(z, sigma), z, sigma)


@pytest.mark.parametrize("threshold", [0.0, 0.2, 1.0])
def test_the_threshold_is_relative_to_the_largest_entry(threshold):
    data = images(40, 6, 6, 2)
    z, sigma = queries(data)
    check(data, fit(data, threshold=threshold)(z, sigma), z, sigma, threshold)


def test_whole_masks_give_the_exact_posterior():
    data = Digits(subset=300).load()
    z, sigma = queries(data)
    y = data.to_model(data.x, np.float64).reshape(300, 64)
    mean, trace, _ = posterior(y, np.asarray(z, float).reshape(-1, 64), np.asarray(sigma, float))
    # On a subset too, of whatever size: the weights that choose it are right.
    for options in ({}, {"subset": "golden", "min_rows": 3, "max_rows": 3}):
        got = fit(data, threshold=0.0, **options)(z, sigma)
        assert np.allclose(got.mean.reshape(mean.shape), mean, atol=1e-4)
        assert np.allclose(got.trace_cov, trace, rtol=1e-3, atol=1e-5)


def test_masks_are_those_of_the_definition():
    data = images(100, 5, 7, 2)
    for sigma in SIGMAS:
        for threshold in (0.03, 0.5):
            assert np.array_equal(mask(data, sigma, threshold), dense_mask(data, sigma, threshold))


@pytest.mark.parametrize("rows", [90, 300])
@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_wide_masks_need_no_directions(rows, kind, monkeypatch):
    data = images(rows, 6, 10, 3)
    data = dataclasses.replace(data, x=data.x.astype(kind))
    monkeypatch.setattr(local_filters, "WHOLE_DIM", 10)
    monkeypatch.setattr(local_masks, "_ROWS", 50)
    for sigma in SIGMAS:
        assert np.array_equal(mask(data, sigma, 0.03), dense_mask(data, sigma, 0.03))


def test_masks_are_relative_to_the_largest_entry_of_all():
    filter_ = np.array([[1.0, 0.5, 0.1], [0.5, 0.1, 0.01], [0.1, 0.01, 1.0]])
    bits = masks(lambda index: filter_[index], 3, 0.09)
    assert np.unpackbits(bits, axis=1, count=3).tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 1]]


def test_a_pixel_that_hardly_varies_blinds_no_other():
    data = images(200, 6, 6, 1)
    data.x[:, 0, 0] = 40 + (data.x[:, 0, 1] > 127)
    for sigma in (0.05, 0.2, 1.0):
        assert np.diag(mask(data, sigma, 0.03))[1:].all()


@pytest.mark.parametrize("shape", [(7, 9, 3), (8, 8, 1), (37,), (1, 1, 1)], ids=str)
def test_tables_hold_the_masks(shape):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((80, int(np.prod(shape))))
    x = (x + 2 * np.roll(x, 1, axis=1)).astype(np.float32)
    data = Dataset("noise", x.reshape(80, *shape))
    held = {}
    for tables in MasksByWidth.of(data, (0.5, 5.0), 0.1).groups:
        held |= dict(zip(np.exp(tables.log_sigma).tolist(), dense_of(tables, data), strict=True))
    assert np.allclose(sorted(held), (0.5, 5.0))
    for sigma, (bits, own) in held.items():
        dense = mask(data, round(sigma, 3), 0.1)
        assert np.array_equal(own, np.diag(dense))
        assert np.array_equal(bits, dense)


def dense_of(tables: Masks, data):
    """The masks [d, d] of each level, from its tables, and whether coordinates see themselves."""
    outputs = np.asarray(tables.outputs)
    assert np.array_equal(outputs.ravel()[tables.places], np.arange(data.dim))
    for level in range(len(tables.log_sigma)):
        bits = np.zeros((data.dim, data.dim), int)
        for block, of_block in enumerate(outputs):
            held = np.zeros((data.dim, len(of_block)), int)
            held += np.asarray(tables.common[level, block])[:, None]
            for j in range(int(tables.counts[level, block]) * tables.lanes):
                words = np.asarray(tables.words[level, block, j])
                its = words[:, None] >> np.arange(WORD, dtype=np.uint32) & 1
                held[int(tables.inputs[level, block, j])] += its.ravel()
            bits[:, of_block] = held
            assert np.allclose(tables.shares[level, block], held.mean(axis=1))
        yield bits, np.asarray(tables.own[level])


def test_an_index_that_does_not_fit_is_said(monkeypatch):
    data = images(30, 6, 6, 1)
    placed = Placed(data, make_mesh("batch:1"))
    scan = local_scan.LocalScan.of(placed, MasksByWidth.of(data, (1.0,), 0.1).groups[0])
    monkeypatch.setattr(local_subset.memory, "of_host", lambda: 1_000)
    with pytest.raises(UserError, match=r"an index of 30 points at 1 levels.*dataset\.subset"):
        local_subset.LocalSubset.of(data, scan, 4, 8, 0.1)


def test_classes_in_turn_share_masks(monkeypatch):
    data = images(12, 6, 6, 1)
    classes = [dataclasses.replace(data, x=data.x[i::2], whole=data) for i in range(2)]
    shares = np.asarray(MasksByWidth.of(classes[0], (1.0,), 0.1).groups[0].shares)
    monkeypatch.setattr(local_masks, "_groups", None)  # nothing is made again
    again = MasksByWidth.of(classes[1], (1.0,), 0.1).groups[0].shares
    assert np.array_equal(again, shares)


@pytest.mark.parametrize("threshold, blocks, outputs", [(0.0, 6, 192), (1.0, 24, 64)])
def test_blocks_of_an_image_are_squares(threshold, blocks, outputs):
    # Wide masks: 8 × 8 pixels; narrow ones: 4 × 4, of 48 numbers, filled up to whole words.
    (tables,) = MasksByWidth.of(images(5, 16, 24, 3), (1.0,), threshold).groups
    assert tables.outputs.shape == (blocks, outputs)
    rows, columns, _ = np.unravel_index(np.asarray(tables.outputs), (16, 24, 3))
    assert (np.ptp(rows, axis=1) == (7 if blocks == 6 else 3)).all()
    assert (np.ptp(columns, axis=1) == (7 if blocks == 6 else 3)).all()


def test_trace_is_the_divergence():
    with jax.enable_x64(True):
        data = images(30, 4, 5, 2)
        data.x[:, 0, 0] = 40  # a constant pixel: its masks are empty
        denoise = fit(data, sigmas=(1.1,))
        z = jax.random.normal(jax.random.key(1), (1, 4, 5, 2), jnp.float64)
        sigma = jnp.array([1.1])
        tangents = jnp.eye(40).reshape(40, 1, 4, 5, 2)

        def along(tangent):
            got = jax.jvp(lambda z: denoise(z, sigma).mean, (z,), (tangent,))[1]
            return jnp.sum(got * tangent)

        diagonal = jax.lax.map(along, tangents)
        trace = denoise(z, sigma).trace_cov[0]
        assert np.isclose(jnp.sum(diagonal) * 1.1**2, trace, rtol=1e-9)
        assert diagonal[0] == 0
        step = 1e-5 * tangents[7]
        change = denoise(z + step, sigma).mean - denoise(z - step, sigma).mean
        assert np.isclose(change.ravel()[7] / 2e-5, diagonal[7], rtol=1e-6)


@pytest.mark.parametrize(
    "layout",
    ["data:2/batch:2", *(pytest.param(x, marks=pytest.mark.slow) for x in ("data:4", "batch:2"))],
)
def test_every_layout_of_devices_gives_the_same(layout):
    data = images(37, 6, 6, 1)
    z, sigma = queries(data)
    check(data, fit(data, layout)(z, sigma), z, sigma)
    one = golden(data, min_rows=5, max_rows=20)(z, sigma)
    some = golden(data, layout, min_rows=5, max_rows=20)(z, sigma)
    assert np.array_equal(one.subset_size, some.subset_size)
    assert np.allclose(one.mean, some.mean, atol=1e-5)
    assert np.allclose(one.trace_cov, some.trace_cov, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("subset", ["full", "golden"])
def test_rows_may_stay_on_the_host(subset):
    data = images(37, 6, 6, 1)
    z, sigma = queries(data)
    options = {"subset": subset, "min_rows": 5, "max_rows": 20}
    device, host = (fit(data, rows=rows, **options)(z, sigma) for rows in ("device", "host"))
    assert np.allclose(device.mean, host.mean, atol=1e-5)
    assert np.allclose(device.trace_cov, host.trace_cov, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("values", [1, 700])
def test_the_chunk_size_does_not_matter(values, monkeypatch):
    monkeypatch.setattr(local_scan, "_CHUNK_VALUES", values)
    data = images(29, 6, 6, 2)
    z, sigma = queries(data)
    scan = PcaLocal().fit(Placed(data, make_mesh("batch:1")), SIGMAS)
    check(data, eqx.filter_jit(scan)(z, sigma), z, sigma)


@pytest.mark.slow
def test_rows_of_a_batch_do_not_depend_on_each_other(monkeypatch):
    data = images(50, 8, 8, 1)
    z, sigma = queries(data)
    scan = PcaLocal(subset="golden", min_rows=4, max_rows=16).fit(
        Placed(data, make_mesh("batch:1")), SIGMAS
    )
    whole = evaluate(scan, z, sigma)
    # As many copies as there are rows, for the program is compiled for their number.
    copies = [jnp.full(len(z), i) for i in range(len(z))]
    alone = [evaluate(scan, z[copy], sigma[copy]) for copy in copies]
    monkeypatch.setattr(local_subset, "_LARGEST_ARRAY", 200)
    monkeypatch.setattr(local_subset, "_PART", (3, 3))
    parts = eqx.filter_jit(scan)(z, sigma)
    alone = jax.tree.map(lambda *x: jnp.stack([x[i][i] for i in range(len(z))]), *alone)
    for other in (alone, parts):
        assert np.array_equal(whole.subset_size, other.subset_size)
        assert np.allclose(whole.mean, other.mean, atol=1e-5)
        assert np.allclose(whole.trace_cov, other.trace_cov, rtol=1e-4, atol=1e-6)


def test_a_subset_of_all_rows_is_the_full_scan():
    data = images(60, 9, 8, 3)
    z, sigma = queries(data, between=True)
    for rows in (60, 10_000):
        got = golden(data, min_rows=rows, max_rows=rows)(z, sigma)
        assert np.array_equal(got.subset_size, [60] * len(z))
        check(data, got, z, sigma)


@pytest.mark.slow
def test_a_larger_subset_is_nearer_to_the_full_scan():
    data = Digits().load()
    z, sigma = queries(data, SIGMAS[1:5] * 8, between=True)
    exact = fit(data)(z, sigma).mean

    def error(rows):
        mean = golden(data, min_rows=rows, max_rows=rows)(z, sigma).mean
        return np.sqrt(np.mean((mean - exact) ** 2))

    few, more = error(8), error(256)
    assert more < few / 2


def test_a_small_subset_beats_the_nearest_rows_at_high_noise():
    data = Digits().load()
    z, sigma = queries(data, (4.0, 8.0, 16.0) * 4)
    looks = [dense_mask(data, level, 0.02) for level in (4.0, 8.0, 16.0)] * 4
    exact, _ = by_hand(data, z, sigma, looks)
    got = golden(data, sigmas=(4.0, 8.0, 16.0), min_rows=32, max_rows=32)(z, sigma).mean
    y = data.rows(slice(None))
    nearest = []
    for i in range(len(z)):
        order = np.argsort(np.sum((z[i] - y) ** 2, axis=(1, 2, 3)))[: len(data) // 10]
        part = Dataset("nearest", data.x[order], shift=data.shift, scale=data.scale)
        nearest.append(by_hand(part, z[i : i + 1], sigma[i : i + 1], looks[i : i + 1])[0])
    assert np.mean((got - exact) ** 2) < np.mean((np.concatenate(nearest) - exact) ** 2) / 10


def test_the_size_of_the_subset_is_measured_once(monkeypatch):
    data = Digits().load()
    sigmas = (0.05, 0.5, 1.0, 2.0, 20.0)
    z, sigma = queries(data, sigmas)
    options = {"sigmas": sigmas, "min_rows": 20, "max_rows": 900, "tolerance": 0.1}
    first = golden(data, **options)(z, sigma)
    assert first.subset_size[0] == 20
    assert 20 < max(first.subset_size) <= 900

    def fail(*_):
        raise AssertionError

    monkeypatch.setattr(local_subset, "_measure", fail)
    monkeypatch.setattr(local_masks, "masks", fail)
    again = golden(data, **options)(z, sigma)
    assert np.array_equal(first.mean, again.mean)


@pytest.mark.parametrize("tolerance", [0.1, 0.03])
def test_the_subset_is_as_large_as_the_tolerance_asks(tolerance):
    data, sigmas = images(800, 9, 9, 3), (0.3, 1.0, 3.0, 10.0)
    parts = [queries(data, sigmas, seed) for seed in range(6)]
    z, sigma = (jnp.concatenate(x) for x in zip(*parts, strict=True))
    got = golden(data, sigmas=sigmas, min_rows=8, tolerance=tolerance)(z, sigma).mean
    exact = fit(data, sigmas=sigmas)(z, sigma).mean
    error = jnp.linalg.norm((got - exact).reshape(len(z), -1), axis=1)
    error /= jnp.linalg.norm(exact.reshape(len(z), -1), axis=1)
    assert np.median(error.reshape(6, -1), axis=0).max() <= tolerance


def test_other_levels_take_the_nearest_mask():
    data = images(40, 6, 6, 1)
    z, sigma = queries(data, (0.19, 0.21, 7.0))
    got = fit(data, sigmas=(0.1, 0.4, 2.0))(z, sigma)
    looks = [dense_mask(data, level, 0.02) for level in (0.1, 0.4, 2.0)]
    mean, _ = by_hand(data, z, sigma, looks)
    assert np.allclose(got.mean, mean, atol=2e-5)


def test_many_levels_share_masks():
    data = images(10, 4, 4, 1)
    levels = levels_of(MasksByWidth.of(data, np.geomspace(0.02, 50, 1000), 0.02))
    assert len(levels) == 32
    assert np.allclose(levels[[0, -1]], (0.02, 50), rtol=1e-5)
    assert len(levels_of(MasksByWidth.of(data, (), 0.02))) == 32


def levels_of(masks):
    return np.sort(np.exp(np.concatenate([group.log_sigma for group in masks.groups])))


@pytest.mark.parametrize(
    "n, shape",
    [(1, (3, 3, 1)), *(pytest.param(*x, marks=pytest.mark.slow) for x in [(2, (2,)), (3, (1,))])],
    ids=str,
)
def test_tiny_data_sets(n, shape):
    x = np.random.default_rng(n).uniform(-1, 1, (n, *shape)).astype(np.float32)
    data = Dataset("tiny", x)
    z, sigma = queries(data)
    check(data, fit(data)(z, sigma), z, sigma)
    check(data, golden(data)(z, sigma), z, sigma)
    few = golden(data, min_rows=1, max_rows=2)(z, sigma)
    assert np.isfinite(few.mean).all()
    assert np.isfinite(few.trace_cov).all()


@pytest.mark.slow
def test_duplicates_and_constant_pixels_stay_exact():
    data = images(40, 6, 6, 1)
    data.x[:, :2] = 31
    data.x[10:] = data.x[:30]
    z, sigma = queries(data, (0.001, *SIGMAS))
    for got in (fit(data)(z, sigma), golden(data, min_rows=40, max_rows=40)(z, sigma)):
        assert np.allclose(got.mean[:, :2], data.to_model(np.uint8(31)), atol=1e-6)
        check(data, got, z, sigma)
    few = golden(data, min_rows=2, max_rows=4)(z, sigma)
    assert np.isfinite(few.mean).all()


def test_float_points_far_from_the_origin():
    x = (1000 + np.random.default_rng(0).standard_normal((200, 6))).astype(np.float32)
    data = Dataset("far", x)
    z, sigma = jnp.asarray(x[:2] + np.float32(0.01)), jnp.array([0.1, 0.5])
    looks = [dense_mask(data, level, 0.03) for level in (0.1, 0.5)]
    mean, trace = by_hand(data, z, sigma, looks)
    got = fit(data, sigmas=(0.1, 0.5))(z, sigma)
    assert np.allclose(got.mean, mean, atol=3e-4)
    assert np.allclose(got.trace_cov, trace, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("subset", ["full", "golden"])
def test_never_holds_more_than_its_share_of_memory(subset):
    x = np.random.default_rng(0).integers(0, 256, (40_000, 8, 8, 1), dtype=np.uint8)
    data = Dataset("many", x, shift=127.5, scale=127.5)
    scan = PcaLocal(subset=subset, min_rows=64, max_rows=64).fit(
        Placed(data, make_mesh("batch:1")), (1.0,)
    )
    program = jax.jit(scan.__call__).lower(jnp.zeros((256, 8, 8, 1)), jnp.ones(256)).compile()
    assert program.memory_analysis().temp_size_in_bytes < 640 * 2**20


def test_rows_stay_as_they_are_stored():
    scan = PcaLocal().fit(Placed(images(10, 4, 4, 1), make_mesh("batch:1")), (1.0,))
    assert scan.rows.stored.dtype == jnp.uint8


@pytest.mark.parametrize(
    "options, message",
    [
        ({"threshold": -0.1}, "threshold=-0.1 must be between 0 and 1"),
        ({"threshold": float("nan")}, "threshold=nan"),
        ({"rows": "disk"}, "rows='disk' is not one of: auto, device, host"),
        ({"subset": "some"}, "subset='some' is not one of: full, golden"),
        ({"tolerance": 0}, "tolerance=0 must be positive, and finite"),
        ({"tolerance": float("inf")}, "tolerance=inf"),
        ({"min_rows": 0}, "min_rows=0"),
        ({"min_rows": 9, "max_rows": 8}, "max_rows=8"),
    ],
    ids=str,
)
def test_bad_settings_are_refused_in_one_line(options, message):
    with pytest.raises(UserError) as caught:
        PcaLocal(**options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_points_too_large_for_memory_are_refused_in_one_line():
    data = Dataset("large", np.broadcast_to(np.zeros(1, np.uint8), (3, 2000, 2000, 3)))
    with pytest.raises(UserError, match=r"needs .* for the masks of points of 12000000 numbers"):
        PcaLocal().fit(data, (1.0,))


@pytest.mark.slow
def test_matches_dense_masks_in_float64_on_real_images(real_data_dir):
    from gdiff.dataset.tfds import Tfds

    data = Tfds(name="cifar10", data_dir=real_data_dir, split="test", subset=1000).load()
    sigmas = (0.01, 0.7, 6.0, 60.0)
    z, sigma = queries(data, sigmas)
    check(data, fit(data, sigmas=sigmas)(z, sigma), z, sigma)
