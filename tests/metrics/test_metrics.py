import numpy as np
import pytest

from gdiff.dataset.array import from_array
from gdiff.dataset.base import Dataset
from gdiff.errors import UserError
from gdiff.metrics import DISTANCES, MetricsSpec, compute, features
from gdiff.metrics.features import names_in
from gdiff.metrics.support import Support

ALL = set(DISTANCES)


def toy(n, shape=(2,), seed=0):
    return np.random.default_rng(seed).standard_normal((n, *shape)).astype(np.float32)


def digits_like(n=300):
    x = np.random.default_rng(0).integers(0, 17, (n, 8, 8, 1), dtype=np.uint8)
    x[:, 0] = x[:, :, 0] = 0  # constant pixels, as at the border of real digits
    return Dataset("digits", x, shift=8, scale=8)


@pytest.mark.parametrize("shape", [(1,), (2,), (7,), (8, 8, 1), (32, 32, 3)])
def test_every_metric_is_a_finite_float_for_every_event_shape(shape):
    metrics = compute(MetricsSpec(), toy(20, shape, seed=1), Dataset("toy", toy(120, shape)))
    assert tuple(metrics) == DISTANCES
    assert all(type(value) is float and np.isfinite(value) for value in metrics.values())


@pytest.mark.parametrize(
    "unit, offset", [(1, 300), (1, 3000), (1, 10_000), (1e-10, 0), (1e-3, 10_000), (1e8, 1000)]
)
def test_no_metric_depends_on_unit_and_offset(unit, offset):
    x, samples = toy(2000).astype(float), toy(300, seed=1).astype(float)
    samples[:30] = x[:30]  # copies
    plain = compute(MetricsSpec(), samples, Dataset("plain", x))
    moved = from_array("moved", (x + offset) * unit, scale="none")
    kind = moved.rows(slice(1)).dtype
    found = compute(MetricsSpec(), ((samples + offset) * unit).astype(kind), moved)
    powers = {"nn_distance": 1, "sliced_w2": 1, "frechet_pca": 2}
    for name, value in plain.items():
        in_units = value * unit ** powers.get(name.partition("_null")[0], 0)
        # Rounded data may make one or two samples more, or fewer, copies.
        allowed = {"abs": 0.01} if name == "copy_fraction" else {"rel": 5e-3}
        assert found[name] == pytest.approx(in_units, **allowed), name


def test_copies_of_duplicates_are_copies_wherever_they_lie():
    x = np.repeat(toy(100), 2, axis=0)
    for offset in (0, 1000, 100_000):
        data = Dataset("pairs", (x + offset).astype(np.float32))
        samples = np.nextafter(data.rows(slice(0, 50)), np.float32(np.inf))
        assert compute(MetricsSpec(), samples, data)["copy_fraction"] == 1


def test_copies_of_images_with_constant_pixels_are_recognised():
    dataset = digits_like()
    metrics = compute(MetricsSpec(), dataset.rows(np.arange(50)), dataset)
    assert set(metrics) == ALL
    assert metrics["nn_distance"] == 0
    assert metrics["copy_fraction"] == 1


def test_the_whole_data_set_as_samples_has_distance_zero_in_features():
    dataset = digits_like()
    metrics = compute(MetricsSpec(), dataset.rows(slice(None)), dataset)
    assert metrics["frechet_pca"] == pytest.approx(0, abs=1e-6)


def test_noise_is_farther_from_the_data_than_data_are():
    dataset = Dataset("toy", toy(1000, (10,)))
    near = compute(MetricsSpec(), toy(200, (10,), seed=1), dataset)
    far = compute(MetricsSpec(), 3 * toy(200, (10,), seed=1), dataset)
    for name in ("nn_distance", "sliced_w2", "frechet_pca", "kid_pca"):
        assert far[name] > near[name]
    assert near["sliced_w2"] == pytest.approx(near["sliced_w2_null"], rel=0.5)


def test_data_drawn_again_score_as_the_null_does_within_its_spread():
    x, spec = toy(1500, (10,)), MetricsSpec()
    dataset = Dataset("toy", x)
    for seed in (11, 12, 13):
        drawn = np.random.default_rng(seed).integers(1500, size=64)
        found = compute(spec, x[drawn], dataset)
        for name in ("sliced_w2", "frechet_pca", "kid_pca"):
            away = found[name] - found[f"{name}_null"]
            assert abs(away) < 4 * found[f"{name}_null_sd"], name
        assert found["frechet_pca_null"] > 0.3  # 64 samples are few for 10 features


def test_a_reference_is_made_once_for_a_data_set(monkeypatch):
    made, fit = [], features.fit_pca
    monkeypatch.setattr(features, "fit_pca", lambda *args: made.append(1) or fit(*args))
    dataset = digits_like()
    for seed in range(2):
        compute(MetricsSpec(), toy(20, (8, 8, 1), seed), dataset)
    assert len(made) == 1
    compute(MetricsSpec(seed=1), toy(20, (8, 8, 1)), dataset)
    assert len(made) == 2


def test_one_sample_leaves_out_what_needs_two():
    metrics = compute(MetricsSpec(), toy(1, seed=1), Dataset("toy", toy(50)))
    two = {*names_in("pca"), *Support._fields}
    assert set(metrics) == ALL - two


def test_two_points_on_a_line_give_every_metric():
    dataset = Dataset("two_points", np.array([[-1.0], [1.0]], np.float32))
    samples = np.array([[1.0], [-1.0], [1.0]], np.float32)
    metrics = compute(MetricsSpec(neighbours=1), samples, dataset)
    assert set(metrics) == ALL
    assert metrics["copy_fraction"] == 1


def test_a_data_set_of_one_point_leaves_only_the_distance():
    metrics = compute(MetricsSpec(), toy(5), Dataset("one", toy(1)))
    assert set(metrics) == {"nn_distance"}


def test_samples_that_are_not_finite_are_counted_and_set_aside():
    dataset, samples = Dataset("toy", toy(50)), toy(10, seed=1)
    expected = compute(MetricsSpec(), samples[2:], dataset)
    samples[0, 0], samples[1, 1] = np.nan, np.inf
    assert compute(MetricsSpec(), samples, dataset) == {"nonfinite_samples": 2.0, **expected}
    assert compute(MetricsSpec(), samples[:2], dataset) == {"nonfinite_samples": 2.0}


def test_huge_samples_give_no_error_and_no_infinity():
    metrics = compute(MetricsSpec(), 1e25 * toy(10, seed=1), Dataset("toy", toy(50)))
    assert metrics
    assert all(np.isfinite(value) for value in metrics.values())


def test_a_cap_on_data_points_is_repeatable_and_nearly_the_same_number():
    dataset, samples = Dataset("toy", toy(4000, (6,))), 1.5 * toy(500, (6,), seed=1)
    full = compute(MetricsSpec(), samples, dataset)
    capped = compute(MetricsSpec(data_points=2000), samples, dataset)
    assert capped == compute(MetricsSpec(data_points=2000), samples, dataset)
    for name in ("frechet_pca", "sliced_w2"):
        assert capped[name] != full[name]
        assert capped[name] == pytest.approx(full[name], rel=0.1)
    assert capped["nn_distance"] == full["nn_distance"]


def test_none_computes_nothing():
    assert compute(MetricsSpec(enabled=False), toy(3), Dataset("toy", toy(5))) == {}


def test_samples_of_another_shape_are_refused():
    with pytest.raises(UserError, match="shape"):
        compute(MetricsSpec(), toy(3, (4,)), Dataset("toy", toy(5)))


@pytest.mark.parametrize(
    "options",
    [
        *({"projections": 0}, {"features": 0}, {"neighbours": 0}, {"data_points": 1}, {"seed": -1}),
        *({"score_queries": -1}, {"score_error": "sometimes"}),
    ],
)
def test_options_out_of_range_are_refused_by_name(options):
    with pytest.raises(UserError, match=rf"{next(iter(options))}="):
        MetricsSpec(**options)


@pytest.mark.parametrize(
    "options, exact, approximate",
    [
        ({}, False, True),
        ({"score_error": "always"}, True, True),
        ({"score_error": "never"}, False, False),
        ({"score_error": "always", "score_queries": 0}, False, False),
        ({"score_error": "always", "enabled": False}, False, False),
    ],
)
def test_a_score_is_measured_if_it_is_not_the_exact_one_or_by_request(options, exact, approximate):
    spec = MetricsSpec(**options)
    assert spec.measures_score(is_exact=True) == exact
    assert spec.measures_score(is_exact=False) == approximate
