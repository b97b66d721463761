"""The usual prior: an isotropic Gaussian that ignores the data."""

import math
from dataclasses import dataclass

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from gdiff.dataset import Dataset
from gdiff.dataset.placed import Placed
from gdiff.denoiser import Points
from gdiff.errors import require
from gdiff.prior.base import PriorSpec, replicated


@dataclass(frozen=True, kw_only=True)
class Standard(PriorSpec):
    """N(0, (data_variance + sigma²) I) in z; about the data, where they lie far from 0.

    In a variance-preserving process x_T = z / √(1 + sigma²), so data_variance = 1 is its
    N(0, I); data_variance = 0 is the N(0, sigma² I) of variance-exploding samplers (Karras et
    al., arXiv 2206.00364).

    Attributes:
        data_variance: variance per coordinate that the data are taken to have; None for 1, or,
            where values are as they are in the file and much smaller, their largest square.
    """

    data_variance: float | None = None

    def __post_init__(self) -> None:
        require(
            self.data_variance is None or 0 <= self.data_variance < math.inf,
            f"data_variance={self.data_variance} must be 0 or more, and finite, or null",
        )

    def fit(self, data: Dataset | Placed, sigma: float) -> "IsotropicGaussian":
        """The prior for points shaped like the data set's."""
        data = Placed.of(data)
        dataset, mesh = data.dataset, data.mesh
        std = replicated((self.variance(dataset) + sigma**2) ** 0.5, mesh)
        mean = replicated(dataset.centre, mesh) if np.any(dataset.centre) else None
        return IsotropicGaussian(dataset.event_shape, std, mean)

    def variance(self, dataset: Dataset) -> float:
        """What `data_variance` is for these data."""
        return dataset.size**2 if self.data_variance is None else self.data_variance


class IsotropicGaussian(eqx.Module):
    """N(mean, std² I) over points of shape `event_shape`; the mean is 0 if there is none."""

    event_shape: tuple[int, ...] = eqx.field(static=True)
    std: Float[Array, ""]
    mean: Array | None = None

    def sample(self, keys: Key[Array, " b"]) -> Float[Array, "b *event"]:
        """One draw per key."""
        z = self.std * jax.vmap(lambda key: jax.random.normal(key, self.event_shape))(keys)
        return z if self.mean is None else self.mean + z

    def log_prob(self, z: Points) -> Float[Array, " b"]:
        """Log density at every row, in nats."""
        z = (z if self.mean is None else z - self.mean).reshape(z.shape[0], -1)
        log_std = jnp.log(self.std) + 0.5 * jnp.log(2 * jnp.pi)
        return -0.5 * jnp.sum((z / self.std) ** 2, axis=1) - z.shape[1] * log_std
