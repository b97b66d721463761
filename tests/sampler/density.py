"""What scripts/densities.py does to densities, in units of z itself, for tests of samplers."""

import densities
from densities import Mixture, propagate, transport  # noqa: F401


class Line(densities.Line):
    """Wide enough for data of unit size up to sigma = 3."""

    def __init__(self, points=2**13):
        super().__init__(18.0, points)
        self.z = self.y
