"""The one type in which scores and samplers meet."""

from typing import NamedTuple, Protocol

import jax.numpy as jnp
from jaxtyping import Array, Float, Int


class Posterior(NamedTuple):
    """What a denoiser knows about x_0 given z; a field it cannot give is None.

    Attributes:
        mean: [b, *event] posterior mean D(z, σ) = E[x_0 | z].
        trace_cov: [b] trace of the posterior covariance, which is σ² times the divergence of D.
        log_density: [b] log density at z of the data convolved with N(0, σ² I), in nats.
        error_bound: [b] upper bound of the distance of `mean` from the exact posterior mean.
        likely_bound: [b] a lower such bound, which holds with high probability only.
        subset_size: [b] rows of the data set that were weighed in full.
    """

    mean: Float[Array, "b *event"]
    trace_cov: Float[Array, " b"] | None = None
    log_density: Float[Array, " b"] | None = None
    error_bound: Float[Array, " b"] | None = None
    likely_bound: Float[Array, " b"] | None = None
    subset_size: Int[Array, " b"] | None = None


class Denoiser(Protocol):
    """A function from noisy points to what is known about the clean ones."""

    def __call__(self, z: Float[Array, "b *event"], sigma: Float[Array, " b"] | float) -> Posterior:
        """Posterior of x_0 for every row z of a batch of any size.

        Args:
            z: noisy points.
            sigma: noise level of every row, or one number for all.
        """


def per_row(sigma: Float[Array, " b"] | float, z: Float[Array, "b *event"]) -> Float[Array, " b"]:
    """A noise level for every row of z, in its type."""
    return jnp.broadcast_to(jnp.asarray(sigma, z.dtype), z.shape[:1])
