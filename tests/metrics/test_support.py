import numpy as np
import pytest

from gdiff.metrics import support as module
from gdiff.metrics.support import support


def normal(n, r, seed):
    return np.random.default_rng(seed).standard_normal((n, r))


def by_definition(samples, data, k):
    """The formulas of the papers, point by point."""

    def radius(points, i):
        return np.sort([np.linalg.norm(p - points[i]) for p in np.delete(points, i, 0)])[k - 1]

    n = len(data)
    of_data, of_samples = ([radius(x, i) for i in range(n)] for x in (data, samples))
    away = np.array([[np.linalg.norm(s - y) for y in data] for s in samples])
    in_data = np.array([[away[j, i] <= of_data[i] for i in range(n)] for j in range(n)])
    in_samples = np.array([[away[j, i] <= of_samples[j] for i in range(n)] for j in range(n)])
    return (
        np.mean([in_data[j].any() for j in range(n)]),
        np.mean([in_samples[:, i].any() for i in range(n)]),
        in_data.sum() / (k * n),
        np.mean([in_data[:, i].any() for i in range(n)]),
    )


@pytest.mark.parametrize("k, block", [(1, 1024), (3, 7), (5, 1024)])
def test_it_agrees_with_the_definitions(monkeypatch, k, block):
    monkeypatch.setattr(module, "_BLOCK", block)
    samples, data = 1.3 * normal(40, 3, 0) + 0.4, normal(40, 3, 1)
    assert support(samples, data, k) == pytest.approx(by_definition(samples, data, k))
    moved = support(samples + 1e5, data + 1e5, k)
    assert moved == pytest.approx(by_definition(samples, data, k))


def test_two_draws_of_a_law_have_the_expected_density_and_coverage():
    found = [support(normal(200, 4, 2 * s), normal(200, 4, 2 * s + 1), 5) for s in range(40)]
    precision, recall, density, coverage = np.mean(found, axis=0)
    assert density == pytest.approx(1, abs=0.03)
    assert coverage == pytest.approx(1 - 0.5**5, abs=0.01)
    assert precision == pytest.approx(recall, abs=0.02)


def test_a_sampler_that_misses_half_of_the_data_has_precision_and_no_recall_there():
    data = np.concatenate([normal(100, 2, 0), normal(100, 2, 1) + 50])
    samples = normal(200, 2, 2)
    found = support(samples, data, 5)
    assert found.precision > 0.9
    assert found.recall == pytest.approx(0.5, abs=0.03)
    assert found.coverage == pytest.approx(0.5, abs=0.03)
    back = support(data, samples, 5)
    assert (back.precision, back.recall) == (found.recall, found.precision)


def test_a_sampler_of_one_point_has_precision_and_covers_little():
    data = normal(200, 3, 0)
    found = support(np.repeat(data[:1], 200, axis=0), data, 5)
    assert found.precision == 1
    assert found.recall == pytest.approx(1 / 200)
    assert found.coverage < 0.1
