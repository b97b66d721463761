"""The one type in which scores and samplers meet."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from gdiff.errors import require

# Noisy points, and their noise levels: one for every row, or one number for all.
Points = Float[Array | np.ndarray, "b *event"]
Sigma = Float[Array | np.ndarray, " b"] | Float[Array, ""] | float


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


@runtime_checkable
class Denoiser(Protocol):
    """A function from noisy points to what is known about the clean ones."""

    def __call__(self, z: Points, sigma: Sigma) -> Posterior:
        """Posterior of x_0 for every row z of a batch of any size.

        Args:
            z: noisy points.
            sigma: noise level of every row, or one number for all.
        """


class Head(NamedTuple):
    """The rows of a data set that weigh most in a posterior.

    Attributes:
        rows: [b, k] their numbers, the heaviest first.
        log_weights: [b, k] of their posterior weights, which all rows together have a sum of 1 of;
            -inf at places that are not used.
    """

    rows: Int[Array, "b k"]
    log_weights: Float[Array, "b k"]


@runtime_checkable
class Headed(Protocol):
    """A denoiser that is the posterior mean of rows, and tells which of them weigh most."""

    def heads(self, z: Points, sigma: Sigma, k: int) -> tuple[Posterior, Head]:
        """The posterior, as by a call and with `trace_cov`, and the k heaviest rows."""

    def take(self, index: Int[Array, "b ..."]) -> Float[Array, "b ... d"]:
        """Rows by their numbers, in model coordinates."""


def headed(denoiser: Callable[..., Any]) -> Headed | None:
    """What tells the heads of a denoiser's posteriors; None if nothing does."""
    function = _unwrapped(denoiser)
    return function if isinstance(function, Headed) else None


def noise_floor(denoiser: Callable[..., Any]) -> float:
    """Its attribute `floor`: the noise level below which a model of the data says nothing of them.

    0 where it does not tell.
    """
    return float(getattr(_unwrapped(denoiser), "floor", 0.0))


def _unwrapped(denoiser: Callable[..., Any]) -> Callable[..., Any]:
    """What `as_denoiser` was given."""
    return denoiser.function if isinstance(denoiser, _Adapted) else denoiser


def per_row(sigma: Sigma, z: Points) -> Float[Array, " b"]:
    """A noise level for every row of z, in the type in which JAX computes with z."""
    return jnp.broadcast_to(jnp.asarray(sigma, jnp.result_type(z, float)), z.shape[:1])


class _Adapted(eqx.Module):
    function: Callable[..., Any]

    def __call__(self, z: Points, sigma: Sigma) -> Posterior:
        found = self.function(z, per_row(sigma, z))
        if isinstance(found, Posterior):
            return found
        mean = jnp.asarray(found, z.dtype)
        require(
            mean.shape == z.shape,
            f"the denoiser answers points {z.shape} with an array {mean.shape}: it must give one "
            "estimate of x_0 for each",
        )
        return Posterior(mean)


class _OnHost(eqx.Module):
    function: Callable[..., Any]

    def __call__(self, z: Float[Array, "b *event"], sigma: Float[Array, " b"]) -> Array:
        def call(*arrays: Array) -> np.ndarray:
            return np.asarray(self.function(*map(np.array, arrays)), z.dtype)

        return jax.pure_callback(call, jax.ShapeDtypeStruct(z.shape, z.dtype), z, sigma)


def as_denoiser(function: Callable[..., Any], mesh: Mesh | None = None) -> Denoiser:
    """A denoiser from any function of (z [b, *event], sigma [b]).

    Args:
        function: traceable by JAX; gives a `Posterior`, or the mean alone as an array like z.
            Modules of equinox and other trees keep their arrays as arguments of what is compiled;
            a plain function is compiled again where another one takes its place.
        mesh: the devices that it will run on; None for one.

    Raises:
        UserError: a function of NumPy arrays on several devices, which would wait for each other.
    """
    denoiser = function if isinstance(function, _Adapted) else _Adapted(function)
    require(
        mesh is None or mesh.size == 1 or not is_on_host(denoiser),
        "a denoiser of NumPy arrays runs on one device only: use the mesh batch:1, or none",
    )
    return denoiser


def is_on_host(denoiser: Callable[..., Any]) -> bool:
    """Whether it is one of `from_numpy`."""
    return isinstance(denoiser, _Adapted) and isinstance(denoiser.function, _OnHost)


def from_numpy(function: Callable[[np.ndarray, np.ndarray], Any]) -> Denoiser:
    """A denoiser from a function of NumPy arrays, which JAX calls on the host.

    For networks of other libraries, which convert on the way in and out. On one device only:

        def network(z, sigma):  # a PyTorch model of noisy images and their noise levels
            with torch.no_grad():
                return model(torch.from_numpy(z), torch.from_numpy(sigma)).numpy()

        denoise = from_numpy(network)

    Args:
        function: of z [b, *event] and sigma [b], copies that it may overwrite; gives the mean of
            x_0 as an array of the shape of z. It must be a function of its arguments alone, for
            it may be called more or less often than it seems.
    """
    return _Adapted(_OnHost(function))
