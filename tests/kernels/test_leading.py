import jax.numpy as jnp
import numpy as np
import pytest

from gdiff.kernels.leading import leading, without


@pytest.mark.parametrize("n", [5, 64, 203, 1000])
@pytest.mark.parametrize("k", [1, 16, 100])
def test_leading_finds_what_sorting_finds(n, k):
    affinities = np.random.default_rng(n).integers(0, n // 2, (n, 6)).astype(np.float32)
    affinities[-1] = 1e3
    affinities[:2] = -np.inf
    found = leading(jnp.asarray(affinities), k)
    expected = -np.sort(-affinities, axis=0)[:k].T
    assert np.array_equal(found.affinities, expected)
    assert np.array_equal(affinities[found.rows, np.arange(6)[:, None]], expected)
    assert all(len(set(rows)) == len(rows) for rows in np.asarray(found.rows).tolist())
    rest = np.asarray(without(jnp.asarray(affinities), found))
    assert np.isinf(rest).sum() == np.isinf(affinities).sum() + np.isfinite(expected).sum()
