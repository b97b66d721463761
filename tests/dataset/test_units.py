"""Data in any unit and with any offset: the same points, up to these."""

import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gdiff.dataset.array import Array, from_array
from gdiff.dataset.placed import Placed
from gdiff.dataset.prepare import describe
from gdiff.dataset.statistics import covariance, statistics
from gdiff.dataset.units import to_unit_range
from gdiff.kernels.streamed import Source
from gdiff.parallel.mesh import make_mesh
from gdiff.prior.gmm import GMM
from gdiff.prior.standard import Standard
from gdiff.score.exact import Exact

from .errors import one_line

RNG = np.random.default_rng(0)
POINTS = RNG.normal(size=(200, 3))
WHOLE = RNG.integers(0, 1000, size=(200, 3))


def model(x, **options):
    return from_array("x", x, **options).rows(slice(None))


@pytest.mark.parametrize("exponent", [-300, -60, -37, -22, -10, 0, 10, 20, 37, 60, 300])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.longdouble])
def test_any_unit_gives_the_same_points(exponent, dtype):
    if dtype == np.float32 and abs(exponent) > 37:
        return
    x = (POINTS.astype(dtype) * dtype(10) ** exponent).astype(dtype)
    data = from_array("x", x)
    np.testing.assert_allclose(data.rows(slice(None)), model(POINTS), atol=4e-7)
    back = data.to_file(data.rows(slice(None))) / float(np.abs(x).max())
    np.testing.assert_allclose(back, (x / np.abs(x).max()).astype(float), atol=4e-7)
    assert 1e-10 < data.scale < 1e10


@pytest.mark.parametrize("offset", [0, 300, 1e5, -1.7e9, 1e12])
def test_any_offset_of_float64_gives_the_same_points(offset):
    np.testing.assert_allclose(
        model(POINTS + offset), model(POINTS), atol=3e-4 if offset == 1e12 else 1e-6
    )


def test_offsets_of_single_columns_are_taken_off():
    data = from_array("map", POINTS + np.array([5e5, 4_649_776.0, -3e8]))
    rows, centred = data.rows(slice(None)), POINTS - (POINTS.max(0) + POINTS.min(0)) / 2
    np.testing.assert_allclose(rows, centred / np.abs(centred).max(), atol=1e-6)
    np.testing.assert_allclose(
        data.to_file(rows), POINTS + np.array([5e5, 4_649_776.0, -3e8]), atol=1e-6, rtol=0
    )


@pytest.mark.parametrize(
    "dtype, offset",
    [
        (np.int64, 1_700_000_000),
        (np.int64, 2**63 - 1000),
        (np.int64, -(2**63)),
        (np.uint64, 2**64 - 1000),
        (np.int32, 2**31 - 1000),
    ],
)
def test_integers_are_subtracted_before_they_are_rounded(dtype, offset):
    x = np.array(WHOLE.astype(object) + offset, dtype)
    assert np.array_equal(model(x), model(WHOLE.astype(dtype)))


def test_the_whole_range_of_an_integer_type_is_mapped():
    for dtype in (np.int64, np.uint64, np.int32, np.uint16):
        ends = np.iinfo(dtype)
        x = np.array([[ends.min], [ends.max], [ends.max // 2 + ends.min // 2]], dtype)
        np.testing.assert_allclose(model(x).ravel(), [-1, 1, 0], atol=1e-4)


@pytest.mark.parametrize("value", [0, 3, 1e300, 1e-300, -(2**62)])
def test_constant_data_in_any_unit_become_zero(value):
    assert np.array_equal(model(np.full((4, 2), value)), np.zeros((4, 2)))


def test_distinct_times_stay_distinct():
    times = 1.7e9 + np.sort(RNG.uniform(0, 1000, (500, 1)), axis=0)
    assert len(np.unique(model(times))) == 500
    assert describe(from_array("t", times))["max"] == pytest.approx(times.max(), abs=1e-4)


def test_a_subset_is_mapped_like_the_whole(tmp_path):
    np.save(tmp_path / "x.npy", POINTS + 1e9)
    whole, part = (Array(path=tmp_path / "x.npy", subset=s).load() for s in (None, 20))
    assert {row.tobytes() for row in part.x} < {row.tobytes() for row in whole.x}
    assert part.to_file_map == whole.to_file_map


def test_the_fingerprint_follows_unit_and_offset():
    marks = {from_array("x", POINTS + offset).fingerprint() for offset in (1e9, 2e9)}
    assert len(marks) == 2
    assert from_array("x", POINTS * 2.0**200).fingerprint() not in marks


@pytest.fixture
def told(monkeypatch):
    """What the user is told."""
    lines = []
    monkeypatch.setattr("gdiff.dataset.units.notice", lines.append)
    return lines


@pytest.mark.parametrize(
    "x, number",
    [
        ((1.7e9 + np.arange(500.0)[:, None]).astype(np.float32), "float32 tells only 5 values"),
        ((POINTS + 1e4).astype(np.float32), "float32"),
        ((POINTS * 1e-43).astype(np.float32), "float32"),
        ((POINTS + 1e3).astype(np.float16), "float16"),
        (POINTS + 1e13, "float64"),
    ],
)
@pytest.mark.parametrize("scale", ["auto", "none"])
def test_of_a_type_that_has_lost_the_points_the_user_is_told(x, number, scale, told):
    from_array("clock", x, scale=scale)
    (line,) = told
    assert "clock" in line
    assert number in line
    assert "\n" not in line


@pytest.mark.parametrize(
    "x",
    [
        POINTS.astype(np.float16),
        POINTS.astype(np.float32),
        (POINTS + 300).astype(np.float32),
        1e6 + WHOLE.astype(np.float32),
        1.7e9 + WHOLE,
        np.c_[POINTS, np.full(200, 1e9)],
        WHOLE + 2**60,
        (WHOLE % 2).astype(np.float32),
    ],
)
def test_nothing_is_said_of_other_data(x, told):
    from_array("x", x)
    assert not told


def test_masks_of_zeros_and_ones_are_named(told):
    mask = (WHOLE % 2).astype(np.uint8)
    for x, count in ((mask, 1), (mask * 255, 0), (mask == 1, 0)):
        told.clear()
        from_array("mask", x)
        assert len(told) == count
        assert all("store it as bool" in line for line in told)


def test_values_as_they_are_stay_so_in_any_unit():
    for unit in (1e-12, 1e-6, 1.0, 1e6, 1e12):
        x = (POINTS * unit).astype(np.float32)
        assert np.array_equal(model(x, scale="none"), x)


def test_values_that_float32_does_not_hold_as_they_are_need_float64():
    for x in (POINTS * 1e-60, POINTS * 1e60, POINTS + 1.7e9, WHOLE + 1_700_000_000):
        data = from_array("far", x, scale="none")
        assert data.rows(slice(None)).dtype == np.float64
        np.testing.assert_array_equal(data.rows(slice(None)), x)
        with one_line("far", "float32", "dataset.scale=auto, or runtime.x64=true"):
            _ = Placed(data, make_mesh("batch:1")).rows


def test_rows_that_the_working_precision_does_not_tell_apart_are_refused():
    mesh = make_mesh("batch:1")
    for x, what in (
        ((POINTS + 1e5).astype(np.float32), "lies 1e+05 from zero and reaches only"),
        ((POINTS * 1e-15).astype(np.float32), "squares of such numbers"),
        ((POINTS * 1e15).astype(np.float32), "squares of such numbers"),
    ):
        with one_line("given", what, "dataset.scale=auto"):
            _ = Placed(from_array("given", x, scale="none"), mesh).rows
    _ = Placed(from_array("given", np.full((3, 2), 7.0), scale="none"), mesh).rows


def test_the_standard_prior_follows_small_and_far_data_alone():
    def fitted(x, sigma):
        return Standard().fit(Placed(from_array("x", x, scale="none"), make_mesh("batch:1")), sigma)

    keys = jax.random.split(jax.random.key(0), 2000)
    plain = fitted(POINTS, 2.0)
    assert plain.mean is None
    assert float(plain.std) == pytest.approx(5**0.5)
    assert float(fitted(POINTS * 1e-6, 1e-9).std) < 1e-5
    far = fitted(POINTS + np.array([300, 0, -40]), 2.0)
    z = np.asarray(far.sample(keys))
    # Within a width: the middle of the range is not the mean.
    assert z.mean(0) == pytest.approx([300, 0, -40], abs=2)
    density = np.asarray(far.log_prob(jnp.asarray(z[:3])))
    centred = plain.log_prob(jnp.asarray(z[:3]) - far.mean)
    np.testing.assert_allclose(density, centred, rtol=1e-5)


def test_mixtures_are_the_same_in_any_unit():
    x = np.concatenate([POINTS + 3, POINTS - 3]).astype(np.float32)
    mesh, z = make_mesh("batch:1"), jnp.asarray(RNG.normal(size=(5, 3)), jnp.float32)
    found = []
    for unit in (1.0, 2.0**-20):
        data = from_array("x", x * np.float32(unit), scale="none")
        prior = GMM(components=2).fit(Placed(data, mesh), 0.01 * unit)
        found.append(np.asarray(prior.log_prob(z * unit)) + 3 * np.log(unit))
    assert found[1] == pytest.approx(found[0], rel=1e-4)


@pytest.mark.parametrize("where", ["device", "host"])
def test_the_exact_score_does_not_depend_on_unit_and_offset(where):
    z, sigma = RNG.normal(size=(4, 3)).astype(np.float32), np.array([0.02, 0.1, 1, 10], np.float32)
    means = [
        Exact(rows=where).fit(Placed(from_array("x", x), make_mesh("batch:1")))(z, sigma).mean
        for x in (POINTS, POINTS * 1e-30 + 1e-24)
    ]
    np.testing.assert_allclose(means[1], means[0], atol=2e-4)


@pytest.fixture
def fortran(tmp_path):
    """[n, h, w, c] in column-major order, 32 MiB of a file."""
    x = np.asfortranarray(RNG.integers(0, 256, (2**13, 16, 16, 16), dtype=np.uint8))
    np.save(tmp_path / "x.npy", x)
    return tmp_path / "x.npy"


def test_memory_maps_in_any_order_are_read_in_blocks(fortran):
    expected = np.load(fortran)
    tracemalloc.start()
    data = Array(path=fortran).load()
    source = Source(data.x, 1)
    rows = source.part(np.int32(0), np.int32(100), size=50, count=len(data))
    single = source.rows(np.int32(0), np.array([7, 8191]), count=len(data))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert isinstance(data.x, np.memmap)
    assert not data.x.flags.c_contiguous
    assert np.array_equal(rows, expected[100:150].reshape(50, -1))
    assert np.array_equal(single, expected[[7, 8191]].reshape(2, -1))
    assert peak < 8 * 2**20
    assert data.fingerprint() == from_array("x", expected).fingerprint()


@pytest.mark.parametrize("options", [{}, {"subset": 2000}])
def test_large_files_that_change_become_files_of_the_cache(tmp_path, monkeypatch, options):
    np.save(tmp_path / "x.npy", RNG.normal(size=(4000, 256)) + 1e9)
    spec = Array(path=tmp_path / "x.npy", **options)
    expected = spec.load()
    monkeypatch.setattr("gdiff.dataset.base._LARGE", 2**20)
    made = spec.load()
    assert isinstance(made.x, np.memmap)
    assert np.array_equal(made.x, expected.x)
    assert made.fingerprint() == expected.fingerprint()
    monkeypatch.setattr("gdiff.dataset.units.Change.__call__", None)
    assert np.array_equal(spec.load().x, expected.x)


def test_statistics_do_not_depend_on_the_order_in_memory(tmp_path):
    x = RNG.integers(0, 256, (300, 4, 4, 2), dtype=np.uint8)
    np.save(tmp_path / "x.npy", np.asfortranarray(x))
    found = statistics(Array(path=tmp_path / "x.npy").load())
    assert np.allclose(found.mean, (x.reshape(300, -1) / 127.5 - 1).mean(0))


def test_the_covariance_is_summed_in_blocks_in_any_order(tmp_path, monkeypatch):
    monkeypatch.setattr("gdiff.dataset.statistics._BLOCK_BYTES", 2**16)
    x = RNG.integers(0, 256, (2**17, 8, 8, 1), dtype=np.uint8)
    np.save(tmp_path / "x.npy", np.asfortranarray(x))
    data = Array(path=tmp_path / "x.npy").load()
    _ = data.fingerprint()
    tracemalloc.start()
    found = covariance(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert np.allclose(found, np.cov(x.reshape(len(x), -1).T / 127.5, bias=True), atol=1e-12)
    assert peak < x.nbytes / 2


@pytest.mark.parametrize("n, d", [(2, 3), (4096, 2), (3000, 3), (3, 5000)])
def test_the_range_of_columns_is_found_for_any_number_of_rows(n, d):
    x = np.random.default_rng(0).normal(size=(n, d)) + 1e9 * np.arange(d)
    for rows in (x, np.asfortranarray(x), x[::-1]):
        change = to_unit_range(rows, "x").change
        assert np.array_equal(change.low, x.min(axis=0))
        assert np.allclose(change.origin, (x.min(axis=0) + x.max(axis=0)) / 2, rtol=1e-15)
