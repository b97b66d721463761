"""What every score has in common: it is fitted to a data set and gives a denoiser."""

import abc
from collections.abc import Sequence
from dataclasses import dataclass

from jax.sharding import Mesh

from gdiff.dataset import Dataset
from gdiff.denoiser import Denoiser


@dataclass(frozen=True, kw_only=True)
class ScoreSpec(abc.ABC):
    """A way to compute, or approximate, the posterior mean of the data."""

    @property
    def is_exact(self) -> bool:
        """Whether the denoiser's mean is the exact one but for rounding, so that none checks it."""
        return False

    @property
    def is_posterior(self) -> bool:
        """Whether the denoiser's moments are those of the data's posterior, to a tolerance."""
        return self.is_exact

    @abc.abstractmethod
    def fit(self, dataset: Dataset, mesh: Mesh, sigmas: Sequence[float] = ()) -> Denoiser:
        """Place what is needed of the data on the mesh and return the denoiser.

        Args:
            dataset: whose posterior it is.
            mesh: the devices.
            sigmas: positive noise levels at which the run will ask, in any order, so that a
                score can prepare tables; a denoiser answers at other levels too.
        """
