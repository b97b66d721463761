"""The noised data themselves: what every other prior stands for."""

from dataclasses import dataclass

import equinox as eqx
import jax
from jaxtyping import Array, Float, Key

from gdiff.dataset import Dataset
from gdiff.dataset.placed import Placed
from gdiff.denoiser import Points
from gdiff.prior.base import PriorSpec, replicated
from gdiff.score.exact import Exact, ExactScan


@dataclass(frozen=True, kw_only=True)
class Empirical(PriorSpec):
    """(1/n) Σ N(y_i, sigma² I): a row of the data, and noise.

    An oracle, without any error at the start. At a small sigma a trajectory returns to its row.
    """

    def fit(self, data: Dataset | Placed, sigma: float) -> "NoisedData":
        """Place all rows on the mesh, split over its axis `data`."""
        data = Placed.of(data)
        level = replicated(sigma, data.mesh)
        return NoisedData(Exact().fit(data), level, data.dataset.event_shape)


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
            rows = self.scan.rows
            index = jax.random.randint(row, (), 0, rows.number)
            return index, jax.random.normal(noise, rows.centre.shape)

        index, noise = jax.vmap(draw)(keys)
        z = self.scan.rows.take(index) + self.sigma * noise
        return z.reshape(-1, *self.event_shape)

    def log_prob(self, z: Points) -> Float[Array, " b"]:
        """Log density at every row, in nats, from a scan over all data."""
        return self.scan(z, self.sigma).log_density
