"""Random numbers as functions of (seed, sample index, step, role).

No generator is carried along, so a sample does not depend on which others share its batch, on the
devices, or on whether the run was interrupted.
"""

import enum
from collections.abc import Iterator
from contextlib import contextmanager

import jax
import numpy as np
from jaxtyping import Array, Float, Int, Integer, Key


class Role(enum.IntEnum):
    """What a random number is for; the numbers are part of the reproducibility contract."""

    PRIOR = 0
    STEP = 1


# JAX's switches that random numbers and shapes follow, which the environment may set otherwise.
_SWITCHES = {
    "jax_threefry_partitionable": True,
    "jax_random_seed_offset": 0,
    "jax_high_dynamic_range_gumbel": False,
    "jax_numpy_dtype_promotion": "standard",
    "jax_numpy_rank_promotion": "allow",
}


def fix_switches() -> None:
    """Set what JAX's random numbers and arithmetic follow, whatever the environment says."""
    for name, value in _switches().items():
        jax.config.update(name, value)


@contextmanager
def fixed_switches() -> Iterator[None]:
    """The same for a block, in a program of somebody else's."""
    before = {name: getattr(jax.config, name) for name in _switches()}
    fix_switches()
    try:
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)


def _switches() -> dict[str, object]:
    """Those that this version of JAX has."""
    return {name: value for name, value in _SWITCHES.items() if hasattr(jax.config, name)}


def key(seed: Integer[Array, ""] | int) -> Key[Array, ""]:
    """The key of a seed, of the one generator that gdiff uses."""
    return jax.random.key(seed, impl="threefry2x32")


def sample_keys(
    seed: Integer[Array, ""] | int, role: Role, index: Int[Array | np.ndarray, " b"]
) -> Key[Array, " b"]:
    """One key per sample.

    Args:
        seed: of the run.
        role: what the numbers are for.
        index: [b] number of each sample within the run, from 0.
    """
    return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.fold_in(key(seed), role), index)


def at_step(keys: Key[Array, " b"], step: Int[Array, ""] | int, draw: int = 0) -> Key[Array, " b"]:
    """The keys of one step, from the keys of the samples.

    Args:
        keys: [b] of the samples.
        step: number of the step, below 2³¹.
        draw: which of the step's normal vectors they are for, from 0.
    """
    if draw:  # the numbers from 2³¹ on are no steps
        keys = jax.vmap(jax.random.fold_in, (0, None))(keys, 2**32 - draw)
    return jax.vmap(jax.random.fold_in, (0, None))(keys, step)


def normal(keys: Key[Array, " b"], like: Float[Array, "b *event"]) -> Float[Array, "b *event"]:
    """Standard normal numbers with the shape and type of `like`, row i from key i."""
    return jax.vmap(lambda key: jax.random.normal(key, like.shape[1:], like.dtype))(keys)
