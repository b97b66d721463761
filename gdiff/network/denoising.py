"""A network as a denoiser: the preconditioning of EDM, about the mean of the data."""

from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from gdiff.denoiser import Points, Posterior, Sigma, per_row
from gdiff.network.base import Network


class Factors(NamedTuple):
    """Those of the skip, of what the network answers and of what it is given, each [b, 1, …]."""

    skip: Float[Array, "b ..."]
    answer: Float[Array, "b ..."]
    given: Float[Array, "b ..."]


class Denoising(eqx.Module):
    """D(z, σ) = μ + c_skip (z - μ) + c_out F(c_in (z - μ), ln(σ/s) / 4), F a network.

    With s² the variance of the data, c_skip = s² / (s² + σ²), c_out = σ s / √(s² + σ²) and
    c_in = 1 / √(s² + σ²), so that what F is given and what it is to answer have unit variance at
    every σ (Karras et al., arXiv 2206.00364, table 1). There μ is 0, and ln σ is not in units of s;
    with ours, an untrained network is the best denoiser of N(μ, s² I), whatever the units.

    Attributes:
        network: F.
        mean: [*event] μ.
        std: [] s, over all coordinates.
    """

    network: Network
    mean: Float[Array, "*event"]
    std: Float[Array, ""]

    def __call__(self, z: Points, sigma: Sigma) -> Posterior:
        """The mean alone."""
        sigma = per_row(sigma, z)
        skip, answer, _ = self.factors(sigma)
        return Posterior(self.mean + skip * (z - self.mean) + answer * self.answer(z, sigma))

    def factors(self, sigma: Float[Array, " b"]) -> Factors:
        """c_skip, c_out and c_in."""
        sigma = sigma.reshape(-1, *[1] * self.mean.ndim)
        total = jnp.sqrt(self.std**2 + sigma**2)
        return Factors((self.std / total) ** 2, sigma * (self.std / total), 1 / total)

    def answer(self, z: Points, sigma: Float[Array, " b"]) -> Float[Array, "b *event"]:
        """F."""
        return self.network(
            self.factors(sigma).given * (z - self.mean), jnp.log(sigma / self.std) / 4
        )

    def loss(self, x: Points, z: Points, sigma: Float[Array, " b"]) -> Float[Array, " b"]:
        """‖D(z, σ) - x‖² / c_out², a coordinate: EDM's weighted loss, 1 for zeros as the answer."""
        skip, answer, _ = self.factors(sigma)
        wanted = (x - self.mean - skip * (z - self.mean)) / answer
        error = (self.answer(z, sigma) - wanted).reshape(len(z), -1)
        return jnp.mean(error**2, axis=1)
