"""Measuring in turn: on a machine whose speed drifts, calls made side by side still compare."""

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from gdiff.denoiser import Denoiser

# A call that takes longer is not worth repeating.
SLOW_SECONDS = 3.0

# A denoiser's mean as a compiled program of z [b, *event] and one sigma [].
Mean = Callable[[jax.Array, np.ndarray], jax.Array]


class Timed(NamedTuple):
    """What calls of one task gave.

    Attributes:
        result: of the first call.
        seconds: [repeats], or [1] where the task was called only once.
    """

    result: jax.Array
    seconds: np.ndarray


def in_turn(
    tasks: Mapping[str, Callable[[], jax.Array]],
    repeats: int,
    report: Callable[[int], None] = lambda calls: None,
) -> dict[str, Timed]:
    """Time tasks that are compiled already: round after round, each task once a round.

    A first round does not count, but for a task that took longer than `SLOW_SECONDS` in it: that
    one is not called again. Medians of a ratio of two `seconds` are over rounds; where one of the
    two was called once, it stands for all rounds.

    Args:
        tasks: what to call, by name.
        repeats: rounds that count.
        report: told after every call how many of the 1 + repeats calls of a task it settles.
    """
    found = {}
    for name, task in tasks.items():
        result, seconds = _timed(task)
        found[name] = Timed(result, np.array([seconds]))
        report(1 if seconds <= SLOW_SECONDS else 1 + repeats)
    rounds = {name: [] for name, first in found.items() if first.seconds[0] <= SLOW_SECONDS}
    for _ in range(repeats):
        for name, seconds in rounds.items():
            seconds.append(_timed(tasks[name])[1])
            report(1)
    return found | {name: Timed(found[name].result, np.array(s)) for name, s in rounds.items()}


def compiled_mean(denoiser: Denoiser, z: jax.Array, sigma: np.ndarray) -> Mean:
    """The denoiser's mean, compiled for batches like z [b, *event] and levels like sigma []."""

    @eqx.filter_jit
    def mean(denoiser: Denoiser, z: jax.Array, sigma: jax.Array) -> jax.Array:
        return denoiser(z, jnp.full(z.shape[0], sigma)).mean

    return partial(mean.lower(denoiser, z, sigma).compile(), denoiser)


def _timed(task: Callable[[], jax.Array]) -> tuple[jax.Array, float]:
    """What the task gives, once it is there, and the seconds that took."""
    begin = time.perf_counter()
    result = jax.block_until_ready(task())
    return result, time.perf_counter() - begin
