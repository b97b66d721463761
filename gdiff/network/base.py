"""What every network has in common: options by name, built for points of a shape."""

import abc
from dataclasses import dataclass

import equinox as eqx
import numpy as np
from jaxtyping import Array, Float


class Network(eqx.Module):
    """A function of points and noise levels, of the shape of the points.

    What it is given and what it answers have about unit variance; `Denoising` makes a denoiser of
    it. Its last layer is 0 at first, and so is its answer.
    """

    @abc.abstractmethod
    def __call__(self, x: Float[Array, "b *event"], c: Float[Array, " b"]) -> Array:
        """The answer at points x, [b, *event].

        Args:
            x: points.
            c: a number of order 1 that tells the noise level of each.
        """


@dataclass(frozen=True, kw_only=True)
class NetworkSpec(abc.ABC):
    """A choice of network; `build` draws one for points of a shape."""

    @abc.abstractmethod
    def build(self, event_shape: tuple[int, ...], random: np.random.Generator) -> Network:
        """A network that is not trained yet.

        Raises:
            UserError: it is not made for points of this shape.
        """
