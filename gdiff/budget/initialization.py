"""KL divergence of the noised data from a prior: what a run pays for where it starts."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Float

from gdiff.budget import noised
from gdiff.budget.noised import Effort, affordable, call_width, draw, evaluate
from gdiff.dataset.placed import Placed
from gdiff.dataset.statistics import Statistics, cost, sketch, statistics
from gdiff.denoiser import Denoiser
from gdiff.errors import UserError, require
from gdiff.prior.base import Prior, PriorSpec
from gdiff.score.exact import Exact
from gdiff.store import cache

# Part of the key: to be raised when what is stored changes.
_VERSION = 2
_SEED = 1
_PRODUCTS, _FEWEST, _MOST = 2**36, 64, 4096
# Coordinates of all draws together, a gibibyte in float64, of which there are several copies.
_HELD = 2**27
# Draws that are left, however large the data: four weights are fitted to them.
_LEAST = 16
# Halvings of the range of log σ in the search for a horizon, and how far above the tolerance an
# estimate may be by chance.
_HALVINGS, _ERRORS = 10, 2.0


class Nats(NamedTuple):
    """An estimate in nats, and its standard error."""

    nats: float
    standard_error: float


@dataclass(frozen=True, eq=False)
class Noised:
    """Draws z = x_0 + σ ε of noised data, and the exact log density of their law.

    All in float64: log densities of images are tens of thousands of nats, their differences of
    interest a hundredth.

    Attributes:
        data: x_0 is uniform over its rows.
        sigma: noise level.
        effort: number of draws, at one level.
    """

    data: Placed
    sigma: float
    effort: Effort

    @classmethod
    def of(
        cls, data: Placed, sigma: float, samples: int | None = None, share: float = math.inf
    ) -> "Noised":
        """As many draws as are asked for, or as a moment of work allows, and a minute for 64.

        Where the run is to have no more than a share for them, they may be fewer.
        """
        usual = int(np.clip(_PRODUCTS // data.dataset.x.size, _FEWEST, _MOST))
        usual = min(usual, max(_LEAST, _HELD // data.dataset.dim))
        effort = Effort(1, usual).within(affordable(data.dataset, share), _LEAST)
        effort = effort._replace(is_capped=effort.is_capped or cost(data.dataset) > noised.WORK)
        return cls(data, sigma, effort if samples is None else effort._replace(draws=samples))

    @cached_property
    def moments(self) -> Statistics:
        """Of the data, along few directions where these are too many numbers."""
        dataset = self.data.dataset
        return statistics(dataset) if cost(dataset) <= noised.WORK else sketch(dataset, noised.WORK)

    def words(self) -> str:
        """What an estimate rests on."""
        return self.effort.words(f", controlled along {len(self.moments.eigenvalues)} directions")

    def divergence(self, prior: PriorSpec) -> Nats:
        """KL(p_σ ‖ prior) = E[log p_σ(z) - log prior(z)], z ~ p_σ; from the cache if there.

        Unbiased but for the choice of the weights of control variates: the log density of the
        Gaussian with the moments of p_σ, ‖z‖² and ‖ε‖², whose expectations are known. For Gaussian
        priors little but log p_σ is left to chance.
        """
        parts = (self.moments.digest(), self.sigma, self.effort.draws)
        key = cache.key("initialization", _VERSION, self.data.dataset.fingerprint(), *parts, prior)
        return Nats(*map(float, cache.cached(key, lambda: self._estimate(prior))))

    def _estimate(self, prior: PriorSpec) -> np.ndarray:
        with jax.enable_x64(True):
            fitted = prior.fit(self.data, self.sigma)
            log_prior = self._evaluated(Partial(_log_prob, fitted))
        excess = self.log_density - log_prior
        # By least squares, on controls that vary at all and are not one another.
        design = np.column_stack([np.ones(len(excess)), self.controls])
        scale = np.linalg.norm(design, axis=0)
        design /= np.where(scale > 0, scale, 1)
        weights, _, rank, _ = np.linalg.lstsq(design, excess, rcond=1e-9)
        rest = excess - design @ weights
        variance = np.sum(rest**2) / max(1, len(rest) - rank)
        # Of the first weight: more than 1 / n, as few draws do not have the controls' means.
        share = np.linalg.pinv(design, rcond=1e-9)[0]
        return np.array([weights[0], np.sqrt(variance * np.sum(share**2))]) / scale[0]

    @cached_property
    def _draws(self) -> tuple[np.ndarray, np.ndarray]:
        """z and ε: [n, d] float64."""
        points = draw(self.data.dataset, self.effort.draws, _SEED)
        clean, noise = (x.reshape(-1, self.data.dataset.dim) for x in points[:2])
        noise = noise.astype(np.float64)
        return clean + self.sigma * noise, noise

    @cached_property
    def log_density(self) -> np.ndarray:
        """Log p_σ at the draws, by the full scan: [n]."""
        with jax.enable_x64(True):
            scan = Exact().fit(self.data)
            return self._evaluated(Partial(_exact_log_density, scan, jnp.asarray(self.sigma)))

    @cached_property
    def controls(self) -> np.ndarray:
        """Functions of the draws less their expectations: [n, 3]."""
        z, noise = self._draws
        moments = self.moments
        d = self.data.dataset.dim
        total = moments.eigenvalues.sum() + (d - len(moments.eigenvalues)) * moments.tail
        square = np.sum(moments.mean**2) + total + d * self.sigma**2
        return np.column_stack(
            [
                _mahalanobis(moments, z, self.sigma) - d,
                np.sum(z**2, axis=1) - square,
                np.sum(noise**2, axis=1) - d,
            ]
        )

    def _evaluated(self, function: Partial) -> np.ndarray:
        z = self._draws[0].reshape(-1, *self.data.dataset.event_shape)
        width = call_width(self.data.dataset)
        return evaluate(function, self.data.mesh, lambda index: (z[index],), len(z), width)


def shortest(data: Placed, prior: PriorSpec, tolerance: float, ends: tuple[float, float]) -> float:
    """The smallest noise level from which a prior is within a tolerance of the noised data.

    The divergence grows as noise falls, for priors that diffuse as the data do, so the search
    halves the range of log σ.

    Args:
        data: the data.
        prior: fitted anew at every level.
        tolerance: in nats, for the estimate and two standard errors.
        ends: the largest and the smallest level to consider.

    Raises:
        UserError: even the largest level does not meet the tolerance, or the prior is trained for
            one level at a time.
    """
    require(
        not prior.is_trained,
        "schedule.horizon=auto would train this prior at every horizon tried: give a number, or "
        "use prior=gmm",
    )

    def reached(sigma: float) -> float:
        found = Noised.of(data, sigma).divergence(prior)
        return found.nats + _ERRORS * found.standard_error

    high, low = ends
    at_high = reached(high)
    if at_high > tolerance:
        raise UserError(
            f"schedule.horizon_tolerance={tolerance} cannot be met: at sigma = {high:.6g} this "
            f"prior is {at_high:.3g} nats from the noised data; raise it or schedule.sigma_max, or "
            "use another prior"
        )
    if reached(low) <= tolerance:
        return low
    for _ in range(_HALVINGS):
        # Four digits are what the tolerance is worth, and a level that people can read.
        middle = float(f"{np.sqrt(high * low):.4g}")
        high, low = (middle, low) if reached(middle) <= tolerance else (high, middle)
    return high


def _mahalanobis(moments: Statistics, z: np.ndarray, sigma: float) -> np.ndarray:
    """(z - μ)ᵀ (Σ + σ²)⁻¹ (z - μ): [n], of mean d."""
    centred = z - moments.mean
    along = centred @ moments.eigenvectors
    found = np.sum(along**2 / (moments.eigenvalues + sigma**2), axis=1)
    rest = np.maximum(np.sum(centred**2, axis=1) - np.sum(along**2, axis=1), 0)
    return found + rest / (moments.tail + sigma**2)


def _log_prob(prior: Prior, z: Float[Array, "b *event"]) -> Float[Array, " b"]:
    return prior.log_prob(z)


def _exact_log_density(
    scan: Denoiser, sigma: Float[Array, ""], z: Float[Array, "b *event"]
) -> Float[Array, " b"]:
    return scan(z, jnp.full(len(z), sigma, z.dtype)).log_density
