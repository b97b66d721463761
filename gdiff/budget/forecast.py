"""How far a sampler's outputs will be from Gaussian data, as a function of the grid."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Array, Float

from gdiff.budget.gaussian import Law, divergence, frechet, outputs, sliced_w2
from gdiff.budget.spectrum import Spectrum
from gdiff.errors import UserError, require
from gdiff.sampler.base import SamplerSpec
from gdiff.sampler.traced import Traced, bare
from gdiff.schedule.losses import LossCurve
from gdiff.schedule.optimal import OBJECTIVES

# Different variances of a spectrum for quick answers: distances are right to a per mille or so.
_BINS = 96
_LEAST = 1e-300


@dataclass(frozen=True, eq=False)
class GaussianForecast:
    """A `gdiff.schedule.forecast.Forecast`: the closed form for one sampler and one spectrum.

    Attributes:
        spectrum: of the data, and the prior.
        sampler: the method.
        to_zero: whether a step onto 0 follows the positive levels that `at` is asked about.
        objective: one of `OBJECTIVES`; "kl" is at the last positive level.
    """

    spectrum: Spectrum
    sampler: SamplerSpec
    to_zero: bool = True
    objective: str = OBJECTIVES[0]

    def __post_init__(self) -> None:
        corrector = self.sampler.corrector
        require(
            corrector == 0,
            f"sampler.corrector={corrector} has no closed form, which this schedule goes by: use "
            "sampler.corrector=0",
        )

    @cached_property
    def _binned(self) -> Spectrum:
        return self.spectrum.binned(_BINS)

    def of(self, grid: Float[np.ndarray, " k"]) -> float:
        """The objective on a grid [K + 1], the last level maybe 0."""
        return self._on(self.spectrum, grid)

    def quick(self, grid: Float[np.ndarray, " k"]) -> float:
        """The same with fewer directions."""
        return self._on(self._binned, grid)

    def _on(self, spectrum: Spectrum, grid: np.ndarray) -> float:
        is_kl = self.objective == "kl"
        grid = grid[grid > 0] if is_kl else grid
        steps = self.sampler.steps(grid)
        law = outputs(spectrum, steps, grid[0])
        return float(self._distance(spectrum, law, grid[-1]))

    def at(self, levels: Float[Array, " n"]) -> Array:
        """The objective as `quick` has it on positive levels [n], differentiable."""
        to_zero = self.to_zero and self.objective != "kl"
        try:
            steps = bare(self.sampler.coefficients(Traced(levels), to_zero=to_zero))
        except (TypeError, AttributeError) as error:
            name = type(self.sampler).__name__
            raise UserError(
                f"the table of {name} cannot be differentiated ({str(error).splitlines()[0]}): "
                "write it in NumPy's functions, or use another schedule"
            ) from error
        law = outputs(self._binned, steps, levels[0])
        return self._distance(self._binned, law, levels[-1])

    def _distance(self, spectrum: Spectrum, law: Law, sigma: Any) -> Any:
        if self.objective == "kl":
            return divergence(spectrum, law, sigma) + _LEAST
        distance = {"frechet": frechet, "sliced_w2": sliced_w2}[self.objective]
        return distance(spectrum, law) + _LEAST

    def losses(self, ends: tuple[float, float]) -> LossCurve:
        """The denoising loss of the Gaussian data."""
        return self.spectrum.losses(ends)
