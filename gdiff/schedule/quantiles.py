"""Grids whose steps have equal shares of an integral."""

from collections.abc import Callable

import numpy as np

# Levels between which shares of an integral are interpolated.
_FINE = 4096
# Share of the nodes' density that is uniform in log sigma, lest nodes coincide where a loss is 0.
_UNIFORM = 1e-6


def quantiles(
    integrals: Callable[[np.ndarray], np.ndarray], sigma_max: float, sigma_min: float, count: int
) -> np.ndarray:
    """Nodes with equal shares of an integral between them.

    Args:
        integrals: of a density that is not negative over the steps of a grid, [n + 1] to [n].
        sigma_max: the first node.
        sigma_min: the last node.
        count: how many, at least 2.

    Returns:
        [count] decreasing levels.
    """
    sigma = np.geomspace(sigma_max, sigma_min, _FINE + 1)
    shares = integrals(sigma)
    shares = shares / (shares.sum() or 1.0) + _UNIFORM / _FINE
    reached = np.append(0.0, np.cumsum(shares))
    wanted = np.linspace(0, reached[-1], count)
    inner = np.exp(np.interp(wanted[1:-1], reached, np.log(sigma)))
    return np.concatenate([sigma[:1], inner, sigma[-1:]])
