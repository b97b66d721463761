from dataclasses import dataclass

from gdiff.prior.base import PriorSpec, replicated
from gdiff.prior.standard import IsotropicGaussian


@dataclass(frozen=True, kw_only=True)
class Wide(PriorSpec):
    """A Gaussian that is wider than the noise."""

    factor: float = 1.5

    def fit(self, dataset, sigma, mesh):
        return IsotropicGaussian(dataset.event_shape, replicated(self.factor * sigma, mesh))
