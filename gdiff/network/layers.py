"""Layers of networks, which work on whole batches; images are [b, height, width, channels]."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

# Frequencies of the embedding: from one turn in 2π / _LOWEST to one in 2π / _HIGHEST.
_LOWEST, _HIGHEST = 0.5, 32.0
_EPSILON = 1e-5
_MOST_GROUPS, _LEAST_IN_GROUP = 8, 4


def _uniform(
    random: np.random.Generator, shape: tuple[int, ...], inputs: int, gain: float
) -> Array:
    """Weights that keep the variance of `inputs` numbers, times gain²."""
    # By NumPy: JAX would compile a program for each shape.
    most = gain * math.sqrt(3 / inputs)
    return jnp.asarray(random.uniform(-most, most, shape), jnp.float32)


class Linear(eqx.Module):
    """x W + b.

    Attributes:
        weight: [i, o].
        bias: [o].
    """

    weight: Float[Array, "i o"]
    bias: Float[Array, " o"]

    @classmethod
    def draw(
        cls, random: np.random.Generator, inputs: int, outputs: int, gain: float = 1.0
    ) -> "Linear":
        """Random weights; gain 0 gives zeros."""
        return cls(_uniform(random, (inputs, outputs), inputs, gain), jnp.zeros(outputs))

    def __call__(self, x: Float[Array, "... i"]) -> Float[Array, "... o"]:
        """Of the last axis."""
        return x @ self.weight + self.bias


class Conv(eqx.Module):
    """A convolution with an odd kernel, at every place; beyond the border there are zeros.

    Attributes:
        weight: [k, k, i, o].
        bias: [o].
    """

    weight: Float[Array, "k k i o"]
    bias: Float[Array, " o"]

    @classmethod
    def draw(
        cls, random: np.random.Generator, size: int, inputs: int, outputs: int, gain: float = 1.0
    ) -> "Conv":
        """Random weights; gain 0 gives zeros."""
        shape = (size, size, inputs, outputs)
        return cls(_uniform(random, shape, size * size * inputs, gain), jnp.zeros(outputs))

    def __call__(self, x: Float[Array, "b h w i"]) -> Float[Array, "b h w o"]:
        """Of images."""
        layout = ("NHWC", "HWIO", "NHWC")
        convolved = jax.lax.conv_general_dilated(
            x, self.weight, (1, 1), "SAME", dimension_numbers=layout
        )
        return convolved + self.bias


class GroupNorm(eqx.Module):
    """Groups of channels of an image with mean 0 and variance 1, then scaled and shifted.

    Wu and He, arXiv 1803.08494; up to 8 groups, of at least 4 channels.

    Attributes:
        scale: [c].
        shift: [c].
        groups: number of them.
    """

    scale: Float[Array, " c"]
    shift: Float[Array, " c"]
    groups: int = eqx.field(static=True)

    @classmethod
    def of(cls, channels: int) -> "GroupNorm":
        """Scale 1 and shift 0."""
        most = max(1, min(_MOST_GROUPS, channels // _LEAST_IN_GROUP))
        groups = next(count for count in range(most, 0, -1) if channels % count == 0)
        return cls(jnp.ones(channels), jnp.zeros(channels), groups)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Of images."""
        # Sums over places of each channel, then over channels: XLA's loops over both are slow.
        wide = x.shape[-1] // self.groups
        share = np.kron(np.eye(self.groups), np.full((wide, wide), 1 / wide))

        def over_groups(x: Float[Array, "b h w c"]) -> Float[Array, "b 1 1 c"]:
            each = jnp.matmul(x.mean((1, 2)), share.astype(x.dtype), precision="highest")
            return each[:, None, None]

        centred = x - over_groups(x)
        variance = over_groups(centred**2)
        return centred * (jax.lax.rsqrt(variance + _EPSILON) * self.scale) + self.shift


class Embedding(eqx.Module):
    """The noise level as a vector: waves of it, and two layers.

    Attributes:
        layers: of sizes [2 w, w] and [w, w].
    """

    layers: tuple[Linear, Linear]

    @classmethod
    def draw(cls, random: np.random.Generator, width: int) -> "Embedding":
        """Random layers."""
        return cls((Linear.draw(random, 2 * width, width), Linear.draw(random, width, width)))

    def __call__(self, c: Float[Array, " b"]) -> Float[Array, "b w"]:
        """Of a number of order 1."""
        frequencies = jnp.geomspace(_LOWEST, _HIGHEST, self.layers[1].bias.shape[0], dtype=c.dtype)
        angle = c[:, None] * frequencies
        waves = math.sqrt(2) * jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=1)
        first, second = self.layers
        return jax.nn.silu(second(jax.nn.silu(first(waves))))
