"""A U-Net without attention, for images of any size."""

from dataclasses import dataclass, field

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gdiff.errors import require
from gdiff.network.base import Network, NetworkSpec
from gdiff.network.layers import Conv, Embedding, GroupNorm, Linear


@dataclass(frozen=True, kw_only=True)
class UNet(NetworkSpec):
    """Residual blocks on ever coarser grids and back, with a short cut at each (Ronneberger et al.,
    arXiv 1505.04597; Ho et al., arXiv 2006.11239), small and without attention.

    Images whose sides do not divide by the coarsest grid are padded. Patches of pixels as
    channels (Hoogeboom et al., arXiv 2301.11093) make large images cheap.

    Attributes:
        channels: of every grid, the finest first; the next one has half the places a side.
        blocks: residual blocks of a grid on the way down, and as many on the way up.
        patch: pixels a side that are channels of one place of the finest grid.
        width: of the noise level's embedding.
    """

    channels: list[int] = field(default_factory=lambda: [32, 64])
    blocks: int = 1
    patch: int = 1
    width: int = 128

    def __post_init__(self) -> None:
        require(
            len(self.channels) >= 1 and all(count >= 1 for count in self.channels),
            f"channels={self.channels} must be numbers of at least 1, one for each grid",
        )
        for key in ("blocks", "patch", "width"):
            value = getattr(self, key)
            require(value >= 1, f"{key}={value} must be at least 1")

    def build(self, event_shape: tuple[int, ...], random: np.random.Generator) -> "UNetNetwork":
        """For images [height, width, channels].

        Raises:
            UserError: the points are not images.
        """
        require(
            len(event_shape) == 3,
            f"network=unet is for images, and the points have shape {list(event_shape)}: use "
            "network=mlp",
        )

        def stack(inputs: int, outputs: int) -> tuple[ResidualBlock, ...]:
            sizes = [inputs, *[outputs] * (self.blocks - 1)]
            return tuple(ResidualBlock.draw(random, n, outputs, self.width) for n in sizes)

        folded = event_shape[2] * self.patch**2
        entries = [self.channels[0], *self.channels[:-1]]
        coarser = [*self.channels[1:], self.channels[-1]]
        return UNetNetwork(
            Embedding.draw(random, self.width),
            Conv.draw(random, 3, folded, self.channels[0]),
            tuple(stack(n, own) for n, own in zip(entries, self.channels, strict=True)),
            stack(self.channels[-1], self.channels[-1]),
            tuple(stack(n + own, own) for n, own in zip(coarser, self.channels, strict=True)),
            GroupNorm.of(self.channels[0]),
            Conv.draw(random, 3, self.channels[0], folded, 0.0),
            self.patch,
        )


class ResidualBlock(eqx.Module):
    """Two convolutions beside a short cut; the noise level scales and shifts between them.

    Attributes:
        norms: before each convolution.
        convs: 3 × 3, from i to o channels and from o to o.
        level: [w, 2 o], of the noise level's embedding.
        short: 1 × 1, where i and o differ.
    """

    norms: tuple[GroupNorm, GroupNorm]
    convs: tuple[Conv, Conv]
    level: Linear
    short: Conv | None

    @classmethod
    def draw(
        cls, random: np.random.Generator, inputs: int, outputs: int, width: int
    ) -> "ResidualBlock":
        """Random layers; the second convolution is 0, so that at first the short cut is all."""
        return cls(
            (GroupNorm.of(inputs), GroupNorm.of(outputs)),
            (Conv.draw(random, 3, inputs, outputs), Conv.draw(random, 3, outputs, outputs, 0.0)),
            Linear.draw(random, width, 2 * outputs),
            Conv.draw(random, 1, inputs, outputs) if inputs != outputs else None,
        )

    def __call__(self, x: Float[Array, "b h w i"], level: Array) -> Float[Array, "b h w o"]:
        """Of images, and the embedding of their noise levels [b, w]."""
        scale, shift = jnp.split(self.level(level)[:, None, None], 2, axis=-1)
        hidden = self.convs[0](jax.nn.silu(self.norms[0](x)))
        hidden = self.norms[1](hidden) * (1 + scale) + shift
        hidden = self.convs[1](jax.nn.silu(hidden))
        return hidden + (x if self.short is None else self.short(x))


class UNetNetwork(Network):
    """The network of `UNet`.

    Attributes:
        embedding: of the noise level.
        first: of the folded image.
        down: blocks of every grid, the finest first.
        middle: blocks of the coarsest grid.
        up: blocks of every grid, the finest first, which also see what `down` has left there.
        norm, last: of the finest grid; gives the folded image.
        patch: pixels a side of a place.
    """

    embedding: Embedding
    first: Conv
    down: tuple[tuple[ResidualBlock, ...], ...]
    middle: tuple[ResidualBlock, ...]
    up: tuple[tuple[ResidualBlock, ...], ...]
    norm: GroupNorm
    last: Conv
    patch: int = eqx.field(static=True)

    def __call__(self, x: Float[Array, "b h w c"], c: Float[Array, " b"]) -> Array:
        """The answer, [b, h, w, c]."""
        high, wide = x.shape[1:3]
        unit = self.patch * 2 ** (len(self.down) - 1)
        padded = jnp.pad(x, ((0, 0), (0, -high % unit), (0, -wide % unit), (0, 0)))
        level = self.embedding(c)
        hidden, kept = self.first(_folded(padded, self.patch)), []
        for number, blocks in enumerate(self.down):
            hidden = _halved(hidden) if number else hidden
            for block in blocks:
                hidden = block(hidden, level)
            kept.append(hidden)
        for block in self.middle:
            hidden = block(hidden, level)
        for number, blocks in reversed(list(enumerate(self.up))):
            hidden = jnp.concatenate([hidden, kept[number]], axis=-1)
            for block in blocks:
                hidden = block(hidden, level)
            hidden = _doubled(hidden) if number else hidden
        found = _unfolded(self.last(jax.nn.silu(self.norm(hidden))), self.patch)
        return found[:, :high, :wide]


def _folded(x: Float[Array, "b h w c"], side: int) -> Array:
    """Patches of pixels as channels: [b, h / side, w / side, side² c]."""
    b, h, w, c = x.shape
    x = x.reshape(b, h // side, side, w // side, side, c).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(b, h // side, w // side, side * side * c)


def _unfolded(x: Float[Array, "b h w k"], side: int) -> Array:
    """The inverse of `_folded`."""
    b, h, w, k = x.shape
    x = x.reshape(b, h, w, side, side, k // side**2).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(b, h * side, w * side, k // side**2)


def _halved(x: Float[Array, "b h w c"]) -> Array:
    """Means of 2 × 2 places."""
    b, h, w, c = x.shape
    return x.reshape(b, h // 2, 2, w // 2, 2, c).mean((2, 4))


def _doubled(x: Float[Array, "b h w c"]) -> Array:
    """Every place as 2 × 2 of them."""
    b, h, w, c = x.shape
    return jnp.broadcast_to(x[:, :, None, :, None], (b, h, 2, w, 2, c)).reshape(b, 2 * h, 2 * w, c)
