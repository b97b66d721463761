"""Noise levels of the discrete DDPM process."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from gdiff.errors import require, require_one_of
from gdiff.process.base import ProcessSpec
from gdiff.process.ddpm import DDPM
from gdiff.schedule.base import ScheduleSpec

# Share of the largest noise level at which a grid may well start.
_NEAR = 0.1


@dataclass(frozen=True, kw_only=True)
class DDPMIndices(ScheduleSpec):
    """Nodes at indices i of the DDPM process, n of the M that lie between the two sigmas.

    Counted from the least noisy one, the positions are, for k = 0 … n - 1:
    leading, k ⌊M/n⌋; trailing, round((k + 1) M/n) - 1, so that the noisiest is used
    (Lin et al., arXiv 2305.08891, table 2); quadratic, ⌊c k²⌋ up to the noisiest
    (Song et al., arXiv 2010.02502, app. D.2; their code stops at 0.8 M instead).

    Attributes:
        sigma_max: indices above it are left out; None keeps all.
        sigma_min: indices below it are left out; None keeps all.
        spacing: leading, trailing or quadratic.
        process: the table of indices (a `gdiff.process.ddpm.DDPM`); None takes that of the run.
    """

    sigma_max: float | None = None
    sigma_min: float | None = None
    spacing: str = "leading"
    process: Any = None

    def __post_init__(self) -> None:
        super().__post_init__()
        require_one_of("spacing", self.spacing, ("leading", "trailing", "quadratic"))
        require(
            self.process is None or isinstance(self.process, DDPM),
            f"process={self.process!r} must be null or a gdiff.process.ddpm.DDPM",
        )

    def reaching(self, sigma: float, process: ProcessSpec) -> "ScheduleSpec":
        """The same schedule over the fewest indices with which its grid starts there or above."""
        levels = self._levels(process)
        for last in np.flatnonzero(levels >= sigma):
            chosen = self._positions(last + 1, self.node_count)
            if np.all(np.diff(chosen) > 0) and levels[chosen[-1]] >= sigma:
                return self.starting_at(levels[last])
        return self.starting_at(levels[-1])

    def nodes(self, process: ProcessSpec, count: int) -> np.ndarray:
        """Noise levels at the chosen indices."""
        sigma = self._levels(process)
        return sigma[self._positions(len(sigma), count)[::-1]]

    def doubt(self, process: ProcessSpec) -> str | None:
        """Leading indices end far below the top where the steps do not divide their number."""
        spec = self.started(process)
        start, top = spec.nodes(process, spec.node_count)[0], spec._levels(process)[-1]
        if start >= _NEAR * top:
            return None
        return (
            f"schedule.spacing={self.spacing} with schedule.steps={self.steps} starts at sigma = "
            f"{start:.3g}, far below the noisiest index with {top:.3g}: use "
            "schedule.spacing=trailing"
        )

    def _levels(self, process: ProcessSpec) -> np.ndarray:
        """All noise levels of the table between the two ends, increasing."""
        table = process if self.process is None else self.process
        require(
            isinstance(table, DDPM),
            f"schedule.process=null needs process=ddpm, not {type(table).__name__}",
        )
        sigma = table.sigma(np.arange(table.timesteps))
        low = 0.0 if self.sigma_min is None else self.sigma_min
        high = math.inf if self.sigma_max is None else self.sigma_max
        sigma = sigma[(low <= sigma) & (sigma <= high)]
        require(
            len(sigma) > 0,
            f"schedule.sigma_min={self.sigma_min} and schedule.sigma_max={self.sigma_max} leave "
            "no index of the DDPM process: widen them",
        )
        return sigma

    def _positions(self, available: int, count: int) -> np.ndarray:
        """[count] integers in [0, available), not decreasing."""
        k = np.arange(count)
        if count == 1:  # a single node is the noisiest one, whatever the spacing
            return np.array([available - 1])
        if self.spacing == "leading":
            return k * (available // count)
        if self.spacing == "trailing":
            return np.maximum(np.round((k + 1) * available / count).astype(int) - 1, 0)
        return (available - 1) * k**2 // (count - 1) ** 2
