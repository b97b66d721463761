"""What all sampling methods have in common: each is a table of coefficients on a grid."""

import abc
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import ClassVar, NamedTuple

import jax
import numpy as np

from gdiff.errors import require, require_one_of
from gdiff.sampler.corrector import DRAWS, corrector
from gdiff.sampler.steps import Steps, joined

SPLITS = ("denoiser", "score")
STARTS = ("constant", "wiener")
# Block sizes with a name.
ALL, BY_SCHEDULE = "all", "schedule"


class Plan(NamedTuple):
    """A table and how it is cut.

    Attributes:
        steps: the table.
        ends: increasing numbers of rows after which a block ends; the last is that of all.
    """

    steps: Steps
    ends: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class SamplerSpec(abc.ABC):
    """A sampling method, and how its steps are run; `table` is all that a subclass adds.

    Attributes:
        block_size: steps of a block, whose states are improved together by Picard iteration; 1 is
            sequential sampling, "all" is one block, "schedule" takes the schedule's own blocks.
        tolerance: a state has converged when its root mean square change in a sweep is at most
            this, in units of √(1 + sigma²); 0 asks for equality, and None for exactly
            `max_sweeps` sweeps.
        max_sweeps: of a block; what has not converged then goes on step by step. None sets no
            limit: a block of M rows takes at most M sweeps.
        split: what a sweep keeps of the last one: the "denoiser" output, or the "score".
        start: the first guess of a block's states: the state before it ("constant"), or those that
            a Gaussian with the data's mean and covariance has with the same noise ("wiener").
        corrector: steps of underdamped Langevin dynamics after each block, at its last noise
            level; only for methods without noise.
        corrector_step: their size, in the units of time of the dynamics for u = z / sigma.
        corrector_friction: of the dynamics.
        is_multistep: the method looks back on earlier steps.
    """

    block_size: int | str = 1
    tolerance: float | None = 1e-3
    max_sweeps: int | None = None
    split: str = "denoiser"
    start: str = "wiener"
    corrector: int = 0
    corrector_step: float = 0.5
    corrector_friction: float = 2.0

    is_multistep: ClassVar[bool] = False

    def __post_init__(self) -> None:
        size = self.block_size
        require(
            size in (ALL, BY_SCHEDULE) if isinstance(size, str) else size >= 1,
            f"sampler.block_size={size} must be at least 1, or one of: {ALL}, {BY_SCHEDULE}",
        )
        require_one_of("sampler.split", self.split, SPLITS)
        require_one_of("sampler.start", self.start, STARTS)
        require(
            self.max_sweeps is None or self.max_sweeps >= 1,
            f"sampler.max_sweeps={self.max_sweeps} must be at least 1, or null for no limit",
        )
        require(
            self.tolerance is None or 0 <= self.tolerance < math.inf,
            f"sampler.tolerance={self.tolerance} must not be negative",
        )
        require(
            self.tolerance is not None or self.max_sweeps is not None,
            "sampler.tolerance=null asks for a fixed number of sweeps: set sampler.max_sweeps",
        )
        require(self.corrector >= 0, f"sampler.corrector={self.corrector} must not be negative")
        for key in ("corrector_step", "corrector_friction"):
            value = getattr(self, key)
            require(0 < value < math.inf, f"sampler.{key}={value} must be positive and finite")

    @abc.abstractmethod
    def table(self, sigma: np.ndarray) -> Steps:
        """Coefficients on a strictly decreasing grid.

        Args:
            sigma: [K + 1] noise levels, sigma[0] > … > sigma[K] > 0.

        Returns:
            A table of K steps; of none on a grid of one level.
        """

    def steps(self, grid: np.ndarray) -> Steps:
        """Coefficients on a grid [K + 1] whose last level may be 0.

        A step onto noise level 0 returns the denoiser's mean at the level before, for every
        method and with a single evaluation: a second one at level 0 would divide by it, and some
        stochastic methods would leave noise of the size of the last level.

        Raises:
            UserError: a multistep method on a grid of one step, or a method that evaluates the
                denoiser above the first level of the grid.
        """
        require(
            not self.is_multistep or len(grid) > 2,
            "schedule.steps=1 gives a multistep sampler no step to look back on: use at least 2, "
            "or sampler=ddim",
        )
        return self._checked(self._table(grid), grid)

    def plan(self, grid: np.ndarray, blocks: Sequence[int] | None = None) -> Plan:
        """The table on a grid, cut into blocks, with the corrector's rows after each.

        With a corrector every block is a grid of its own, on which a multistep method starts
        anew: the corrector has moved the states that it would look back on.

        Args:
            grid: [K + 1] noise levels.
            blocks: numbers of steps after which the schedule's own blocks end; None if it has
                none.

        Raises:
            UserError: as for `steps`, or the blocks do not fit the grid, or a corrector follows a
                method with noise.
        """
        steps = self.steps(grid)
        ends = self._block_ends(steps.count, blocks)
        if not self.corrector:
            return Plan(steps, tuple(steps.ends[ends].tolist()))
        require(
            not steps.is_stochastic,
            "sampler.corrector follows methods without noise only: this sampler draws noise at "
            "every step; use for example sampler=exponential_ode, or sampler.corrector=0",
        )
        tables, noise = [], steps.count
        for start, end in pairwise([0, *ends]):
            part = self._table(grid[start : end + 1])
            own = {"step": part.step + start, "noise": part.step + start, "draws": DRAWS}
            tables.append(replace(part, **own))
            if grid[end] > 0:
                tables.append(self._correction(float(grid[end]), end - 1, noise))
                noise += self.corrector
        rows = np.cumsum([len(table.sigma) for table in tables])
        return Plan(self._checked(joined(tables), grid), tuple(rows.tolist()))

    def _correction(self, sigma: float, step: int, noise: int) -> Steps:
        size, friction = self.corrector_step, self.corrector_friction
        return corrector(sigma, self.corrector, size, friction, step=step, noise=noise)

    def _table(self, grid: np.ndarray) -> Steps:
        """Like `table`, but the last level may be 0."""
        return self.table(grid) if grid[-1] > 0 else _onto_zero(self.table(grid[:-1]), grid[-2])

    def _checked(self, steps: Steps, grid: np.ndarray) -> Steps:
        top = steps.levels[0]
        require(
            top <= grid[0] * (1 + 1e-9),
            f"this sampler evaluates the denoiser at sigma = {top:.6g}, above the first level "
            f"{grid[0]:.6g} of the grid: use another sampler",
        )
        return steps

    def _block_ends(self, count: int, blocks: Sequence[int] | None) -> list[int]:
        """Numbers of steps after which a block ends; the last is `count`."""
        if self.block_size == ALL:
            return [count]
        if self.block_size == BY_SCHEDULE:
            require(
                blocks is not None,
                f"sampler.block_size={BY_SCHEDULE} needs a schedule that has blocks: use "
                f"schedule=piadm, or give a number of steps or {ALL}",
            )
            return list(blocks)
        require(
            self.block_size <= count,
            f"sampler.block_size={self.block_size} is more than the {count} steps of the schedule: "
            f"use {ALL}",
        )
        return [*range(self.block_size, count, self.block_size), count]


def _onto_zero(steps: Steps, sigma: float) -> Steps:
    """The table with one more step, which returns the mean at level sigma."""
    longer = jax.tree.map(lambda x: np.pad(x, [(0, 1)] + [(0, 0)] * (x.ndim - 1)), steps)
    longer.sigma[-1] = sigma
    longer.b[-1, 0] = 1.0
    longer.step[-1] = longer.noise[-1] = steps.count
    return longer
