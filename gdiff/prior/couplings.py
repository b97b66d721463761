"""Invertible maps of vectors whose Jacobian is triangular: affine couplings."""

from itertools import pairwise

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

_HIGHEST = jax.lax.Precision.HIGHEST
# Largest log scale of one coupling: bounded, so that no draw can overflow.
_LARGEST = 2.0


class Coupling(eqx.Module):
    """Scales and shifts some coordinates by functions of the others, which stay as they are.

    Attributes:
        stays: [r] whether a coordinate stays; [k, r] where several are stacked.
        weights: of a network of two hidden layers, [r, w], [w, w], [w, 2 r].
        biases: [w], [w], [2 r].
    """

    stays: Bool[Array, "*k r"]
    weights: tuple[Float[Array, "..."], ...]
    biases: tuple[Float[Array, "..."], ...]

    def forward(self, u: Float[Array, "b r"]) -> tuple[Float[Array, "b r"], Float[Array, " b"]]:
        """The image of every row, and the log determinant of the Jacobian there."""
        log_scale, shift = self._scale_and_shift(u)
        return u * jnp.exp(log_scale) + shift, jnp.sum(log_scale, axis=1)

    def inverse(self, u: Float[Array, "b r"]) -> Float[Array, "b r"]:
        """The rows whose images are given."""
        log_scale, shift = self._scale_and_shift(u)
        return (u - shift) * jnp.exp(-log_scale)

    def _scale_and_shift(self, u: Array) -> tuple[Array, Array]:
        hidden = jnp.where(self.stays, u, 0)
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            hidden = jax.nn.silu(jnp.matmul(hidden, weight, precision=_HIGHEST) + bias)
        out = jnp.matmul(hidden, self.weights[-1], precision=_HIGHEST) + self.biases[-1]
        raw, shift = jnp.split(out, 2, axis=1)
        log_scale = _LARGEST * jnp.tanh(raw / _LARGEST)
        return jnp.where(self.stays, 0, log_scale), jnp.where(self.stays, 0, shift)


class Couplings(eqx.Module):
    """Affine couplings one after the other: RealNVP (Dinh et al., arXiv 1605.08803).

    Attributes:
        stack: all of them, every array with a leading axis for their number.
    """

    stack: Coupling

    @classmethod
    def identity(cls, count: int, rank: int, width: int, seed: int) -> "Couplings":
        """Couplings of random halves of `rank` coordinates that change nothing yet.

        Every other one moves what the one before it leaves. With a single coordinate there
        is nothing to condition on, and so there are none.
        """
        random = np.random.default_rng(seed)
        count = count if rank > 1 else 0
        stays = np.empty((count, rank), bool)
        for i in range(count):
            stays[i] = ~stays[i - 1] if i % 2 else random.permutation(rank) < rank // 2
        sizes = (rank, width, width, 2 * rank)
        weights = [random.standard_normal((count, a, b)) / a**0.5 for a, b in pairwise(sizes)]
        weights[0] *= 2**0.5  # half of what comes in is 0
        weights[-1][:] = 0
        dtype = jnp.result_type(float)
        return cls(
            Coupling(
                stays=jnp.asarray(stays),
                weights=tuple(jnp.asarray(weight, dtype) for weight in weights),
                biases=tuple(jnp.zeros((count, b), dtype) for b in sizes[1:]),
            )
        )

    def forward(self, u: Float[Array, "b r"]) -> tuple[Float[Array, "b r"], Float[Array, " b"]]:
        """The image of every row, and the log determinant of the Jacobian there."""

        def step(carry: tuple[Array, Array], coupling: Coupling) -> tuple[tuple, None]:
            u, volume = carry
            u, change = coupling.forward(u)
            return (u, volume + change), None

        return jax.lax.scan(step, (u, jnp.zeros_like(u[:, 0])), self.stack)[0]

    def inverse(self, u: Float[Array, "b r"]) -> Float[Array, "b r"]:
        """The rows whose images are given."""

        def step(u: Array, coupling: Coupling) -> tuple[Array, None]:
            return coupling.inverse(u), None

        return jax.lax.scan(step, u, self.stack, reverse=True)[0]
