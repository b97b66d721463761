"""Gaussian mixtures in principal coordinates: how they are fitted, kept and diffused."""

import abc
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Key

from gdiff.dataset import Dataset
from gdiff.dataset.base import blocks
from gdiff.dataset.pages import release
from gdiff.dataset.placed import Placed
from gdiff.dataset.statistics import Statistics, statistics
from gdiff.denoiser import Points
from gdiff.errors import require
from gdiff.prior.base import PriorSpec, replicated
from gdiff.prior.gaussian import DiffusedGaussian
from gdiff.progress import track
from gdiff.store import cache

if TYPE_CHECKING:
    from sklearn.mixture._base import BaseMixture

_HIGHEST = jax.lax.Precision.HIGHEST
# Part of the cache's key: to be raised when what is stored changes.
_VERSION = 1
SEED = 0
# Points per component by default, and the most components that this gives.
_POINTS_EACH, _MOST = 100, 200
# The fit takes this many rows at most, or 100 per component if that is more.
_ROWS = 60_000
# Passes over the rows at most, and how many between two signs of progress.
_PASSES, STRIDE = 40, 5
# The fit ends where a pass gains less than this, in nats per row and coordinate. What it gains
# later, noise hides: on MNIST, 5 passes and 20 give the same KL from the diffused law.
TOLERANCE = 2e-3
# Added to variances while fitting, in units of the largest; and for data without any variance.
_RELATIVE_FLOOR, _FLOOR = 1e-6, 1e-12


class Components(NamedTuple):
    """A mixture of K Gaussians over q coordinates, in float64 on the host.

    Attributes:
        weights: [K], positive, of sum 1.
        means: [K, q].
        variances: [K, q] eigenvalues of the covariances.
        axes: [K, q, q] their eigenvectors, in columns.
    """

    weights: np.ndarray
    means: np.ndarray
    variances: np.ndarray
    axes: np.ndarray


@dataclass(frozen=True, kw_only=True)
class MixtureSpec(PriorSpec):
    """Options common to the mixtures; a subclass names the estimator.

    The mixture is fitted to the clean data, in their leading principal coordinates; the other
    coordinates are independent Gaussians. Noise adds sigma² to every variance, so that one fit,
    kept in the cache, serves all noise levels.

    Attributes:
        components: number of Gaussians, or the most of them; None is one for every 100 points,
            from 1 to 200.
        rank: principal coordinates that are mixed; all, where there are fewer.
        kind: name of the estimator.
        fewest: components that weigh less than this many rows are dropped.
    """

    kind: ClassVar[str]
    fewest: ClassVar[float]
    components: int | None = None
    rank: int = 40

    def __post_init__(self) -> None:
        require(
            self.components is None or self.components >= 1,
            f"components={self.components} must be at least 1, or null to choose by the data",
        )
        require(self.rank >= 1, f"rank={self.rank} must be at least 1")

    @abc.abstractmethod
    def estimator(self, components: int, shape: tuple[int, int], floor: float) -> "BaseMixture":
        """An estimator of scikit-learn, with full covariances, that runs `STRIDE` passes a call.

        Args:
            components: number of Gaussians, or the most of them.
            shape: of what it will be fitted to, rows and coordinates.
            floor: added to variances.
        """

    def fit(self, data: Dataset | Placed, sigma: float) -> "DiffusedMixture":
        """Fit the mixture, or take it from the cache, and diffuse it to `sigma`.

        Raises:
            UserError: more components than points.
        """
        data = Placed.of(data)
        dataset, mesh = data.dataset, data.mesh
        n = len(dataset)
        count = self.components or int(np.clip(n // _POINTS_EACH, 1, _MOST))
        require(
            count <= n,
            f"prior.components={count} is more than the {n} points of {dataset.name}: use fewer, "
            "or null",
        )
        found = statistics(dataset)
        rank = min(self.rank, len(found.eigenvalues))
        parts = (dataset.fingerprint(), count, rank, found.digest())
        key = cache.key(self.kind, _VERSION, *parts)
        packed = cache.cached(key, lambda: _packed(self._components(dataset, found, count, rank)))
        whole = DiffusedGaussian.of(found, dataset.event_shape, sigma, mesh)
        return DiffusedMixture.of(whole, _unpacked(packed), mesh)

    def _components(self, dataset: Dataset, found: Statistics, count: int, rank: int) -> Components:
        """Fit `count` Gaussians to the first `rank` principal coordinates."""
        from threadpoolctl import threadpool_limits

        most = min(len(dataset), max(_ROWS, _POINTS_EACH * count))
        rows = np.random.default_rng(SEED).permutation(len(dataset))[:most]
        floor = _RELATIVE_FLOOR * float(found.eigenvalues[0]) + _FLOOR * dataset.size**2
        estimator = self.estimator(count, (most, rank), floor)
        # A class may have one row, of which scikit-learn wants two.
        points = np.resize(coordinates(dataset, found, np.sort(rows), rank), (max(2, most), rank))
        # Products of small matrices crawl on many threads wherever another process wants a core.
        threads = threadpool_limits(1)
        with threads, track(f"{self.kind} of {dataset.name}", _PASSES, "passes") as progress:
            # Warm starts, so that there is something to show between them.
            for done in range(0, _PASSES, STRIDE):
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # of few distinct points, and of stopping
                    estimator.fit(points)
                if estimator.converged_:
                    break
                progress.reach(done + STRIDE)
        weights = estimator.weights_
        kept = weights >= min(self.fewest / most, weights.max())
        variances, axes = np.linalg.eigh(estimator.covariances_[kept])
        return Components(
            weights=weights[kept] / weights[kept].sum(),
            means=estimator.means_[kept],
            variances=np.maximum(variances - floor, 0.0),
            axes=axes,
        )


def coordinates(
    dataset: Dataset, found: Statistics, index: np.ndarray, rank: int, dtype: type = np.float64
) -> np.ndarray:
    """The first principal coordinates of rows `index`: [k, rank] in `dtype`."""
    out = np.empty((len(index), rank), dtype)
    # In blocks, since float64 takes eight times the room of stored bytes.
    for part in blocks(np.broadcast_to(np.float64(0), (len(index), dataset.dim))):
        stored = dataset.x[index[part]].reshape(-1, dataset.dim)
        centred = dataset.to_model(stored, np.float64) - found.mean
        out[part] = centred @ found.eigenvectors[:, :rank]
        release(dataset.x)
    return out


def _packed(parts: Components) -> np.ndarray:
    """One array [K, 1 + 2 q + q²], so that the cache holds all or nothing."""
    k = len(parts.weights)
    return np.column_stack([part.reshape(k, -1) for part in parts])


def _unpacked(packed: np.ndarray) -> Components:
    q = round(np.sqrt(packed.shape[1])) - 1
    weights, means, variances, axes = np.split(packed, np.cumsum([1, q, q]), axis=1)
    return Components(weights[:, 0], means, variances, axes.reshape(-1, q, q))


class DiffusedMixture(eqx.Module):
    """A mixture in the first q principal coordinates, Gaussian in the others, with noise added.

    Attributes:
        whole: the Gaussian whose first q coordinates are replaced.
        log_weights: [K].
        means: [K, q] of the components.
        variances: [K, q] eigenvalues of their covariances, without noise.
        axes: [K, q, q] their eigenvectors, in columns.
    """

    whole: DiffusedGaussian
    log_weights: Float[Array, " k"]
    means: Float[Array, "k q"]
    variances: Float[Array, "k q"]
    axes: Float[Array, "k q q"]

    @classmethod
    def of(cls, whole: DiffusedGaussian, parts: Components, mesh: Mesh) -> "DiffusedMixture":
        """Place the components on every device of the mesh."""
        arrays = (np.log(parts.weights), parts.means, parts.variances, parts.axes)
        return cls(whole, *(replicated(array, mesh) for array in arrays))

    def sample(self, keys: Key[Array, " b"]) -> Float[Array, "b *event"]:
        """One draw per key: one of the Gaussian, with mixed coordinates in place of its own."""
        keys = jax.vmap(jax.random.split)(keys)
        k = jax.vmap(lambda key: jax.random.categorical(key, self.log_weights))(keys[:, 0])
        noise = self.whole.noise(keys[:, 1])
        along = jnp.matmul(noise, self._basis, precision=_HIGHEST)
        std = jnp.sqrt(self.variances[k] + self.whole.sigma**2)
        mixed = jnp.einsum("bqp,bp->bq", self.axes[k], std * along, precision=_HIGHEST)
        change = self.means[k] + mixed - jnp.sqrt(self._own_variances) * along
        z = self.whole.coloured(noise)
        return z + jnp.matmul(change, self._basis.T, precision=_HIGHEST).reshape(z.shape)

    def log_prob(self, z: Points) -> Float[Array, " b"]:
        """Log density at every row, in nats: the Gaussian's, with the mixture's share for its."""
        centred = z.reshape(z.shape[0], -1) - self.whole.clean.mean
        head = jnp.matmul(centred, self._basis, precision=_HIGHEST)
        turned = jnp.einsum("bq,kqp->bkp", head, self.axes, precision=_HIGHEST)
        centres = jnp.einsum("kq,kqp->kp", self.means, self.axes, precision=_HIGHEST)
        components = _log_normal(turned - centres, self.variances + self.whole.sigma**2)
        mixture = jax.nn.logsumexp(self.log_weights + components, axis=1)
        return self.whole.log_prob(z) + (mixture - _log_normal(head, self._own_variances))

    @property
    def _basis(self) -> Float[Array, "d q"]:
        return self.whole.clean.eigenvectors[:, : self.means.shape[1]]

    @property
    def _own_variances(self) -> Float[Array, " q"]:
        """Variances of the Gaussian, with noise, in the coordinates that are mixed."""
        return self.whole.clean.eigenvalues[: self.means.shape[1]] + self.whole.sigma**2


def _log_normal(x: Array, variance: Array) -> Array:
    """Log density of independent Gaussians of mean 0, up to (2π)^(-q/2), over the last axis."""
    return -0.5 * jnp.sum(x**2 / variance + jnp.log(variance), axis=-1)
