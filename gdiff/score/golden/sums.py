"""What the golden scan keeps of all rows, and the sums that it makes of them."""

from itertools import accumulate
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from gdiff.kernels import compensated
from gdiff.kernels.softmax import weights_of

# A mass that counts as none, by which and by whose product with σ² one can divide.
TINY = 1e-30
# What rounding may do to the mean, in radii of the data.
ROUNDING = 1e-5
# Rows that are averaged at a time: few enough to stay in cache.
_AT_ONCE = 2048


class Index(NamedTuple):
    """What is kept of all rows, or of those of one device, besides the rows: n of them.

    Attributes:
        blocks: each [n, columns] of the leading principal coordinates about the mean.
        halves: for each block [n] ½ squared norm of the coordinates up to its end; infinite for
            padding, so that it gets no weight.
        norms: [n, 2 + blocks] 1, ‖y‖² about the mean, and for each block the squared norm of
            what lies beyond its end.
    """

    blocks: tuple[Float[Array, "n _"], ...]
    halves: tuple[Float[Array, " n"], ...]
    norms: Float[Array, "n _"]

    @property
    def ends(self) -> tuple[int, ...]:
        """For each block of columns its last rank."""
        return tuple(accumulate(block.shape[1] for block in self.blocks))


class Head(NamedTuple):
    """Weighted sums over the head of all devices, with weights e = exp((a - peak) / σ²).

    Attributes:
        peak: [b] largest affinity, -inf without a head.
        mass: [b] Σ e; first: [b, d] Σ e y about the mean of the data.
        spread: [b] Σ e ‖y - first / mass‖².
        crowded: [b] whether rounding may hide which of its rows matter.
    """

    peak: Float[Array, " b"]
    mass: Float[Array, " b"]
    first: Float[Array, "b d"]
    spread: Float[Array, " b"]
    crowded: Bool[Array, " b"]


class Tail(NamedTuple):
    """Weighted sums over the tail of all devices, with coarse weights e = exp((c - peak) / σ²).

    Attributes:
        peak: [b]; mass: [b] Σ e; squares: [b] Σ e².
        highest: [b] the largest of the affinities that the exact ones may rather exceed; risk: [b]
            Σ ‖y‖² over the squares of weights by these, relative to that.
        first: [b, r] Σ e P y, of the averaged coordinates.
        second: [b] Σ e ‖y‖².
        beyond: [b, blocks] Σ e times the squared norm beyond each block.
    """

    peak: Float[Array, " b"]
    mass: Float[Array, " b"]
    squares: Float[Array, " b"]
    highest: Float[Array, " b"]
    risk: Float[Array, " b"]
    first: Float[Array, "b r"]
    second: Float[Array, " b"]
    beyond: Float[Array, "b blocks"]

    def rescaled(self, peak: Float[Array, " b"], variance: Float[Array, " b"]) -> "Tail":
        """The same sums relative to a peak that is at least as high."""
        factor = weights_of(self.peak, peak, variance)
        sums = (x * factor.reshape(-1, *[1] * (x.ndim - 1)) for x in self[1:])
        tail = Tail(peak, *sums)
        risk = self.risk * weights_of(self.highest, peak, variance / 2)
        return tail._replace(squares=tail.squares * factor, highest=peak, risk=risk)


class Query(NamedTuple):
    """Queries of one device in stored units.

    Attributes:
        exact: pair of [b, d]; z: [b, d] about the mean of the data.
        coordinates: [b, r] of z.
        sigma: [b] in model units; variance: [b] σ² in stored units.
    """

    exact: compensated.Pair
    z: Float[Array, "b d"]
    coordinates: Float[Array, "b r"]
    sigma: Float[Array, " b"]
    variance: Float[Array, " b"]


def row_weights(
    affinities: Float[Array, "n b"], peak: Float[Array, " b"], variance: Float[Array, " b"]
) -> Float[Array, "n b"]:
    """As `weights_of`, rows first."""
    peak = jnp.where(jnp.isfinite(peak), peak, 0)
    return jnp.exp((affinities - peak) / variance)


def weighted(weights: Float[Array, "n b"], rows: Float[Array, "n r"]) -> Float[Array, "b r"]:
    """Σ weights · rows, some rows at a time: twice as fast on CPU as one product."""
    n = len(rows)
    size = min(_AT_ONCE, n)

    def some(i: Array, total: Array) -> Array:
        # The last rows come with some that were seen before and do not count again.
        start = jnp.minimum(i * size, n - size)
        own, y = (jax.lax.dynamic_slice_in_dim(x, start, size) for x in (weights, rows))
        is_new = (start + jnp.arange(size) >= i * size)[:, None]
        own = jnp.where(is_new, own, 0).T
        return total + jnp.matmul(own, y, precision=jax.lax.Precision.HIGHEST)

    zeros = jnp.zeros((weights.shape[1], rows.shape[1]), weights.dtype)
    return jax.lax.fori_loop(0, -(-n // size), some, zeros)
