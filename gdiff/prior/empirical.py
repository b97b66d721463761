"""The noised data themselves: what every other prior stands for."""

from dataclasses import dataclass

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, Key

from gdiff.dataset import Dataset
from gdiff.parallel.mesh import BATCH
from gdiff.prior.base import PriorSpec, replicated
from gdiff.score.exact import Exact, ExactScan


@dataclass(frozen=True, kw_only=True)
class Empirical(PriorSpec):
    """(1/n) Σ N(y_i, sigma² I): a row of the data, and noise.

    An oracle, without any error at the start. At a small sigma a trajectory returns to its row.
    """

    def fit(self, dataset: Dataset, sigma: float, mesh: Mesh) -> "NoisedData":
        """Place all rows on the mesh, split over its axis `data`."""
        return NoisedData(Exact().fit(dataset, mesh), replicated(sigma, mesh), dataset.event_shape)


class NoisedData(eqx.Module):
    """A row drawn uniformly plus sigma times noise.

    Attributes:
        scan: the rows, and their exact posterior.
        sigma: [] noise level.
        event_shape: shape of a point.
    """

    scan: ExactScan
    sigma: Float[Array, ""]
    event_shape: tuple[int, ...] = eqx.field(static=True)

    def sample(self, keys: Key[Array, " b"]) -> Float[Array, "b *event"]:
        """One draw per key."""

        def draw(key: Key[Array, ""]) -> tuple[Array, Array]:
            row, noise = jax.random.split(key)
            shape = self.scan.centre.shape
            return jax.random.randint(row, (), 0, self.scan.n), jax.random.normal(noise, shape)

        index, noise = jax.vmap(draw)(keys)
        rows = self.scan.rows[index].astype(noise.dtype)
        z = (rows - self.scan.shift) / self.scan.scale + self.sigma * noise
        return z.reshape(-1, *self.event_shape)

    def log_prob(self, z: Float[Array, "b *event"]) -> Float[Array, " b"]:
        """Log density at every row, in nats, from a scan over all data."""
        count = z.shape[0]
        missing = -count % self.scan.mesh.shape[BATCH]
        z = jnp.pad(z.reshape(count, -1), ((0, missing), (0, 0)), mode="edge")
        return self.scan(z, jnp.broadcast_to(self.sigma, z.shape[:1])).log_density[:count]
