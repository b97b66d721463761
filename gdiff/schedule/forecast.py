"""What a schedule may ask about grids: how far outputs will be from the data."""

from typing import Protocol

import numpy as np
from jaxtyping import Array, Float

from gdiff.schedule.losses import LossCurve


class Forecast(Protocol):
    """A distance between outputs and data as a function of the grid; positive, least is best."""

    def of(self, grid: Float[np.ndarray, " k"]) -> float:
        """For a grid [K + 1], the last level maybe 0."""

    def quick(self, grid: Float[np.ndarray, " k"]) -> float:
        """The same to some per cent."""

    def at(self, levels: Float[Array, " n"]) -> Array:
        """The same as `quick` for a grid's positive levels [n], differentiable."""

    def losses(self, ends: tuple[float, float]) -> LossCurve:
        """The denoising loss of the data that this is about, between two noise levels."""
