"""What all sampling methods have in common: each is a table of coefficients on a grid."""

import abc
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import jax
import numpy as np

from gdiff.errors import require
from gdiff.sampler.blocks import ALL, Blocks, Driving
from gdiff.sampler.steps import Steps


@dataclass(frozen=True, kw_only=True)
class SamplerSpec(Driving, abc.ABC):
    """A sampling method; `table` is all that a subclass adds, besides its own parameters.

    Attributes:
        is_multistep: the method looks back on earlier steps.
    """

    is_multistep: ClassVar[bool] = False

    @property
    def is_ancestral(self) -> bool:
        """Whether steps draw from about the posterior of the next state, of first order."""
        return False

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
        steps = self._table(grid)
        top = steps.levels[0]
        require(
            top <= grid[0] * (1 + 1e-9),
            f"this sampler evaluates the denoiser at sigma = {top:.6g}, above the first level "
            f"{grid[0]:.6g} of the grid: use another sampler",
        )
        return steps

    def blocks(self, grid: np.ndarray, own: Sequence[int] | None = None) -> Blocks:
        """The table on a grid, cut into blocks, with the corrector's rows after each.

        With `block_size="all"` the corrector follows each of the schedule's own blocks, if it has
        some, and all rows are one block.

        Args:
            grid: [K + 1] noise levels.
            own: numbers of steps after which the schedule's own blocks end; None if it has none.

        Raises:
            UserError: as for `steps`, or the blocks do not fit the grid, or a corrector follows a
                method with noise.
        """
        steps = self.steps(grid)
        if not self.corrector:
            ends = self.ends(steps.count, own)
            return Blocks(steps, tuple(steps.ends[ends].tolist()))
        require(
            not steps.is_stochastic,
            "sampler.corrector follows methods without noise only: this sampler draws noise at "
            "every step; use for example sampler=exponential_ode, or sampler.corrector=0",
        )
        # All blocks at once are those of the schedule still, each with its corrector.
        at_once = self.block_size == ALL
        ends = own if at_once and own is not None else self.ends(steps.count, own)
        found = self.corrected(self._table, grid, ends)
        return found._replace(ends=found.ends[-1:]) if at_once else found

    def coefficients(self, levels: np.ndarray, *, to_zero: bool) -> Steps:
        """The table on positive levels [n ≥ 1], with one more step onto 0 if asked for; unchecked.

        Levels may be `sampler.traced.Traced`, through which the coefficients can be differentiated.
        """
        table = self.table(levels)
        return _onto_zero(table, levels[-1]) if to_zero else table

    def _table(self, grid: np.ndarray) -> Steps:
        """Like `table`, but the last level may be 0."""
        to_zero = bool(grid[-1] <= 0)
        return self.coefficients(grid[:-1] if to_zero else grid, to_zero=to_zero)


def _onto_zero(steps: Steps, sigma: float) -> Steps:
    """The table with one more step, which returns the mean at level sigma."""
    longer = jax.tree.map(lambda x: np.pad(x, [(0, 1)] + [(0, 0)] * (x.ndim - 1)), steps)
    longer.sigma[-1] = sigma
    longer.b[-1, 0] = 1.0
    longer.step[-1] = longer.noise[-1] = steps.count
    return longer
