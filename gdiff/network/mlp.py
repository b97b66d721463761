"""A residual network of fully connected layers, for vectors and small images."""

from dataclasses import dataclass

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Float

from gdiff.errors import require
from gdiff.network.base import Network, NetworkSpec
from gdiff.network.layers import Embedding, Linear


@dataclass(frozen=True, kw_only=True)
class MLP(NetworkSpec):
    """Residual blocks of two layers; the noise level scales and shifts between them.

    Attributes:
        width: of all layers.
        depth: number of blocks.
    """

    width: int = 256
    depth: int = 4

    def __post_init__(self) -> None:
        for key in ("width", "depth"):
            value = getattr(self, key)
            require(value >= 1, f"{key}={value} must be at least 1")

    def build(self, event_shape: tuple[int, ...], random: np.random.Generator) -> "MLPNetwork":
        """For points of any shape, as vectors."""
        dim, width = int(np.prod(event_shape)), self.width
        return MLPNetwork(
            Linear.draw(random, dim, width),
            Embedding.draw(random, width),
            tuple(Block.draw(random, width) for _ in range(self.depth)),
            Linear.draw(random, width, dim, 0.0),
        )


class Block(eqx.Module):
    """x + W₂ silu((1 + s) W₁ silu(x) + t), with s and t functions of the noise level.

    Attributes:
        first, second: W₁ and W₂, [w, w].
        level: [w, 2 w], of the noise level's embedding.
    """

    first: Linear
    second: Linear
    level: Linear

    @classmethod
    def draw(cls, random: np.random.Generator, width: int) -> "Block":
        """Random layers, the second one small."""
        return cls(
            Linear.draw(random, width, width),
            Linear.draw(random, width, width, 0.1),
            Linear.draw(random, width, 2 * width),
        )

    def __call__(self, x: Float[Array, "b w"], level: Float[Array, "b w"]) -> Float[Array, "b w"]:
        """Of a batch."""
        scale, shift = jax.numpy.split(self.level(level), 2, axis=1)
        hidden = self.first(jax.nn.silu(x)) * (1 + scale) + shift
        return x + self.second(jax.nn.silu(hidden))


class MLPNetwork(Network):
    """The network of `MLP`.

    Attributes:
        first: [d, w].
        embedding: of the noise level.
        blocks: one after the other.
        last: [w, d].
    """

    first: Linear
    embedding: Embedding
    blocks: tuple[Block, ...]
    last: Linear

    def __call__(self, x: Float[Array, "b *event"], c: Float[Array, " b"]) -> Array:
        """The answer, [b, *event]."""
        hidden, level = self.first(x.reshape(len(x), -1)), self.embedding(c)
        for block in self.blocks:
            hidden = block(hidden, level)
        return self.last(jax.nn.silu(hidden)).reshape(x.shape)
