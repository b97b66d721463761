"""The underdamped Langevin corrector: rows of a table that stay at one noise level."""

import numpy as np

from gdiff.sampler.steps import Steps

# The noise of this row, both parts of that of the row before, and the first velocity.
DRAWS = ((0, 0), (1, 0), (1, 1), (0, 2))


def corrector(
    sigma: float, count: int, size: float, friction: float, *, step: int, noise: int
) -> Steps:
    """Exponential-integrator steps of underdamped Langevin dynamics (Chen et al., 2405.15986).

    With u = z / sigma, score S = (D - z) / sigma of u, velocity v from N(0, I) at the start,
    E = e^{-γε}, a = (1 - E) / γ and b = (ε - a) / γ,

        u' = u + a v + b S + ζ_u,    v' = E v + a S + ζ_v,

    Var ζ_u = (2 / γ) [ε - 2 (1 - E) / γ + (1 - E²) / 2γ], Cov = (1 - E)² / γ, Var ζ_v = 1 - E².
    The velocity is eliminated: u'' follows from u' and u, and from the noise of two rows. The unit
    sigma of u is our construction; it bounds the curvature of log density from above by 1 at every
    noise level, so that one ε suits all.

    Args:
        sigma: the noise level.
        count: rows, at least 1.
        size: ε.
        friction: γ.
        step: of the grid, to which all rows belong.
        noise: number of the first row's noise, of which there must be `count` in turn.

    Returns:
        A table of `count` rows.
    """
    keep = np.exp(-friction * size)
    lost = -np.expm1(-friction * size)
    a = lost / friction
    b = (size - a) / friction
    var_u = 2 / friction * (size - 2 * a - np.expm1(-2 * friction * size) / (2 * friction))
    on_u = np.sqrt(max(var_u, 0.0))
    shared = lost**2 / friction / on_u
    on_v = np.sqrt(max(-np.expm1(-2 * friction * size) - shared**2, 0.0))
    carried = (a * shared - keep * on_u, a * on_v)  # from the noise of the row before
    rows = np.arange(count)
    is_first = (rows == 0)[:, None]
    return Steps(
        sigma=np.full(count, sigma),
        a=np.where(is_first, [1 - b, 0], [1 + keep - b, keep * b - keep - a**2]),
        b=np.where(is_first, [b, 0], [b, a**2 - keep * b]),
        c=sigma * np.where(is_first, [on_u, 0, 0, a], [on_u, *carried, 0]),
        step=np.full(count, step),
        noise=noise + rows,
        draws=DRAWS,
    )
