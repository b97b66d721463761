"""What every score has in common: it is fitted to a data set and gives a denoiser."""

import abc
from collections.abc import Sequence
from dataclasses import dataclass

from gdiff.dataset import Dataset
from gdiff.dataset.placed import Placed
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

    @property
    def mark(self) -> str:
        """What else the denoiser depends on besides its options and the data, for the cache."""
        return ""

    @property
    def of_all_rows(self) -> "ScoreSpec | None":
        """The score that this one approximates from few rows; None for the exact one."""
        return None

    def products(self, dim: int) -> int:
        """Products of numbers, about, that a query takes for each row of all rows."""
        return dim

    def advice(self, dataset: Dataset) -> str | None:
        """What a user should know of the cost on such data, in a line; None if nothing."""
        return None

    @abc.abstractmethod
    def fit(self, data: Dataset | Placed, sigmas: Sequence[float] = ()) -> Denoiser:
        """Place what is needed of the data on the devices and return the denoiser.

        Args:
            data: whose posterior it is; placed on a mesh, or to be placed on all devices.
            sigmas: positive noise levels at which the run will ask, in any order, so that a
                score can prepare tables; a denoiser answers at other levels too.
        """
