"""What every contender in a comparison of posterior means looks like."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from jax.sharding import Mesh

from gdiff.dataset import Dataset
from gdiff.dataset.placed import Placed
from gdiff.runtime import Runtime

# Posterior means [b, d] of queries z [b, d] at one noise level, both float32 NumPy arrays in model
# coordinates; the call ends when the numbers are there.
Ask = Callable[[np.ndarray, float], np.ndarray]


@dataclass(frozen=True)
class Problem:
    """A data set as contenders want it; each form is made when first asked for.

    Attributes:
        dataset: as stored.
        runtime: devices of those that run on JAX.
        queries: B, how many at a time.
    """

    dataset: Dataset
    runtime: Runtime
    queries: int

    @cached_property
    def mesh(self) -> Mesh:
        """The devices, started."""
        return self.runtime.start()

    @cached_property
    def data(self) -> Placed:
        """The data on the devices."""
        return Placed(self.dataset, self.mesh)

    @cached_property
    def centre(self) -> np.ndarray:
        """[d] mean of the data, float32."""
        return self._split[0]

    @cached_property
    def rows(self) -> np.ndarray:
        """[n, d] the data less their mean, float32: distances of centred rows round less."""
        return self._split[1]

    @cached_property
    def _split(self) -> tuple[np.ndarray, np.ndarray]:
        rows = self.dataset.rows(slice(None)).reshape(len(self.dataset), -1)
        centre = rows.mean(axis=0, dtype=np.float64).astype(rows.dtype)
        rows -= centre
        return centre, rows

    def centred(self, ask: Ask) -> Ask:
        """A mean of the centred rows as one of the data."""
        centre = self.centre
        return lambda z, sigma: ask(z - centre, sigma) + centre


class Peer(NamedTuple):
    """One way to compute the posterior mean.

    Attributes:
        name: in tables.
        prepare: does all that needs to be done once for a data set; imports its library.
        package: what to install for it, None if nothing.
        is_mean: False for the matrix products, which compute something else at the same cost.
    """

    name: str
    prepare: Callable[[Problem], Ask]
    package: str | None = None
    is_mean: bool = True


def processors() -> int:
    """How many this process may use: the number of threads of every contender."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
