"""Monotone curves through points, without SciPy's interpolation, which takes half a second to load.

A run that only needs its grid would wait for that longer than for all else of the grid.
"""

import numpy as np
from jaxtyping import Float


def isotonic(values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """The non-decreasing sequence that is nearest in least squares: pools adjacent violators."""
    means, counts = [], []
    for value in values:
        mean, count = float(value), 1
        while means and means[-1] > mean:
            last, size = means.pop(), counts.pop()
            mean, count = (mean * count + last * size) / (count + size), count + size
        means.append(mean)
        counts.append(count)
    return np.repeat(means, counts)


class Pchip:
    """The monotone cubic interpolant of Fritsch & Butland (SIAM J. Sci. Stat. Comput. 5, 1984).

    Args:
        x: [n ≥ 2] places, increasing.
        y: [n] values there.
    """

    def __init__(self, x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"]) -> None:
        h = np.diff(x)
        m = np.diff(y) / h
        d = _slopes(h, m)
        bend = (d[:-1] + d[1:] - 2 * m) / h
        self._x = x
        # Of powers of x - x_i, the constants first.
        self._powers = np.stack([y[:-1], d[:-1], (m - d[:-1]) / h - bend, bend / h])

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Values at places of any shape; the outer cubics go on beyond the ends."""
        return self._at(x, self._powers)

    def slope(self, x: np.ndarray) -> np.ndarray:
        """The derivative there."""
        return self._at(x, self._powers[1:] * np.array([[1.0], [2.0], [3.0]]))

    def _at(self, x: np.ndarray, powers: np.ndarray) -> np.ndarray:
        x = np.asarray(x)
        piece = np.clip(np.searchsorted(self._x, x, side="right") - 1, 0, len(self._x) - 2)
        away = x - self._x[piece]
        total, power = np.zeros_like(away), np.ones_like(away)
        for row in powers:
            total = total + row[piece] * power
            power = power * away
        return total


def _slopes(h: np.ndarray, m: np.ndarray) -> np.ndarray:
    """Slopes at the points: harmonic means of those of the pieces, 0 where these turn."""
    if len(m) == 1:
        return np.repeat(m, 2)
    before, after = 2 * h[1:] + h[:-1], h[1:] + 2 * h[:-1]
    goes_on = np.sign(m[:-1]) * np.sign(m[1:]) > 0
    safe = np.where(goes_on, m[:-1], 1.0), np.where(goes_on, m[1:], 1.0)
    mean = (before / safe[0] + after / safe[1]) / (before + after)
    inner = np.where(goes_on, 1 / mean, 0.0)
    return np.concatenate(
        [[_end(h[0], h[1], m[0], m[1])], inner, [_end(h[-1], h[-2], m[-1], m[-2])]]
    )


def _end(h: float, next_h: float, m: float, next_m: float) -> float:
    """The slope at an end, by three points, unless it would overshoot."""
    slope = ((2 * h + next_h) * m - h * next_m) / (h + next_h)
    if np.sign(slope) != np.sign(m):
        return 0.0
    if np.sign(m) != np.sign(next_m) and abs(slope) > 3 * abs(m):
        return 3 * m
    return slope
