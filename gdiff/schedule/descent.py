"""Noise levels that minimise any function of them, by gradient descent on their spacings."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

_MOST_ROUNDS = 500
# Rounds in turn whose relative gain is below this, after which descent stops.
_STILL, _PATIENCE = 1e-7, 5
_HALVINGS = 30
# The longest change of a spacing in a round, as a factor: objectives are steep far from the best.
_LONGEST = 0.5
_LEAST = 1e-300
_MEMORY = 20  # gradients by which L-BFGS knows the curvature


def descended(
    objective: Callable[[Float[Array, " n"]], Array],
    starts: Sequence[Float[np.ndarray, " n"]],
    *,
    is_free: bool = False,
) -> list[Float[np.ndarray, " n"]]:
    """The levels near some first ones at which an objective is least, for each of them.

    The unknowns are the logarithms of the steps in log sigma, so that levels stay in order; L-BFGS
    (Liu & Nocedal, Math. Programming 45, 1989) in float64 moves them as long as the objective
    falls. The same inputs give the same levels.

    Args:
        objective: positive, of [n] decreasing levels, which JAX can differentiate.
        starts: n ≥ 2 levels each, with the same first one, and the same last one unless it is free.
        is_free: whether the last level may move too; the first never does.
    """
    with jax.enable_x64(True):
        first, last = np.log(starts[0][[0, -1]])

        def levels(u: Array) -> Array:
            steps = jnp.exp(u)
            if not is_free:
                steps = steps * ((first - last) / steps.sum())
            return jnp.exp(first - jnp.concatenate([jnp.zeros(1), jnp.cumsum(steps)]))

        evaluate = jax.jit(jax.value_and_grad(lambda u: jnp.log(objective(levels(u)))))
        method = optax.lbfgs(linesearch=None, memory_size=_MEMORY)
        begin = jax.jit(method.init)

        @jax.jit
        def direct(slope: Array, state: Any, u: Array) -> tuple[Array, Any, Array]:
            change, state = method.update(slope, state, u)
            return change, state, jnp.vdot(change, slope)

        # Few programs, and NumPy between them: compiling takes longer than all rounds.
        def least(u: np.ndarray) -> np.ndarray:
            state, (value, slope), still = begin(u), evaluate(u), 0
            for _ in range(_MOST_ROUNDS):
                change, state, fall = direct(slope, state, u)
                if fall >= 0:  # no way down: what was learned misleads
                    change, state, _ = direct(slope, begin(u), u)
                change = np.asarray(change)
                size = min(1.0, _LONGEST / max(float(np.abs(change).max()), _LEAST))
                for _ in range(_HALVINGS):
                    found, its_slope = evaluate(u + size * change)
                    if found < value:
                        break
                    size /= 2
                else:
                    return u
                still = still + 1 if value - found < _STILL else 0
                u, value, slope = u + size * change, found, its_slope
                if still == _PATIENCE:
                    return u
            return u

        unknowns = [np.log(-np.diff(np.log(nodes))) for nodes in starts]
        final = jax.jit(levels)
        return [np.asarray(final(least(u))) for u in unknowns]
