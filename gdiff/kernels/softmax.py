"""The exact posterior of a data set under Gaussian noise, as a streaming softmax.

With z = x_0 + σ ε and x_0 uniform over the rows y_1 … y_N, the posterior weights are the softmax
of -‖z - y_i‖² / 2σ², or of (z·y_i - ½‖y_i‖²) / σ². Everything a sampler needs is a moment of
these weights, and moments of pieces of the data merge: across chunks by `merge`, across devices by
the same rule with sums and maxima over a mesh axis.

The *affinities* a_i = z·y_i - ½‖y_i‖² are divided by σ² only after their maximum is subtracted.
Logits a_i/σ² would be millions at small σ, and a compiler that fuses the division with the
subtraction in one place and not in another makes them disagree by a tenth.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

# Gathering rows pays up to one in so many.
_FEW = 8


class Moments(NamedTuple):
    """Weighted sums over a part of the data, with weights e = exp((a - peak) / σ²).

    Attributes:
        peak: [b] largest affinity, -inf where the part is empty.
        mass: [b] Σ e.
        first: [b, d] Σ e y.
        second: [b] Σ e ‖y‖².
    """

    peak: Float[Array, " b"]
    mass: Float[Array, " b"]
    first: Float[Array, "b d"]
    second: Float[Array, " b"]

    @classmethod
    def empty(cls, b: int, d: int, dtype: jnp.dtype) -> "Moments":
        """Moments of no data: the neutral element of `merge`."""
        zeros = jnp.zeros(b, dtype)
        return cls(jnp.full(b, -jnp.inf, dtype), zeros, jnp.zeros((b, d), dtype), zeros)

    def rescaled(self, peak: Float[Array, " b"], variance: Float[Array, " b"]) -> "Moments":
        """The same moments relative to a peak that is at least as high."""
        factor = weights_of(self.peak, peak, variance)
        return Moments(peak, self.mass * factor, self.first * factor[:, None], self.second * factor)


def weights_of(
    affinities: Float[Array, "b ..."], peak: Float[Array, " b"], variance: Float[Array, " b"]
) -> Float[Array, "b ..."]:
    """exp((a - peak) / σ²), 0 where a = -inf, also if the peak is -inf."""
    shape = (-1,) + (1,) * (affinities.ndim - 1)
    peak = jnp.where(jnp.isfinite(peak), peak, 0).reshape(shape)
    return jnp.exp((affinities - peak) / variance.reshape(shape))


def moments_of(
    affinities: Float[Array, "b n"],
    variance: Float[Array, " b"],
    y: Float[Array, "n d"],
    norms: Float[Array, " n"],
    precision: jax.lax.Precision,
    *,
    floor: Float[Array, " b"] | None = None,
    negligible: float = 0.0,
) -> Moments:
    """Moments of rows y with squared norms `norms`; a row with affinity -inf does not count.

    Args:
        affinities, variance, y, norms, precision: see the names.
        floor: [b] a peak that other rows have; the result is relative to no less.
        negligible: weights, relative to the peak, that `first` may leave out. Where few rows weigh
            more for any query, only these are multiplied.
    """
    # No moment depends on the peak, so neither do derivatives.
    peak = jax.lax.stop_gradient(jnp.max(affinities, axis=1))
    peak = peak if floor is None else jnp.maximum(peak, floor)
    weights = weights_of(affinities, peak, variance)
    return Moments(
        peak,
        jnp.sum(weights, axis=1),
        _product(weights, y, precision, negligible),
        jnp.sum(weights * norms, axis=1),
    )


def _product(
    weights: Float[Array, "b n"],
    y: Float[Array, "n d"],
    precision: jax.lax.Precision,
    negligible: float,
) -> Float[Array, "b d"]:
    """weights @ y, of rows that are not negligible for all queries if these are few."""
    few = len(y) // _FEW
    if not negligible or few == 0:
        return jnp.matmul(weights, y, precision=precision)
    matters = jnp.any(weights > negligible, axis=0)

    def some() -> Array:
        rows = jnp.nonzero(matters, size=few, fill_value=len(y))[0]
        own = weights.at[:, rows].get(mode="fill", fill_value=0)
        return jnp.matmul(own, y.at[rows].get(mode="fill", fill_value=0), precision=precision)

    count = jnp.sum(matters)
    branches = [
        lambda: jnp.zeros((len(weights), y.shape[1]), y.dtype),
        some,
        lambda: jnp.matmul(weights, y, precision=precision),
    ]
    return jax.lax.switch((count > 0).astype(int) + (count > few), branches)


def merge(a: Moments, b: Moments, variance: Float[Array, " b"]) -> Moments:
    """Moments of the union of two disjoint parts: associative and commutative."""
    peak = jnp.maximum(a.peak, b.peak)
    a, b = a.rescaled(peak, variance), b.rescaled(peak, variance)
    return Moments(peak, a.mass + b.mass, a.first + b.first, a.second + b.second)


class Leaders(NamedTuple):
    """The k rows with the largest affinities, best first; unused places have affinity -inf.

    Attributes:
        affinities: [b, k].
        rows: [b, k] row numbers.
    """

    affinities: Float[Array, "b k"]
    rows: Int[Array, "b k"]

    @classmethod
    def empty(cls, b: int, k: int, dtype: jnp.dtype) -> "Leaders":
        """No leaders yet."""
        return cls(jnp.full((b, k), -jnp.inf, dtype), jnp.zeros((b, k), jnp.int32))

    def updated(self, affinities: Float[Array, "b n"], first_row: Int[Array, ""]) -> "Leaders":
        """Leaders after seeing n more rows, numbered from `first_row`."""
        k = self.affinities.shape[1]
        if k == 0:
            return self
        best, position = jax.lax.top_k(affinities, min(k, affinities.shape[1]))
        affinities = jnp.concatenate([self.affinities, best], axis=1)
        rows = jnp.concatenate([self.rows, position + first_row], axis=1)
        affinities, position = jax.lax.top_k(affinities, k)
        return Leaders(affinities, jnp.take_along_axis(rows, position, axis=1))
