"""Gaussian data by their principal directions."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from gdiff.dataset import Dataset
from gdiff.dataset.statistics import Statistics, statistics
from gdiff.errors import UserError, require
from gdiff.prior.base import PriorSpec
from gdiff.prior.ppca import PPCA
from gdiff.prior.standard import Standard
from gdiff.schedule.losses import LossCurve

# Below this share of the largest, a variance is rounding.
_NOTHING = 1e-12
# Noise levels of a loss curve in closed form.
_LEVELS = 512


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Gaussian data by their principal directions, and what their sampling starts from.

    Directions of equal variance may share an entry.

    Attributes:
        variance: [L] λ of the data.
        count: [L] directions with that variance.
        prior: [L] variance of the prior at noise level 0; σ² is added where it starts.
        shift: [L] squared distance of the prior's mean from the data's, summed over directions.
    """

    variance: Float[np.ndarray, " L"]
    count: Float[np.ndarray, " L"]
    prior: Float[np.ndarray, " L"]
    shift: Float[np.ndarray, " L"]

    @classmethod
    def of(cls, dataset: Dataset, prior: PriorSpec) -> "Spectrum":
        """That of a data set; in more than 4 096 dimensions, of its leading 512 directions.

        The prior is taken to be what it is if it is `Standard` or `PPCA`; all others are fitted to
        the noised data, and taken to have their mean and covariance.
        """
        found = statistics(dataset)
        variance, count = _entries(found, dataset.dim)
        rest = len(variance) - len(found.eigenvalues)
        clean, shift = variance, np.zeros(len(variance))
        if isinstance(prior, PPCA):
            own = found.truncated(prior.rank)
            clean = np.full(len(variance), own.tail)
            clean[: len(own.eigenvalues)] = own.eigenvalues
        if isinstance(prior, Standard):
            clean = np.full(len(variance), prior.variance(dataset))
            gap = found.mean - np.reshape(dataset.centre, -1)
            along = (gap @ found.eigenvectors) ** 2
            shift = np.append(along, max(gap @ gap - along.sum(), 0.0)) if rest else along
        return cls(variance, count, clean, shift)

    @classmethod
    def along(cls, found: Statistics, dim: int) -> "Spectrum":
        """That of given statistics, started from the noised data's own law."""
        variance, count = _entries(found, dim)
        return cls(variance, count, variance, np.zeros(len(variance)))

    @classmethod
    def read(cls, values: Float[np.ndarray, " L"], prior: PriorSpec) -> "Spectrum":
        """That of given variances about 0; the prior counts as in `of`.

        Raises:
            UserError: they are not variances.
        """
        is_list = values.ndim == 1 and len(values) > 0 and values.dtype.kind in "fiu"
        require(is_list, "a spectrum is a list of variances, one for each direction")
        values = np.sort(values.astype(np.float64))[::-1]
        is_valid = np.all(np.isfinite(values)) and values[-1] >= 0 and values[0] > 0
        require(bool(is_valid), "variances must be finite and not negative, and not all zero")
        clean = values
        if isinstance(prior, Standard):
            clean = np.full(
                len(values), 1.0 if prior.data_variance is None else prior.data_variance
            )
        elif isinstance(prior, PPCA):
            raise UserError("prior=ppca needs data: use prior=gaussian or prior=standard")
        return cls(values, np.ones(len(values)), clean, np.zeros(len(values)))

    def binned(self, bins: int) -> "Spectrum":
        """With at most so many different variances, for quick first answers."""
        floor = self.variance.max() * _NOTHING
        logs = np.log(np.maximum(self.variance, floor))
        edges = np.linspace(logs.min(), logs.max(), bins + 1)[1:-1]
        _, where = np.unique(np.digitize(logs, edges), return_inverse=True)
        count = np.bincount(where, self.count)
        # The mean of the roots: of them the distance is made.
        roots = np.bincount(where, self.count * np.sqrt(self.variance)) / count
        prior = np.bincount(where, self.count * self.prior) / count
        return Spectrum(roots**2, count, prior, np.bincount(where, self.shift))

    def losses(self, ends: tuple[float, float]) -> LossCurve:
        """The denoising loss of the Gaussian between two noise levels: Σ λσ² / (λ + σ²)."""
        sigma = np.geomspace(*ends, _LEVELS)
        return LossCurve(sigma, self.loss(sigma))

    def loss(self, sigma: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """That at noise levels [n]."""
        variance = sigma[:, None] ** 2
        return (self.variance * variance / (self.variance + variance)) @ self.count


def _entries(found: Statistics, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Variances [L] of data of so many dimensions, and how many directions have each."""
    variance, rest = found.eigenvalues, dim - len(found.eigenvalues)
    count = np.ones(len(variance))
    return (np.append(variance, found.tail), np.append(count, rest)) if rest else (variance, count)
