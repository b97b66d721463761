"""A mixture of Gaussians about k-means centres: the first guess of parallel runs."""

from collections.abc import Iterator

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
# Coordinates whose covariance is known, and those in which rows are near or far.
_RANK, _NEAR = 256, 64
# Rows from which centres are found.
_ENOUGH = 2**16
# See `Centres.floor`; on digits, MNIST, CIFAR-10 and Tiny ImageNet 16 rows have all but 1e-6 of the
# mass of posteriors from 5 to 8 on.
_COLLAPSED = 8.0
_VERSION = 1
_HIGHEST = jax.lax.Precision.HIGHEST


class Centres(eqx.Module):
    """Denoiser of a mixture of Gaussians N(m_c, W) with one covariance W within.

    D(z, σ) = m + W (W + σ²)⁻¹ (z - m) with m = Σ_c r_c m_c and r_c ~ p_c N(z; m_c, W + σ² I). As
    exact as the Wiener filter at high noise, where that is good, and better below: our
    construction. W has some directions with a variance of their own, the others share theirs.

    Attributes:
        mean: [d] of the data.
        means: [K, d] of the rows of each centre, about it.
        log_weights: [K] of their shares of the rows; -inf of none.
        basis: [d, r] directions of W; eigenvalues: [r] its variances.
        tail: [] variance of the other directions.
        floor: [] noise level at which what is known by Gaussian data with the covariance W is
            `_COLLAPSED` times what there is to know, which of a centre's rows it is. Somewhat
            above posteriors of rows have collapsed onto a few, of which the mixture knows nothing.
        own: [K, r] coordinates of the means.
    """

    mean: Float[Array, " d"]
    means: Float[Array, "K d"]
    log_weights: Float[Array, " K"]
    basis: Float[Array, "d r"]
    eigenvalues: Float[Array, " r"]
    tail: Float[Array, ""]
    floor: Float[Array, ""]
    own: Float[Array, "K r"]

    @classmethod
    def fit(cls, data: Dataset | Placed) -> "Centres":
        """K-means of the data in their leading coordinates, from the cache where it is in it."""
        data = Placed.of(data)
        dataset = data.dataset
        # A power of two, so that classes of about one size share programs.
        count = 1 << (int(np.clip(len(dataset) // _ROWS_EACH, 1, _MOST)).bit_length() - 1)
        # A class is seen in the coordinates of the whole, which are there already.
        found = statistics(dataset.whole or dataset, _RANK)
        rank = len(found.eigenvalues)
        key = cache.key("centres", _VERSION, dataset.fingerprint(), count, found.digest())
        packed = cache.cached(key, lambda: _packed(dataset, found, count))
        k = len(packed) - rank - 1
        (shares, eigenvalues, tail), (means, basis, mean) = (
            np.split(part, [k, k + rank]) for part in (packed[:, 0], packed[:, 1:])
        )
        everywhere = NamedSharding(data.mesh, PartitionSpec())
        dtype = jnp.result_type(float)
        with np.errstate(divide="ignore"):
            log_weights = np.log(shares)
        floor = _floor(eigenvalues, tail[0], dataset.dim, len(dataset) / count)
        own = means @ basis.T
        parts = mean[0], means, log_weights, basis.T, eigenvalues, tail[0], floor, own
        return cls(*(jax.device_put(jnp.asarray(part, dtype), everywhere) for part in parts))

    def __call__(self, z: Points, sigma: Sigma) -> Posterior:
        """Posterior mean of the mixture at every row of z."""
        sigma = per_row(sigma, z)[:, None]
        x = z.reshape(len(z), -1) - self.mean
        spread, rest = self.eigenvalues + sigma**2, self.tail + sigma**2
        own, along = self.own, jnp.matmul(x, self.basis, precision=_HIGHEST)
        # Of the directions, and of what lies across: squares of means, and their products with x.
        within = jnp.matmul(along / spread - along / rest, own.T, precision=_HIGHEST)
        within -= 0.5 * jnp.matmul(1 / spread - 1 / rest, (own**2).T, precision=_HIGHEST)
        across = jnp.matmul(x, self.means.T, precision=_HIGHEST)
        across -= 0.5 * jnp.sum(self.means**2, axis=1)
        weights = jax.nn.softmax(self.log_weights + within + across / rest, axis=1)
        mean = jnp.matmul(weights, self.means, precision=_HIGHEST)
        along -= jnp.matmul(mean, self.basis, precision=_HIGHEST)
        gain, rest_gain = self.eigenvalues / spread, self.tail / rest
        back = jnp.matmul((gain - rest_gain) * along, self.basis.T, precision=_HIGHEST)
        mean += rest_gain * (x - mean) + back
        return Posterior((mean + self.mean).reshape(z.shape))


def _floor(eigenvalues: np.ndarray, tail: float, d: int, rows: float) -> float:
    """The level at which ½ Σ log(1 + λ/σ²) is `_COLLAPSED` log(rows a centre)."""
    variances = np.append(eigenvalues, tail)
    each = np.append(np.ones(len(eigenvalues)), d - len(eigenvalues))
    levels = np.geomspace(1e-6, 1e6, 1024) * np.sqrt(variances.max() + np.finfo(float).tiny)
    known = 0.5 * np.log1p(variances / levels[:, None] ** 2) @ each
    return float(levels[known >= _COLLAPSED * np.log(rows)][-1:].sum())


def _packed(dataset: Dataset, found: Statistics, count: int) -> np.ndarray:
    """Centres with their shares, directions with their variances, and the mean: […, 1 + d]."""
    from sklearn.cluster import MiniBatchKMeans
    from threadpoolctl import threadpool_limits

    (n, d), r = (len(dataset), dataset.dim), len(found.eigenvalues)
    some = np.sort(np.random.default_rng(0).permutation(n)[:_ENOUGH])
    kmeans = MiniBatchKMeans(count, batch_size=4096, n_init=1, random_state=0)
    sums, counts = np.zeros((count, d)), np.zeros(count)
    squares, total = np.zeros((r, r)), 0.0
    # Products of small matrices crawl on many threads wherever another process wants a core.
    with threadpool_limits(1), track(f"centres of {dataset.name}", n, "rows") as progress:
        near = [x[:, :_NEAR] for _, x in _coordinates(dataset.part(some), found)]
        kmeans.fit(np.concatenate(near))
        for y, x in _coordinates(dataset, found):
            own = kmeans.predict(np.ascontiguousarray(x[:, :_NEAR]))
            np.add.at(sums, own, y)
            counts += np.bincount(own, minlength=count)
            squares += x.T @ x
            total += np.sum(y**2, dtype=np.float64)
            progress.advance(len(y))
    shares, means = counts / n, sums / np.maximum(counts, 1)[:, None]
    own = means @ found.eigenvectors
    # What is within: all, less what is between centres.
    within = squares / n - (shares * own.T) @ own
    variances, turn = np.linalg.eigh(within)
    tail = total / n - shares @ np.sum(means**2, axis=1) - np.trace(within)
    tail = max(tail, 0.0) / (d - r) if r < d else 0.0
    return np.column_stack(
        [
            np.concatenate([shares, np.maximum(variances, 0), [tail]]),
            np.concatenate([means, (found.eigenvectors @ turn).T, found.mean[None]]),
        ]
    )


def _coordinates(dataset: Dataset, found: Statistics) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rows about the mean [k, d] and their leading coordinates [k, r], block by block."""
    basis = found.eigenvectors.astype(np.float32)
    for block in blocks(dataset.x, 2**23):
        stored = dataset.vectors(block)
        y = (dataset.to_model(stored, np.float64) - found.mean).astype(np.float32)
        release(dataset.x)
        yield y, y @ basis
