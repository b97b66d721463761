import jax
import numpy as np
import pytest

from gdiff.dataset.base import Dataset
from gdiff.dataset.digits import Digits
from gdiff.errors import UserError
from gdiff.metrics import MetricsSpec, classifier, compute
from gdiff.metrics.classifier import ClassifierDistances, trained


@pytest.fixture(scope="module")
def digits():
    return Digits().load()


@pytest.mark.slow  # trains
def test_it_tells_digits_apart_and_is_trained_once(digits, monkeypatch):
    network = trained(digits)
    monkeypatch.setattr(classifier, "_train", None)
    again = trained(digits)
    for one, other in zip(*map(jax.tree.leaves, (network, again)), strict=True):
        np.testing.assert_array_equal(one, other)
    logits = jax.jit(jax.vmap(network))(digits.rows(slice(None)))
    assert np.mean(np.argmax(logits, axis=1) == digits.labels) > 0.99


@pytest.mark.slow
def test_digits_of_one_class_are_farther_than_noise_that_nobody_sees(digits):
    metric = ClassifierDistances(data_points=10_000, seed=0)
    rng = np.random.default_rng(1)
    drawn = digits.rows(rng.choice(1797, 150, replace=False))
    near = metric.compute(drawn + 0.02 * rng.standard_normal(drawn.shape), digits)
    far = metric.compute(digits.rows(np.flatnonzero(digits.labels == 3)[:150]), digits)
    assert tuple(near) == metric.names
    for name in ("frechet_classifier", "kid_classifier"):
        null, spread = near[f"{name}_null"], near[f"{name}_null_sd"]
        assert abs(near[name] - null) < 6 * spread
        assert far[name] > null + 20 * spread


def test_data_without_labels_are_refused():
    dataset = Dataset("plain", np.zeros((9, 2), np.float32))
    with pytest.raises(UserError, match="plain has no labels"):
        compute(MetricsSpec(classifier=True), np.zeros((3, 2), np.float32), dataset)
