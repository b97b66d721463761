from dataclasses import dataclass

from gdiff.dataset.placed import Placed
from gdiff.prior.base import PriorSpec, replicated
from gdiff.prior.standard import IsotropicGaussian


@dataclass(frozen=True, kw_only=True)
class Wide(PriorSpec):
    """A Gaussian that is wider than the noise."""

    factor: float = 1.5

    def fit(self, data, sigma):
        data = Placed.of(data)
        std = replicated(self.factor * sigma, data.mesh)
        return IsotropicGaussian(data.dataset.event_shape, std)
