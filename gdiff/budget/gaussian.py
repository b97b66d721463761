"""What a sampler makes of Gaussian data, in closed form: the law of its outputs.

For a Gaussian with the spectrum of the data the denoiser is linear, D = λ / (λ + σ²) z along every
principal direction. A method is a table of linear steps, so that its outputs are Gaussian too, and
their mean and variance along each direction follow from one recursion over the rows of the table.
"""

from dataclasses import dataclass
from operator import itemgetter
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from gdiff.dataset import Dataset
from gdiff.dataset.statistics import Statistics, statistics
from gdiff.errors import UserError, require
from gdiff.prior.base import PriorSpec
from gdiff.prior.ppca import PPCA
from gdiff.prior.standard import Standard
from gdiff.sampler.steps import Steps
from gdiff.schedule.losses import LossCurve

FRECHET = "frechet"
# Below this share of the largest, a variance is rounding.
_NOTHING = 1e-12
# Directions of sliced W2: the squared lengths of their parts are all that matters.
_DIRECTIONS = 64
_LEVELS = 512


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Gaussian data by their principal directions, and what their sampling starts from.

    Directions of equal variance may share an entry.

    Attributes:
        variance: [L] λ of the data.
        count: [L] directions with that variance.
        prior: [L] variance of the prior at noise level 0; σ² is added where it starts.
        shift: [L] squared distance of the prior's mean from the data's, summed over directions.
    """

    variance: Float[np.ndarray, " L"]
    count: Float[np.ndarray, " L"]
    prior: Float[np.ndarray, " L"]
    shift: Float[np.ndarray, " L"]

    @classmethod
    def of(cls, dataset: Dataset, prior: PriorSpec) -> "Spectrum":
        """That of a data set; in more than 4 096 dimensions, of its leading 512 directions.

        The prior is taken to be what it is if it is `Standard` or `PPCA`; all others are fitted to
        the noised data, and taken to have their mean and covariance.
        """
        found = statistics(dataset)
        variance, count = _entries(found, dataset.dim)
        rest = len(variance) - len(found.eigenvalues)
        clean, shift = variance, np.zeros(len(variance))
        if isinstance(prior, PPCA):
            own = found.truncated(prior.rank)
            clean = np.full(len(variance), own.tail)
            clean[: len(own.eigenvalues)] = own.eigenvalues
        if isinstance(prior, Standard):
            clean = np.full(len(variance), prior.variance(dataset))
            gap = found.mean - np.reshape(dataset.centre, -1)
            along = (gap @ found.eigenvectors) ** 2
            shift = np.append(along, max(gap @ gap - along.sum(), 0.0)) if rest else along
        return cls(variance, count, clean, shift)

    @classmethod
    def along(cls, found: Statistics, dim: int) -> "Spectrum":
        """That of given statistics, started from the noised data's own law."""
        variance, count = _entries(found, dim)
        return cls(variance, count, variance, np.zeros(len(variance)))

    @classmethod
    def read(cls, values: Float[np.ndarray, " L"], prior: PriorSpec) -> "Spectrum":
        """That of given variances about 0; the prior counts as in `of`.

        Raises:
            UserError: they are not variances.
        """
        is_list = values.ndim == 1 and len(values) > 0 and values.dtype.kind in "fiu"
        require(is_list, "a spectrum is a list of variances, one for each direction")
        values = np.sort(values.astype(np.float64))[::-1]
        is_valid = np.all(np.isfinite(values)) and values[-1] >= 0 and values[0] > 0
        require(bool(is_valid), "variances must be finite and not negative, and not all zero")
        clean = values
        if isinstance(prior, Standard):
            clean = np.full(
                len(values), 1.0 if prior.data_variance is None else prior.data_variance
            )
        elif isinstance(prior, PPCA):
            raise UserError("prior=ppca needs data: use prior=gaussian or prior=standard")
        return cls(values, np.ones(len(values)), clean, np.zeros(len(values)))

    def binned(self, bins: int) -> "Spectrum":
        """With at most so many different variances, for quick first answers."""
        floor = self.variance.max() * _NOTHING
        logs = np.log(np.maximum(self.variance, floor))
        edges = np.linspace(logs.min(), logs.max(), bins + 1)[1:-1]
        _, where = np.unique(np.digitize(logs, edges), return_inverse=True)
        count = np.bincount(where, self.count)
        # The mean of the roots: of them the distance is made.
        roots = np.bincount(where, self.count * np.sqrt(self.variance)) / count
        prior = np.bincount(where, self.count * self.prior) / count
        return Spectrum(roots**2, count, prior, np.bincount(where, self.shift))

    def losses(self, ends: tuple[float, float]) -> LossCurve:
        """The denoising loss of the Gaussian between two noise levels: Σ λσ² / (λ + σ²)."""
        sigma = np.geomspace(*ends, _LEVELS)
        variance = sigma[:, None] ** 2
        return LossCurve(
            sigma, (self.variance * variance / (self.variance + variance)) @ self.count
        )


def _entries(found: Statistics, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Variances [L] of data of so many dimensions, and how many directions have each."""
    variance, rest = found.eigenvalues, dim - len(found.eigenvalues)
    count = np.ones(len(variance))
    return (np.append(variance, found.tail), np.append(count, rest)) if rest else (variance, count)


class Law(NamedTuple):
    """The law of a sampler's outputs.

    Attributes:
        gain: [L] what is left of the distance between the prior's mean and the data's.
        variance: [L] along each direction.
    """

    gain: Any
    variance: Any


class _Row(NamedTuple):
    """A row of a table, as the recursion takes it."""

    sigma: Any
    a: Any
    b: Any
    c: Any
    before: Any
    clip: Any
    is_new: Any


def outputs(spectrum: Spectrum, steps: Steps, start: Any) -> Law:
    """The law of what a table makes of draws of the prior at noise level `start`.

    States, denoiser outputs and the noise that a row may use are one vector; what a row does to it
    is a matrix for every direction. A bounded part (`Clip`) is scaled by the ratio of root mean
    square lengths over all directions: in many dimensions lengths hardly vary.

    Args:
        spectrum: of the data.
        steps: in NumPy's arrays, or in JAX's under a trace.
        start: the first noise level.
    """
    require(steps.draws is None, "sampler.corrector is not in closed form: use corrector=0")
    xp = jnp if isinstance(steps.sigma, jax.Array) else np
    is_stochastic = xp is jnp or steps.is_stochastic
    depth, memory = steps.a.shape[1], steps.b.shape[1]
    noises = steps.c.shape[1] if is_stochastic else 0
    size, dirs = depth + memory - 1 + noises, len(spectrum.variance)
    is_new = np.diff(steps.noise, prepend=-1) != 0
    no_noise = np.zeros(steps.c.shape)
    before = no_noise if steps.before is None else steps.before
    rows = _Row(steps.sigma, steps.a, steps.b, steps.c, before, steps.clip, is_new)

    unit = np.eye(size)
    of_noise = np.arange(size) >= size - noises
    shift = np.diag(of_noise * 1.0)
    for first, length in ((0, depth), (depth, memory - 1)):
        for i in range(first + 1, first + length):
            shift[i, i - 1] = 1.0
    latest = unit[depth] if memory > 1 else np.zeros(size)
    variance, count = spectrum.variance, spectrum.count

    def placed(states: Any, values: Any, own: Any) -> Any:
        """Weights [size] of states, of earlier outputs, and of noise."""
        parts = [states, values[1:], own[:noises]]
        return xp.concatenate(parts)

    def advance(carry: tuple[Any, Any], row: _Row) -> tuple[tuple[Any, Any], None]:
        mean, cov = carry
        kept = xp.where(row.is_new, 1.0 - of_noise, 1.0)
        fresh = xp.where(row.is_new, np.diag(of_noise * 1.0), 0.0)
        mean = mean * kept[:, None]
        cov = cov * kept[:, None, None] * kept[None, :, None] + fresh[:, :, None]
        gain = variance / (variance + row.sigma**2)
        zeros = np.zeros(memory)
        output = placed(unit[0, :depth], zeros, row.before)[:, None] * gain

        def weights(a: Any, b: Any, c: Any) -> Any:
            return placed(a, b, c)[:, None] + b[0] * output

        state = weights(row.a, row.b, row.c)
        if row.clip is not None:
            quiet = 0.0 * row.c
            part = weights(row.clip.a, row.clip.b, quiet)
            bound = weights(row.clip.bound_a, row.clip.bound_b, quiet)
            lengths = [
                (count * (w[:, None] * w[None] * cov).sum((0, 1))).sum()
                + (spectrum.shift * (w * mean).sum(0) ** 2).sum()
                for w in (part, bound)
            ]
            is_long = lengths[0] > lengths[1]
            ratio = xp.where(is_long, lengths[1] / xp.where(is_long, lengths[0], 1.0), 1.0)
            state = state - (1 - xp.sqrt(ratio)) * part
        matrix = shift[:, :, None] + unit[0][:, None, None] * state[None]
        matrix = matrix + latest[:, None, None] * output[None]
        mean = (matrix * mean[None]).sum(1)
        half = (matrix[:, :, None] * cov[None]).sum(1)
        cov = (half[:, None] * matrix[None]).sum(2)
        return (mean, cov), None

    mean = np.repeat(unit[0][:, None], dirs, axis=1)
    cov = np.outer(unit[0], unit[0])[:, :, None] * (spectrum.prior + start**2)
    carry = (mean, cov)
    if xp is jnp:
        carry, _ = jax.lax.scan(advance, jax.tree.map(jnp.asarray, carry), rows)
    else:
        for k in range(len(steps.sigma)):
            carry, _ = advance(carry, jax.tree.map(itemgetter(k), rows))
    return Law(carry[0][0], carry[1][0, 0])


def frechet(spectrum: Spectrum, law: Law) -> Any:
    """Squared Fréchet distance of outputs from the data, in all directions."""
    return _squared(law, spectrum.variance, spectrum.count, spectrum.shift)


def _squared(law: Law, variance: Any, count: Any, shift: Any) -> Any:
    xp = jnp if isinstance(law.variance, jax.Array) else np
    roots = xp.sqrt(xp.maximum(law.variance, 1e-300))
    return (count * (roots - np.sqrt(variance)) ** 2).sum() + (shift * law.gain**2).sum()


def sliced_w2(spectrum: Spectrum, law: Law) -> Any:
    """Sliced Wasserstein-2 distance of outputs from the data, over some fixed directions.

    A unit vector θ has θᵀCθ = Σ θ_i² C_i: independent squares, of which those with one variance
    are summed.
    """
    xp = jnp if isinstance(law.variance, jax.Array) else np
    shares = np.random.default_rng(0).chisquare(spectrum.count, (_DIRECTIONS, len(spectrum.count)))
    shares /= shares.sum(axis=1, keepdims=True)
    dim = spectrum.count.sum()
    roots = xp.sqrt(shares @ law.variance) - np.sqrt(shares @ spectrum.variance)
    return xp.sqrt((roots**2).mean() + (spectrum.shift * law.gain**2).sum() / dim)


def divergence(spectrum: Spectrum, law: Law, sigma: Any) -> Any:
    """KL divergence of the data noised to level sigma from outputs at that level, in nats."""
    xp = jnp if isinstance(law.variance, jax.Array) else np
    ratio = (spectrum.variance + sigma**2) / law.variance
    spread = (spectrum.count * (ratio - 1 - xp.log(ratio))).sum()
    return 0.5 * (spread + (spectrum.shift * law.gain**2 / law.variance).sum())
