"""Equal steps of a process's own time."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from gdiff.errors import require
from gdiff.process.base import ProcessSpec
from gdiff.schedule.base import ScheduleSpec

# A bound copied from an error message is rounded; it should be accepted.
_SLACK = 1e-5


@dataclass(frozen=True, kw_only=True)
class UniformTime(ScheduleSpec):
    """Nodes uniform in the time of a process, which must reach sigma_max and sigma_min.

    Attributes:
        process: the process (a `ProcessSpec`); None takes that of the run.
    """

    process: Any = None

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.process is None or isinstance(self.process, ProcessSpec),
            f"process={self.process!r} must be null or have a _target_ in gdiff.process",
        )

    def nodes(self, process: ProcessSpec, count: int) -> np.ndarray:
        """Noise levels at equidistant times."""
        clock = process if self.process is None else self.process
        low, high = clock.sigma_range
        for key, sigma in (("sigma_max", self.sigma_max), ("sigma_min", self.sigma_min)):
            require(
                low * (1 - _SLACK) <= sigma <= high * (1 + _SLACK),
                f"schedule.{key}={sigma} is outside the noise levels {low:.6g} to {high:.6g} of "
                f"the process {type(clock).__name__}: move it inside, or choose another process",
            )
        start, end = clock.time([self.sigma_max, self.sigma_min])
        return self.pin(clock.sigma(np.linspace(start, end, count)))
