"""The type checker of `GDIFF_TEST_SHAPES=1`: shapes and types of what the package's functions take.

Numbers of NumPy are numbers, and whole ones are numbers too.
"""

from collections.abc import Sequence

import jax
import numpy as np
from beartype import BeartypeConf, FrozenDict, beartype
from numpy.typing import ArrayLike

# The rooms that compute.
COMPUTING = [
    *("gdiff.budget", "gdiff.denoiser", "gdiff.kernels", "gdiff.metrics", "gdiff.prior"),
    *("gdiff.process", "gdiff.rng", "gdiff.sampler", "gdiff.schedule", "gdiff.score"),
]

checked = beartype(
    conf=BeartypeConf(
        hint_overrides=FrozenDict(
            {
                bool: bool | np.bool_,
                int: int | float | np.number,
                float: float | int | np.number,
                # An array is one of either library, and one number is an array; where a shape is
                # given, the library counts too.
                np.ndarray: np.ndarray | np.generic,
                jax.Array: jax.Array | np.ndarray | np.generic | float,
                Sequence[float]: Sequence[float] | np.ndarray,
                np.dtype: object,  # its class will do
                ArrayLike: object,  # numbers and lists are like arrays
            }
        )
    )
)
