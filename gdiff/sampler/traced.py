"""Noise levels through which a method's table can be differentiated.

Tables are written in NumPy. Its functions ask their arguments who should compute them (NEP 13 and
NEP 18); a `Traced` answers that JAX does. So the gradient is that of the very table that samples
are drawn with, of a method of one's own too.
"""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from numpy.lib.mixins import NDArrayOperatorsMixin

from gdiff.sampler.steps import Steps


class Traced(NDArrayOperatorsMixin):
    """A JAX array that NumPy's functions take, and give.

    Attributes:
        value: the array.
    """

    def __init__(self, value: Array) -> None:
        self.value = value

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        if method != "__call__" or options.keys() - {"out"}:
            return NotImplemented
        found = _of_jax(ufunc.__name__)(*map(_bare, inputs))
        if "out" not in options:
            return Traced(found)
        (target,) = options["out"]
        target.value = found
        return target

    def __array_function__(self, function: Callable, types: Any, args: Any, options: Any) -> Any:
        bare, named = jax.tree.map(_bare, (args, options))
        return jax.tree.map(Traced, _of_jax(function.__name__)(*bare, **named))

    def __getitem__(self, key: Any) -> "Traced":
        return Traced(self.value[jax.tree.map(_bare, key)])

    def __setitem__(self, key: Any, value: Any) -> None:
        self.value = self.value.at[key].set(_bare(value))

    def __iter__(self) -> Iterator["Traced"]:
        return map(Traced, self.value)

    def __len__(self) -> int:
        return len(self.value)

    @property
    def shape(self) -> tuple[int, ...]:
        """As of an array."""
        return self.value.shape

    @property
    def ndim(self) -> int:
        """As of an array."""
        return self.value.ndim

    def reshape(self, *shape: int) -> "Traced":
        """As of an array."""
        return Traced(self.value.reshape(*shape))


def bare(steps: Steps) -> Steps:
    """A table of `Traced` columns as one of JAX arrays."""
    return jax.tree.map(_bare, steps)


def _bare(x: Any) -> Any:
    return x.value if isinstance(x, Traced) else x


def _root(x: Array) -> Array:
    """√x, whose slope at 0 is taken to be 0: noise that a method leaves out stays left out."""
    is_positive = x > 0
    return jnp.where(is_positive, jnp.sqrt(jnp.where(is_positive, x, 1.0)), 0.0)


def _of_jax(name: str) -> Callable:
    """JAX's function of that name."""
    return _root if name == "sqrt" else getattr(jnp, name)
