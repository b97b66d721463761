"""What z_T is drawn from."""

import abc
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Key

from gdiff.dataset import Dataset
from gdiff.dataset.placed import Placed
from gdiff.denoiser import Points


@runtime_checkable
class Prior(Protocol):
    """A law of z at the first noise level: a tree of arrays that lie on every device."""

    def sample(self, keys: Key[Array, " b"]) -> Float[Array, "b *event"]:
        """One draw per key, which depends on no other key."""

    def log_prob(self, z: Points) -> Float[Array, " b"]:
        """Log density at every row, in nats."""


@dataclass(frozen=True, kw_only=True)
class PriorSpec(abc.ABC):
    """A choice of prior; `fit` adapts it to the data and the first noise level."""

    # Whether every noise level needs a training of its own.
    is_trained: ClassVar[bool] = False

    @abc.abstractmethod
    def fit(self, data: Dataset | Placed, sigma: float) -> Prior:
        """The prior at noise level `sigma`, in z = x_0 + sigma ε.

        Args:
            data: whose noised law the prior stands for; placed on a mesh, or to be placed.
            sigma: the first noise level, > 0.

        Raises:
            UserError: options that do not fit the data.
        """


def replicated(value: np.typing.ArrayLike, mesh: Mesh) -> Array:
    """`value` in the working precision on every device of the mesh."""
    everywhere = NamedSharding(mesh, PartitionSpec())
    return jax.device_put(jnp.asarray(value, jnp.result_type(float)), everywhere)
