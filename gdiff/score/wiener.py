"""The Wiener filter: the exact score of a Gaussian with the data's mean and covariance."""

from collections.abc import Sequence
from dataclasses import dataclass

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float

from gdiff.dataset import Dataset
from gdiff.dataset.placed import Placed
from gdiff.dataset.statistics import Statistics, statistics
from gdiff.denoiser import Points, Posterior, Sigma, per_row
from gdiff.errors import require
from gdiff.score.base import ScoreSpec

_HIGHEST = jax.lax.Precision.HIGHEST


@dataclass(frozen=True, kw_only=True)
class Wiener(ScoreSpec):
    """Best linear denoiser; its cost does not depend on the number of points.

    D(z, σ) = μ + U diag(λ / (λ + σ²)) Uᵀ (z - μ), with μ the mean of the data and U diag(λ) Uᵀ
    their covariance. It minimises the mean squared error among linear denoisers, and among all
    of them where the data are Gaussian.

    Attributes:
        rank: principal directions with a variance of their own, the others sharing their mean;
            None keeps all, or 512 in more than 4 096 dimensions.
    """

    rank: int | None = None

    def __post_init__(self) -> None:
        require(
            self.rank is None or self.rank >= 1,
            f"rank={self.rank} must be at least 1, or null for all directions",
        )

    def fit(self, data: Dataset | Placed, sigmas: Sequence[float] = ()) -> "WienerFilter":
        """Put mean and principal directions on every device; the same for all `sigmas`."""
        data = Placed.of(data)
        found = statistics(data.dataset, self.rank)
        return WienerFilter.of(found, data.mesh, data.dataset.event_shape)


class WienerFilter(eqx.Module):
    """Denoiser of the Gaussian N(mean, U diag(λ) Uᵀ + tail (I - U Uᵀ)).

    Its log density is that of this Gaussian convolved with N(0, σ² I).

    Attributes:
        mean: [d].
        eigenvalues: [r] λ.
        eigenvectors: [d, r] U.
        tail: [] variance of the directions beyond U.
        event_shape: of a point; None where it is not known.
    """

    mean: Float[Array, " d"]
    eigenvalues: Float[Array, " r"]
    eigenvectors: Float[Array, "d r"]
    tail: Float[Array, ""]
    event_shape: tuple[int, ...] | None = eqx.field(static=True, default=None)

    @classmethod
    def of(
        cls, found: Statistics, mesh: Mesh, event_shape: tuple[int, ...] | None = None
    ) -> "WienerFilter":
        """Replicate the statistics over `mesh` in the working precision."""
        everywhere = NamedSharding(mesh, PartitionSpec())
        dtype = jnp.result_type(float)
        parts = (jax.device_put(jnp.asarray(part, dtype), everywhere) for part in found)
        return cls(*parts, event_shape)

    def __call__(self, z: Points, sigma: Sigma) -> Posterior:
        """Posterior of the Gaussian at every row of z."""
        sigma = per_row(sigma, z)
        d, r = self.eigenvectors.shape
        centred = z.reshape(z.shape[0], -1) - self.mean
        along = jnp.matmul(centred, self.eigenvectors, precision=_HIGHEST)
        variance = sigma[:, None] ** 2
        spread, rest_spread = self.eigenvalues + variance, self.tail + variance
        gain, rest_gain = self.eigenvalues / spread, self.tail / rest_spread
        back = jnp.matmul((gain - rest_gain) * along, self.eigenvectors.T, precision=_HIGHEST)
        mean = self.mean + rest_gain * centred + back
        trace = sigma**2 * (jnp.sum(gain, axis=1) + (d - r) * rest_gain[:, 0])

        distance = jnp.sum(along**2 / spread, axis=1)
        volume = jnp.sum(jnp.log(spread), axis=1)
        if r < d:
            # By subtracting vectors: their squared lengths would cancel.
            across = centred - jnp.matmul(along, self.eigenvectors.T, precision=_HIGHEST)
            distance += jnp.sum(across**2, axis=1) / rest_spread[:, 0]
            volume += (d - r) * jnp.log(rest_spread[:, 0])
        return Posterior(
            mean=mean.reshape(z.shape),
            trace_cov=trace,
            log_density=-0.5 * (distance + volume + d * jnp.log(2 * jnp.pi)),
        )
