"""A mixture of balls about k-means centres: the first guess of parallel runs."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Float

from gdiff.dataset.base import Dataset, blocks
from gdiff.dataset.pages import release
from gdiff.dataset.placed import Placed
from gdiff.dataset.statistics import Statistics, statistics
from gdiff.denoiser import Points, Posterior, Sigma, per_row
from gdiff.progress import track
from gdiff.store import cache

# Centres at most, and rows for each of them at least.
_MOST, _ROWS_EACH = 512, 8
# Leading coordinates in which rows are near or far, and rows from which centres are found.
_RANK, _ENOUGH = 64, 2**16
_VERSION = 1
_HIGHEST = jax.lax.Precision.HIGHEST


class Centres(eqx.Module):
    """Denoiser of a mixture of Gaussians N(m_c, v_c I).

    With weights r_c ~ p_c N(z; m_c, (v_c + σ²) I) it is D(z, σ) = Σ_c r_c [m_c + g_c (z - m_c)],
    g_c = v_c / (v_c + σ²): our construction, right at high noise and near at any.

    Attributes:
        means: [K, d] of the rows of each centre.
        variances: [K] mean variance of a coordinate within.
        log_weights: [K] of their shares of the rows.
    """

    means: Float[Array, "K d"]
    variances: Float[Array, " K"]
    log_weights: Float[Array, " K"]

    @classmethod
    def fit(cls, data: Dataset | Placed) -> "Centres":
        """K-means of the data in their leading coordinates, from the cache where it is in it."""
        data = Placed.of(data)
        dataset = data.dataset
        count = int(np.clip(len(dataset) // _ROWS_EACH, 1, _MOST))
        # A class is seen in the coordinates of the whole, which are there already.
        found = statistics(dataset.whole or dataset, min(_RANK, dataset.dim))
        key = cache.key("centres", _VERSION, dataset.fingerprint(), count, found.digest())
        packed = cache.cached(key, lambda: _packed(dataset, found, count))
        everywhere = NamedSharding(data.mesh, PartitionSpec())
        dtype = jnp.result_type(float)
        parts = packed[:, 2:], packed[:, 1], np.log(packed[:, 0])
        return cls(*(jax.device_put(jnp.asarray(part, dtype), everywhere) for part in parts))

    def __call__(self, z: Points, sigma: Sigma) -> Posterior:
        """Posterior mean of the mixture at every row of z."""
        sigma = per_row(sigma, z)
        dim = self.means.shape[1]
        # About the mean of the centres, in whose units squares cancel least.
        centre = jnp.exp(self.log_weights) @ self.means
        x, means = z.reshape(len(z), -1) - centre, self.means - centre
        spread = self.variances + sigma[:, None] ** 2
        products = jnp.matmul(x, means.T, precision=_HIGHEST)
        squares = jnp.sum(means**2, axis=1) - 2 * products + jnp.sum(x**2, axis=1)[:, None]
        logits = self.log_weights - 0.5 * (squares / spread + dim * jnp.log(spread))
        weights = jax.nn.softmax(logits, axis=1)
        gain = self.variances / spread
        mean = jnp.matmul(weights * (1 - gain), means, precision=_HIGHEST)
        mean += jnp.sum(weights * gain, axis=1)[:, None] * x + centre
        return Posterior(mean.reshape(z.shape))


def _packed(dataset: Dataset, found: Statistics, count: int) -> np.ndarray:
    """Share, variance and mean of the rows of every centre: [K, 2 + d]."""
    from sklearn.cluster import MiniBatchKMeans
    from threadpoolctl import threadpool_limits

    n, d = len(dataset), dataset.dim
    rows = np.sort(np.random.default_rng(0).permutation(n)[:_ENOUGH])
    kmeans = MiniBatchKMeans(count, batch_size=4096, n_init=1, random_state=0)
    sums, squares, counts = np.zeros((count, d)), np.zeros(count), np.zeros(count)
    with threadpool_limits(1), track(f"centres of {dataset.name}", n, "rows") as progress:
        kmeans.fit(np.concatenate([x for _, x in _coordinates(dataset.part(rows), found)]))
        for y, x in _coordinates(dataset, found):
            own = kmeans.predict(x)
            np.add.at(sums, own, y)
            np.add.at(squares, own, np.sum(y**2, axis=1))
            np.add.at(counts, own, 1)
            progress.advance(len(y))
    used = counts > 0
    counts, means = counts[used], sums[used] / counts[used, None]
    variances = squares[used] / counts - np.sum(means**2, axis=1)
    variances = np.maximum(variances, 0) / d
    return np.column_stack([counts / n, variances, means + found.mean])


def _coordinates(dataset: Dataset, found: Statistics):
    """Rows about the mean [k, d] and their leading coordinates [k, r], block by block."""
    basis = found.eigenvectors.astype(np.float32)
    for block in blocks(dataset.x, 2**23):
        stored = dataset.vectors(block)
        y = (dataset.to_model(stored, np.float64) - found.mean).astype(np.float32)
        release(dataset.x)
        yield y, y @ basis
