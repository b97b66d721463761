from dataclasses import dataclass

import numpy as np

from gdiff.schedule.base import ScheduleSpec


@dataclass(frozen=True, kw_only=True)
class Powers(ScheduleSpec):
    """Uniform in a power of sigma."""

    power: float = 0.25

    def nodes(self, process, count):
        ends = self.sigma_max**self.power, self.sigma_min**self.power
        return self.pin(np.linspace(*ends, count) ** (1 / self.power))
