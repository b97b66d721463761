"""How the steps of any method are run: one by one, or blocks of them in parallel."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from gdiff.errors import require, require_one_of
from gdiff.sampler.corrector import DRAWS, corrector
from gdiff.sampler.steps import Steps, joined

AUTO = "auto"
SWEEPS = (AUTO, "surrogate", "picard")
SPLITS, STARTS = ("denoiser", "score"), (AUTO, "constant", "wiener", "mixture")
# Samples of a batch, and their numbers, from which steps one by one are faster on a CPU.
_BUSY, _BUSY_NUMBERS = 12, 2**15
# Block sizes with a name.
ALL, BY_SCHEDULE = "all", "schedule"


class Blocks(NamedTuple):
    """A table and how it is cut.

    Attributes:
        steps: the table.
        ends: increasing numbers of rows after which a block ends; the last is that of all.
    """

    steps: Steps
    ends: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Driving:
    """How steps are run, whatever the method.

    Attributes:
        block_size: steps of a block, whose states are improved together by Picard iteration; 1 is
            sequential sampling, "all" is one block, "schedule" takes the schedule's own blocks.
        tolerance: a state has converged when its root mean square change in a sweep is at most
            this, in units of √(1 + sigma²); 0 asks for equality, and None for exactly
            `max_sweeps` sweeps.
        max_sweeps: of a block; what has not converged then goes on step by step. None sets no
            limit: a block of M rows takes at most M sweeps.
        sweep: what a sweep keeps of every posterior: its mean ("picard"), or its heaviest rows,
            which answer at other states too ("surrogate"). "auto" is the latter where the score
            tells them.
        head: rows of the data that a surrogate weighs at a state at most.
        split: what a Picard sweep keeps of the last one: the "denoiser" output, or the "score".
        start: the first guess of a block's states: the state before it ("constant"), or those that
            simpler data have with the same noise: a Gaussian with the data's mean and covariance
            ("wiener"), or a "mixture" of some hundred balls. "auto" is a mixture for surrogate
            sweeps, and the Gaussian for Picard sweeps.
        corrector: steps of underdamped Langevin dynamics after each block, at its last noise
            level; only for methods without noise. With a block size of "all", after each of the
            schedule's own blocks.
        corrector_step: their size, in the units of time of the dynamics for u = z / sigma.
        corrector_friction: of the dynamics.
    """

    block_size: int | str = 1
    tolerance: float | None = 1e-3
    max_sweeps: int | None = None
    sweep: str = AUTO
    head: int = 256
    split: str = "denoiser"
    start: str = AUTO
    corrector: int = 0
    corrector_step: float = 0.5
    corrector_friction: float = 2.0

    def __post_init__(self) -> None:
        size = self.block_size
        require(
            size in (ALL, BY_SCHEDULE) if isinstance(size, str) else size >= 1,
            f"block_size={size} must be at least 1, or one of: {ALL}, {BY_SCHEDULE}",
        )
        require_one_of("sweep", self.sweep, SWEEPS)
        require(self.head >= 1, f"head={self.head} must be at least 1")
        require_one_of("split", self.split, SPLITS)
        require_one_of("start", self.start, STARTS)
        require(
            self.max_sweeps is None or self.max_sweeps >= 1,
            f"max_sweeps={self.max_sweeps} must be at least 1, or null for no limit",
        )
        require(
            self.tolerance is None or 0 <= self.tolerance < math.inf,
            f"tolerance={self.tolerance} must not be negative",
        )
        require(
            self.tolerance is not None or self.max_sweeps is not None,
            "tolerance=null asks for a fixed number of sweeps: set max_sweeps=K",
        )
        require(self.corrector >= 0, f"corrector={self.corrector} must not be negative")
        for key in ("corrector_step", "corrector_friction"):
            value = getattr(self, key)
            require(0 < value < math.inf, f"{key}={value} must be positive and finite")

    @property
    def wants_guess(self) -> bool:
        """Whether sweeps start from what simpler data would do."""
        return self.block_size != 1 and self.start != "constant"

    def settled(self, *, has_heads: bool) -> "Driving":
        """The same with a sweep and a start in place of "auto".

        Args:
            has_heads: whether the denoiser tells the heaviest rows of its posteriors.

        Raises:
            UserError: surrogate sweeps of a denoiser that does not.
        """
        sweep, start = self.sweep, self.start
        if sweep == AUTO:
            sweep = "surrogate" if has_heads and self.split == "denoiser" else "picard"
        require(
            has_heads or sweep == "picard",
            "sampler.sweep=surrogate needs a score that is the posterior of rows of the data: use "
            "score=full or golden, or sampler.sweep=picard",
        )
        if start == AUTO:
            start = "mixture" if sweep == "surrogate" else "wiener"
        return replace(self, sweep=sweep, start=start)

    def doubt(self, samples: int, dim: int, platform: str) -> str | None:
        """What is likely to be faster than these blocks; None if nothing is.

        One by one, a step asks at all samples of a batch in one call. A call of a dozen or more, or
        of a few large ones, keeps the cores of a CPU busy: then rounds save no time, and cost a
        part more evaluations.

        Args:
            samples: of a batch.
            dim: numbers of a sample.
            platform: of the devices, by JAX's name.
        """
        is_busy = samples >= _BUSY or (samples > 1 and samples * dim >= _BUSY_NUMBERS)
        if self.block_size == 1 or platform != "cpu" or not is_busy:
            return None
        return (
            f"{samples} samples of {dim} numbers keep a CPU busy one step at a time: blocks save "
            "rounds, not seconds (sampler.block_size=1 is faster)"
        )

    def ends(self, count: int, own: Sequence[int] | None) -> list[int]:
        """Numbers of steps after which a block ends; the last is `count`.

        Args:
            count: steps in all.
            own: those of the schedule's own blocks; None if it has none.

        Raises:
            UserError: there are no such blocks, or too few steps.
        """
        if self.block_size == ALL:
            return [count]
        if self.block_size == BY_SCHEDULE:
            require(
                own is not None,
                f"sampler.block_size={BY_SCHEDULE} needs a schedule that has blocks: use "
                f"schedule=piadm, or give a number of steps or {ALL}",
            )
            return list(own)
        require(
            self.block_size <= count,
            f"sampler.block_size={self.block_size} is more than the {count} steps of the schedule: "
            f"use {ALL}",
        )
        return [*range(self.block_size, count, self.block_size), count]

    def corrected(
        self, table: Callable[[np.ndarray], Steps], grid: np.ndarray, ends: Sequence[int]
    ) -> Blocks:
        """A method's blocks with rows of the corrector after each.

        Every block is a grid of its own, on which a multistep method starts anew: the corrector
        has moved the states that it would look back on.

        Args:
            table: the method's coefficients on a grid whose last level may be 0.
            grid: [K + 1] noise levels.
            ends: numbers of steps after which a block ends.
        """
        tables, noise = [], len(grid) - 1
        for start, end in pairwise([0, *ends]):
            part = table(grid[start : end + 1])
            number = part.step + start
            tables.append(replace(part, step=number, noise=number, draws=DRAWS))
            if grid[end] > 0:
                options = (self.corrector, self.corrector_step, self.corrector_friction)
                tables.append(corrector(float(grid[end]), *options, step=end - 1, noise=noise))
                noise += self.corrector
        rows = np.cumsum([len(table.sigma) for table in tables])
        return Blocks(joined(tables), tuple(rows.tolist()))
