"""Probabilistic principal component analysis: a Gaussian with few directions of its own."""

from dataclasses import dataclass

from gdiff.dataset import Dataset
from gdiff.dataset.placed import Placed
from gdiff.dataset.statistics import statistics
from gdiff.errors import require
from gdiff.prior.base import PriorSpec
from gdiff.prior.gaussian import DiffusedGaussian


@dataclass(frozen=True, kw_only=True)
class PPCA(PriorSpec):
    """N(μ, U diag(λ) Uᵀ + t (I - U Uᵀ) + sigma² I), t the mean variance beyond U.

    The fit of largest likelihood of Tipping & Bishop, "Probabilistic Principal Component
    Analysis" (J. R. Stat. Soc. B 61, 1999).

    Attributes:
        rank: principal directions with a variance of their own; all, where there are fewer.
    """

    rank: int = 40

    def __post_init__(self) -> None:
        require(self.rank >= 1, f"rank={self.rank} must be at least 1")

    def fit(self, data: Dataset | Placed, sigma: float) -> DiffusedGaussian:
        """The prior from the data's cached statistics."""
        data = Placed.of(data)
        dataset, mesh = data.dataset, data.mesh
        found = statistics(dataset, self.rank)
        return DiffusedGaussian.of(found, dataset.event_shape, sigma, mesh)
