import jax.numpy as jnp
import numpy as np
import pytest

from gdiff.kernels.marked import Marked


@pytest.mark.parametrize("n", [5, 64, 200])
def test_marked_rows_come_in_their_order(n):
    mask = np.random.default_rng(n).random((n, 4)) < [0.0, 0.02, 0.5, 1.0]
    marked = Marked.of(jnp.asarray(mask))
    assert marked.count.tolist() == mask.sum(axis=0).tolist()
    for start in range(0, n + 7, 7):
        rows, exists = map(np.asarray, marked.rows(start + jnp.arange(7)))
        for own, row, held in zip(mask.T, rows, exists, strict=True):
            assert row[held].tolist() == np.flatnonzero(own)[start : start + 7].tolist()
