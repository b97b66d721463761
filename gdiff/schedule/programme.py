"""Grids that minimise the left Riemann sum of a loss: dynamic programming, and its refinement."""

from collections.abc import Callable
from functools import partial

import numpy as np

from gdiff.schedule.losses import LossCurve, clock
from gdiff.schedule.quantiles import quantiles

# Candidate levels, unless more steps are asked for.
FINE_LEVELS = 2048
# Places that a node may move to in a round of refinement, in units of its radius.
_MOVES = np.linspace(-1, 1, 9)
_ROUNDS = 6


class Programme:
    """The best grids of every number of steps among given levels, with both ends fixed.

    V_1(j) = (γ_j - γ_0) ℓ_0 and V_{K+1}(j) = min_{i<j} V_K(i) + (γ_j - γ_i) ℓ_i. Since ℓ does not
    increase with γ, the cost of a step satisfies the quadrangle inequality: the best i does not
    decrease with j, so that a layer takes O(n log n) by divide and conquer. Layers are kept, and
    made when they are first needed.
    """

    def __init__(self, snr: np.ndarray, loss: np.ndarray) -> None:
        """Take candidate levels.

        Args:
            snr: [n] signal-to-noise ratios γ, or another measure of them, strictly increasing.
            loss: [n] their losses ℓ, non-increasing.
        """
        self._snr, self._loss = snr, loss
        self._value = (snr - snr[0]) * loss[0]
        self._sums = [float(self._value[-1])]
        self._previous = [np.zeros(len(snr), np.int32)]

    def sums(self, most: int) -> np.ndarray:
        """[most] least values of Σ (γ_{k+1} - γ_k) ℓ(γ_k) with 1, 2, … most < n steps."""
        while len(self._sums) < most:
            self._extend()
        return np.array(self._sums[:most])

    def indices(self, steps: int) -> np.ndarray:
        """[steps + 1] increasing indices of the levels of the best grid, steps < n."""
        self.sums(steps)
        path = [len(self._snr) - 1]
        for previous in reversed(self._previous[:steps]):
            path.append(int(previous[path[-1]]))
        return np.array(path[::-1])

    def _extend(self) -> None:
        """One more layer, for every level that can be reached in so many steps."""
        first, count = len(self._sums), len(self._snr)
        # One-based, over the levels j > first, with the bounds of i beyond either end.
        size = count - 1 - first
        best = np.full(size + 2, first)
        best[-1] = count - 2
        value = np.full(count, np.inf)
        stride = 1 << (size - 1).bit_length()
        while stride:
            at = np.arange(stride, size + 1, 2 * stride)
            j = at + first
            low = best[at - stride]
            high = np.minimum(best[np.minimum(at + stride, size + 1)], j - 1)
            best[at], value[j] = self._best(j, low, high)
            stride //= 2
        self._value = value
        self._sums.append(float(value[-1]))
        self._previous.append(np.r_[np.zeros(first + 1, int), best[1:-1]].astype(np.int32))

    def _best(self, j: np.ndarray, low: np.ndarray, high: np.ndarray) -> tuple:
        """The first best i in low … high for each j, and the value there."""
        lengths = high - low + 1
        starts = np.cumsum(lengths) - lengths
        i = np.arange(lengths.sum()) + np.repeat(low - starts, lengths)
        step = np.repeat(self._snr[j], lengths) - self._snr[i]
        values = self._value[i] + step * self._loss[i]
        least = np.minimum.reduceat(values, starts)
        hits = np.flatnonzero(values == np.repeat(least, lengths))
        return i[hits[np.searchsorted(hits, starts)]], least


class Optimum:
    """The best grids between two noise levels, of any number of steps; they share their work."""

    def __init__(
        self,
        losses: LossCurve,
        sigma_max: float,
        sigma_min: float,
        fine_levels: int = FINE_LEVELS,
        measure: float = 0.0,
    ) -> None:
        """Take a loss curve, the number of candidate levels, at least 2, and the measure.

        Half of the candidates are geometric; the others lie as the best of many nodes do, lest a
        dense grid runs out of them where the loss falls.

        Raises:
            UserError: the curve does not cover sigma_max to sigma_min.
        """
        self._losses, self._ends, self._measure = losses, (sigma_max, sigma_min), measure
        geometric = np.geomspace(sigma_max, sigma_min, max(2, fine_levels // 2))
        self._radius = float(np.log(geometric[0] / geometric[1]))
        others = self._smooth(fine_levels - len(geometric) + 2)[1:-1]
        self._sigma = np.unique(np.concatenate([geometric, others]))[::-1]
        self._programme = Programme(clock(self._sigma, measure), losses.at(self._sigma))

    def _smooth(self, count: int) -> np.ndarray:
        return smooth(self._losses, *self._ends, count, self._measure)

    def sums(self, most: int) -> np.ndarray:
        """[most] nats of the best grids of 1, 2, … most steps; for the measure dγ alone."""
        return 0.5 * (self._programme.sums(most) - self._losses.integral(*self._ends))

    def nodes(self, count: int) -> np.ndarray:
        """[count] decreasing levels, 2 ≤ count ≤ fine_levels."""
        # A grid almost as dense as the candidates cannot be smooth; this one is, from the start.
        grids = [self._smooth(count)]
        if count <= len(self._sigma):  # of which two may have coincided
            grids.append(self._sigma[self._programme.indices(count - 1)])
        options = (self._radius, self._measure)
        moved = [refined(self._losses.at, grid, *options) for grid in grids]
        return min(moved, key=lambda grid: self._losses.sum(grid, self._measure))


def smooth(
    losses: LossCurve, sigma_max: float, sigma_min: float, count: int, measure: float = 0.0
) -> np.ndarray:
    """[count] levels with the density that is best where steps are small.

    A step Δx of x = ∫ dγ/γ^g adds Δx² (-dℓ/dx) / 2 to the sum, which makes the density √(-dℓ/dx).
    """
    roots = partial(losses.root_integrals, measure=measure)
    return quantiles(roots, sigma_max, sigma_min, count)


def optimal_sums(losses: LossCurve, sigma_max: float, sigma_min: float, most: int) -> np.ndarray:
    """Discretisation of the best grids of 1, 2, … `most` steps, up to about a per cent.

    Args:
        losses: the curve.
        sigma_max: first level of all grids.
        sigma_min: last level of all grids.
        most: the largest number of steps.

    Returns:
        [most] nats, as `LossCurve.discretization` has them.

    Raises:
        UserError: the curve does not cover sigma_max to sigma_min.
    """
    return Optimum(losses, sigma_max, sigma_min, max(FINE_LEVELS, 2 * most)).sums(most)


def refined(
    loss: Callable[[np.ndarray], np.ndarray],
    sigma: np.ndarray,
    radius: float,
    measure: float = 0.0,
) -> np.ndarray:
    """Nodes of a grid [K + 1] moved between the levels that a `Programme` chose from.

    In each of a few rounds every inner node may move by up to `radius` in log sigma, to the best
    of all combinations of a few places for each (Viterbi's algorithm); then the radius shrinks.
    The sum never grows.
    """
    if len(sigma) < 3:
        return sigma
    x = np.log(sigma)
    for _ in range(_ROUNDS):
        places = x[:, None] + radius * _MOVES
        places[[0, -1]] = x[[0, -1], None]
        places = np.clip(places, x[-1], x[0])
        levels = np.exp(places)
        x_of, value = clock(levels, measure), loss(levels)
        steps = x_of[1:, :, None] - x_of[:-1, None, :]
        costs = np.where(steps > 0, steps * value[:-1, None, :], np.inf)
        total, back = np.zeros(len(_MOVES)), []
        for cost in costs:
            sums = cost + total
            back.append(sums.argmin(axis=1))
            total = sums.min(axis=1)
        path = [0]
        for previous in reversed(back):
            path.append(previous[path[-1]])
        x = np.take_along_axis(places, np.array(path[::-1])[:, None], axis=1)[:, 0]
        radius /= 2
    return np.concatenate([sigma[:1], np.exp(x[1:-1]), sigma[-1:]])
