"""The grid of PIADM: blocks of equal time of the OU process, the last one ever finer."""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gdiff.errors import require
from gdiff.process.base import ProcessSpec
from gdiff.process.ou import OU
from gdiff.schedule.base import ScheduleSpec

_MOST_STEPS = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Piadm(ScheduleSpec):
    """Blocks for parallel sampling (Chen et al., arXiv 2405.15986, section 3).

    The time t = log(1 + sigma²) of the OU process is cut into the fewest blocks of equal length
    that are no longer than `block`. Steps are `step` long, or as much shorter as makes them fit,
    but in the last block, which ends early at the time η of sigma_min: there

        t' = max(η, t - min(ε, t ε / (1 + ε))).

    Attributes:
        steps: None; the number follows from the lengths.
        block: longest block, h, in time of the OU process.
        step: longest step, ε.
    """

    steps: int | None = None
    block: float = 1.0
    step: float = 0.05

    finds_steps: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.steps is None,
            f"steps={self.steps}: this schedule finds its steps from block={self.block} and "
            f"step={self.step}, leave it null",
        )
        require(
            0 < self.step <= self.block < math.inf,
            f"step={self.step} and block={self.block} must satisfy 0 < step <= block",
        )
        start, stop = OU().time([self.sigma_max, self.sigma_min])
        # The last block shrinks by a factor of 1 + ε at every step.
        estimate = start / self.step + math.log(self.block / stop) / math.log1p(self.step)
        require(
            estimate <= _MOST_STEPS,
            f"step={self.step} makes more than {_MOST_STEPS} steps: make it larger",
        )

    def _times(self) -> list[np.ndarray]:
        """Times within each block, without its start; decreasing."""
        first, last = OU().time([self.sigma_max, self.sigma_min])
        count = max(1, math.ceil(first / self.block - 1e-9))
        length = first / count
        inner = max(1, math.ceil(length / self.step - 1e-9))
        starts = first - length * np.arange(count)
        steps = length / inner * np.arange(1, inner + 1)
        blocks = [start - steps for start in starts[:-1] if start - length > last]
        # Where blocks are so short that early stopping falls before the last, it is cut there.
        t, ends = float(starts[len(blocks)]), []
        while t > last:
            t = max(last, t - min(self.step, t * self.step / (1 + self.step)))
            ends.append(t)
        return [*blocks, np.array(ends)]

    def nodes(self, process: ProcessSpec, count: int) -> np.ndarray:
        """All noise levels, whatever the count."""
        first = OU().time(self.sigma_max)
        return self.pin(OU().sigma(np.concatenate([[first], *self._times()])))

    def blocks(self, process: ProcessSpec) -> tuple[int, ...]:
        """Numbers of steps after which a block ends; a step onto 0 belongs to the last."""
        ends = np.cumsum([len(times) for times in self.started(process)._times()])
        ends[-1] += self.to_zero
        return tuple(ends.tolist())
