"""What a sampler makes of Gaussian data, in closed form: the law of its outputs.

For a Gaussian with the spectrum of the data the denoiser is linear, D = λ / (λ + σ²) z along every
principal direction. A method is a table of linear steps, so that its outputs are Gaussian too, and
their mean and variance along each direction follow from one recursion over the rows of the table.
It is the same in NumPy, for a number, and in JAX, for a gradient.
"""

from operator import itemgetter
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gdiff.budget.spectrum import Spectrum
from gdiff.errors import require
from gdiff.sampler.steps import Steps

# Directions of sliced W2: the squared lengths of their parts are all that matters.
_DIRECTIONS = 64
_TINY = 1e-300  # a variance whose root has a slope


class Law(NamedTuple):
    """The law of a sampler's outputs.

    Attributes:
        gain: [L] what is left of the distance between the prior's mean and the data's.
        variance: [L] along each direction.
    """

    gain: Any
    variance: Any


class _Row(NamedTuple):
    """A row of a table, with whether its noise is new rather than that of the row before."""

    sigma: Any
    a: Any
    b: Any
    c: Any
    before: Any
    clip: Any
    is_new: Any


def _numbers(x: Any) -> ModuleType:
    """The library that computes with an array."""
    return jnp if isinstance(x, jax.Array) else np


def outputs(spectrum: Spectrum, steps: Steps, start: Any) -> Law:
    """The law of what a table makes of draws of the prior at noise level `start`.

    Args:
        spectrum: of the data.
        steps: in NumPy's arrays, or in JAX's under a trace.
        start: the first noise level.
    """
    require(steps.draws is None, "sampler.corrector is not in closed form: use corrector=0")
    before = np.zeros(steps.c.shape) if steps.before is None else steps.before
    is_new = np.diff(steps.noise, prepend=-1) != 0
    rows = _Row(steps.sigma, steps.a, steps.b, steps.c, before, steps.clip, is_new)
    recursion = _Recursion(spectrum, steps)
    carry = recursion.start(spectrum.prior + start**2)
    if recursion.xp is jnp:
        carry = jax.tree.map(jnp.asarray, carry)
        carry, _ = jax.lax.scan(lambda c, row: (recursion.advance(c, row), None), carry, rows)
    else:
        for k in range(len(steps.sigma)):
            carry = recursion.advance(carry, jax.tree.map(itemgetter(k), rows))
    mean, cov = carry
    return Law(mean[0], cov[0, 0])


class _Recursion:
    """Mean [s, L] and covariance [s, s, L] of all that a row works with, row after row.

    That is the vector of the states z_0 …, the earlier outputs D_1 …, and the noise ξ_0 …; a row is
    a matrix for every direction. All functionals of the vector are weights [s, L].
    """

    def __init__(self, spectrum: Spectrum, steps: Steps) -> None:
        self.xp = _numbers(steps.sigma)
        self._spectrum = spectrum
        states, outputs = steps.a.shape[1], steps.b.shape[1]
        # Whether noise is drawn cannot be told under a trace.
        self._noises = steps.c.shape[1] if self.xp is jnp or steps.is_stochastic else 0
        size = states + outputs - 1 + self._noises
        self._unit = np.eye(size)
        self._is_noise = np.arange(size) >= size - self._noises
        # What stays or moves on; where the next state and the output belong is 0.
        self._moved = np.diag(self._is_noise * 1.0)
        for i in range(1, size - self._noises):
            self._moved[i, i - 1] = i != states
        self._state = self._unit[0]
        self._output = self._unit[states] if outputs > 1 else np.zeros(size)
        self._nothing = np.zeros(outputs)
        self._states = states

    def start(self, variance: Any) -> tuple[Any, Any]:
        """One unit of the mean, and the variance [L], in z_0 alone."""
        mean = np.repeat(self._state[:, None], len(self._spectrum.variance), axis=1)
        return mean, np.outer(self._state, self._state)[:, :, None] * variance

    def advance(self, carry: tuple[Any, Any], row: _Row) -> tuple[Any, Any]:
        """After a row."""
        mean, cov = self._refreshed(carry, row.is_new)
        known = self._weights(self._unit[0, : self._states], self._nothing, row.before)
        variance = self._spectrum.variance
        output = known[:, None] * (variance / (variance + row.sigma**2))
        state = self._of(output, row.a, row.b, row.c)
        if row.clip is not None:
            state = state - self._surplus(output, row, mean, cov)
        matrix = self._moved[:, :, None] + self._state[:, None, None] * state[None]
        matrix = matrix + self._output[:, None, None] * output[None]
        half = (matrix[:, :, None] * cov[None]).sum(1)
        return (matrix * mean[None]).sum(1), (half[:, None] * matrix[None]).sum(2)

    def _refreshed(self, carry: tuple[Any, Any], is_new: Any) -> tuple[Any, Any]:
        """With noise that is not correlated with anything, where it is new."""
        mean, cov = carry
        kept = self.xp.where(is_new, 1.0 - self._is_noise, 1.0)
        fresh = self.xp.where(is_new, np.diag(self._is_noise * 1.0), 0.0)
        cov = cov * kept[:, None, None] * kept[None, :, None] + fresh[:, :, None]
        return mean * kept[:, None], cov

    def _weights(self, a: Any, b: Any, c: Any) -> Any:
        """Weights [s] of states, outputs but the latest, and noise."""
        return self.xp.concatenate([a, b[1:], c[: self._noises]])

    def _of(self, output: Any, a: Any, b: Any, c: Any) -> Any:
        """Weights [s, L] of Σ a_i z_i + Σ b_j D_j + Σ c_n ξ_n."""
        return self._weights(a, b, c)[:, None] + b[0] * output

    def _surplus(self, output: Any, row: _Row, mean: Any, cov: Any) -> Any:
        """What is cut off a bounded part (`Clip`), for samples of root mean square length.

        In many dimensions lengths hardly vary.
        """
        clip, quiet = row.clip, 0.0 * row.c
        part = self._of(output, clip.a, clip.b, quiet)
        bound = self._of(output, clip.bound_a, clip.bound_b, quiet)
        count, shift = self._spectrum.count, self._spectrum.shift
        length, limit = (
            (count * (w[:, None] * w[None] * cov).sum((0, 1))).sum()
            + (shift * (w * mean).sum(0) ** 2).sum()
            for w in (part, bound)
        )
        is_long = length > limit
        ratio = self.xp.where(is_long, limit / self.xp.where(is_long, length, 1.0), 1.0)
        return (1 - self.xp.sqrt(ratio)) * part


def frechet(spectrum: Spectrum, law: Law) -> Any:
    """Squared Fréchet distance of outputs from the data, in all directions."""
    xp = _numbers(law.variance)
    gaps = xp.sqrt(xp.maximum(law.variance, _TINY)) - np.sqrt(spectrum.variance)
    return (spectrum.count * gaps**2).sum() + (spectrum.shift * law.gain**2).sum()


def sliced_w2(spectrum: Spectrum, law: Law) -> Any:
    """Sliced Wasserstein-2 distance of outputs from the data, over some fixed directions.

    A unit vector θ has θᵀCθ = Σ θ_i² C_i: independent squares, of which those with one variance
    are summed.
    """
    xp = _numbers(law.variance)
    shares = np.random.default_rng(0).chisquare(spectrum.count, (_DIRECTIONS, len(spectrum.count)))
    shares /= shares.sum(axis=1, keepdims=True)
    dim = spectrum.count.sum()
    roots = xp.sqrt(shares @ law.variance) - np.sqrt(shares @ spectrum.variance)
    return xp.sqrt((roots**2).mean() + (spectrum.shift * law.gain**2).sum() / dim)


def divergence(spectrum: Spectrum, law: Law, sigma: Any) -> Any:
    """KL divergence of the data noised to level sigma from outputs at that level, in nats."""
    xp = _numbers(law.variance)
    ratio = (spectrum.variance + sigma**2) / law.variance
    spread = (spectrum.count * (ratio - 1 - xp.log(ratio))).sum()
    return 0.5 * (spread + (spectrum.shift * law.gain**2 / law.variance).sum())
