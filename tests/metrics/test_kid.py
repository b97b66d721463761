import numpy as np
import pytest
from sklearn.metrics.pairwise import polynomial_kernel

from gdiff.metrics import kid as module
from gdiff.metrics.kid import KernelReference


def kernel_distance(a, b):
    return KernelReference(b).distance(a).value


def normal(n, r, seed=0):
    return np.random.default_rng(seed).standard_normal((n, r))


def off_diagonal_mean(kernel):
    return kernel[~np.eye(len(kernel), dtype=bool)].mean()


def test_it_agrees_with_sklearns_polynomial_kernel():
    a, b = normal(30, 8), 0.7 * normal(45, 8, seed=1) + 0.2
    expected = (
        off_diagonal_mean(polynomial_kernel(a, degree=3, coef0=1))
        + off_diagonal_mean(polynomial_kernel(b, degree=3, coef0=1))
        - 2 * polynomial_kernel(a, b, degree=3, coef0=1).mean()
    )
    assert kernel_distance(a, b) == pytest.approx(expected, rel=1e-10)


def test_blocks_and_order_change_nothing(monkeypatch):
    a, b = normal(30, 8), normal(45, 8, seed=1) + 0.5
    expected = kernel_distance(a, b)
    monkeypatch.setattr(module, "_BLOCK", 7)
    assert kernel_distance(a[::-1], b) == pytest.approx(expected, rel=1e-10)


def test_it_is_unbiased_for_sets_of_the_same_law():
    values = [kernel_distance(normal(40, 5, 2 * i), normal(60, 5, 2 * i + 1)) for i in range(400)]
    assert min(values) < 0
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(400)


def test_it_grows_with_a_shift():
    a, b = normal(200, 5), normal(200, 5, seed=1)
    assert kernel_distance(a, b) < kernel_distance(a + 0.3, b) < kernel_distance(a + 1.0, b)


def test_the_error_is_the_jackknife_and_the_spread_over_draws_of_samples():
    b = normal(60, 4, seed=1)
    a = normal(40, 4) + 0.3
    without = [kernel_distance(np.delete(a, i, axis=0), b) for i in range(40)]
    expected = np.sqrt(39 * np.var(without))
    assert KernelReference(b).distance(a).error == pytest.approx(expected, rel=1e-9)
    reference = KernelReference(b)
    found = [reference.distance(normal(40, 4, seed) + 0.3) for seed in range(2, 300)]
    spread = np.std([each.value for each in found])
    assert np.sqrt(np.mean([each.error**2 for each in found])) == pytest.approx(spread, rel=0.25)
    assert np.isnan(reference.distance(a[:2]).error)
