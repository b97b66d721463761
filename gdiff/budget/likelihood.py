"""Bits per dimension of points under the law that the probability-flow ODE makes of a prior.

With t = log σ the ODE is dz/dt = z - D(z, σ), and along it d log p / dt = ∇·D - d (Chen et al.
2018, arXiv 1806.07366; Song et al. 2021, arXiv 2011.13456, eq. 39). So

    log p_σ0(z) = log prior(z_T) + ∫ (d - ∇·D(z_t, σ_t)) dt.

y = z / σ obeys dy/dt = -D/σ, where what is linear has gone: points far from all data, which the
exact score of few images carries to 1e5, are as easy as others. Steps are those of Dormand and
Prince (1980), and every point has a length of its own: where a posterior goes over from one image
to the next, D leaps within a thousandth of t, and the divergence has a peak there that counts.
"""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float

from gdiff.budget.noised import affordable
from gdiff.dataset import Dataset
from gdiff.denoiser import Denoiser, is_on_host, per_row
from gdiff.errors import require
from gdiff.parallel import processes
from gdiff.parallel.mesh import BATCH, batch_sharding
from gdiff.prior.base import Prior
from gdiff.progress import track

# Evaluations of a point that is near the data, about, and the most that any may take.
EVALUATIONS, _MOST = 300, 12_000
_FEWEST = 8
# Errors of a step that are allowed: of y, and of the integral in nats.
_ERROR_Y, _ERROR_NATS = 1e-3, 1e-2
# Relative error of y that is rounding.
_ROUNDING = 1e-6
_FIRST_STEP, _SHRINK, _GROW, _SAFETY = 0.05, 0.2, 4.0, 0.9
# Dormand and Prince 5(4): nodes, stages, and weights of fifth order less those of fourth. The last
# stage is the first one of the next step.
_NODES = (0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1, 1)
_TABLE = (
    (),
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
_DIFFERENCE = (71 / 57600, 0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)


class Flow(NamedTuple):
    """Log densities of n points at the first level of an integration.

    Attributes:
        log_density: [n] in nats.
        error: [n] standard errors from the probes; 0 where the divergence is exact.
        probes: how many; 0 where the divergence is exact.
    """

    log_density: np.ndarray
    error: np.ndarray
    probes: int


class Bits(NamedTuple):
    """Mean bits per dimension, its standard error over points, and `probes` as of `Flow`."""

    mean: float
    error: float
    probes: int


def affordable_points(dataset: Dataset, asked: int) -> int:
    """How many points to integrate from: as many as asked for, fewer if the data are large."""
    return int(min(asked, len(dataset), max(_FEWEST, affordable(dataset) // (2 * EVALUATIONS))))


def first_level(dataset: Dataset, sigma_min: float) -> float:
    """The level at which densities are taken.

    Where values are whole numbers, noise of less than the spread of a uniform number between two
    of them would ask for more digits than the data have.
    """
    return max(sigma_min, 1 / (np.sqrt(12) * dataset.scale)) if is_discrete(dataset) else sigma_min


def is_discrete(dataset: Dataset) -> bool:
    """Whether values are whole numbers, as those of 8-bit images are."""
    return dataset.x.dtype == np.uint8


def bits_per_dim(
    dataset: Dataset,
    index: np.ndarray,
    log_density: Callable[[np.ndarray], Flow],
    sigma: float,
    seed: int,
) -> Bits:
    """Of the points `index` of a data set, in the units of `Dataset.x` where these are discrete.

    A whole number x is coded by way of z = x + σ ε, drawn with the density q(z | x), and by
    P(x | z), proportional to q(z | x) over the whole numbers (the bound of variational diffusion
    models, Kingma et al. 2021, arXiv 2107.00630, sec. 3.3, with the prior at z):

        -log P(x) ≤ E[-log p_σ(z) + log q(z | x) - log P(x | z)].

    With σ of the spread of uniform dequantisation it is about as tight as that. Real numbers have
    a density only, that of p_σ at x in the model's coordinates, and it may have less than 0 bits.

    Args:
        dataset: where the points are.
        index: [n] which.
        log_density: log p_σ of points [n, *event].
        sigma: the level, model coordinates.
        seed: of the noise.
    """
    x = dataset.rows(index).astype(np.float64)
    nats = np.zeros(len(x))
    if is_discrete(dataset):
        noise = np.random.default_rng(seed).standard_normal(x.shape)
        entropy = -0.5 * noise**2 - np.log(sigma * np.sqrt(2 * np.pi))
        own = entropy - _log_decoder(noise, dataset.x[index], sigma * dataset.scale)
        nats += own.reshape(len(x), -1).sum(1)
        x = x + sigma * noise
    flow = log_density(x)
    nats -= flow.log_density
    bits = nats / (np.log(2) * dataset.dim)
    return Bits(float(bits.mean()), float(bits.std(ddof=1) / np.sqrt(len(bits))), flow.probes)


def _log_decoder(noise: np.ndarray, x: np.ndarray, sigma: float) -> np.ndarray:
    """Log P(x | x + sigma noise) over 0 … 255, sigma in units of x."""
    reach = int(min(255, np.ceil(10 * sigma + 1)))
    level, total = x.astype(np.int64), np.zeros(noise.shape)
    for shift in range(-reach, reach + 1):
        there = (level + shift >= 0) & (level + shift <= 255)
        away = 0.5 * noise**2 - 0.5 * (noise - shift / sigma) ** 2
        total += np.where(there, np.exp(np.minimum(away, 700)), 0)
    return -np.log(total)


def integrate(
    denoiser: Denoiser,
    prior: Prior,
    mesh: Mesh,
    x: np.ndarray,
    ends: tuple[float, float],
    *,
    probes: int,
    seed: int = 0,
    use_trace: bool = True,
) -> Flow:
    """Log density of points under the flow from a prior.

    The divergence is that of the denoiser's `trace_cov` where it gives it: ∇·D = trace / σ². Else
    it is estimated by vᵀ (∂D/∂z) v with random signs v, the same along a trajectory (Hutchinson
    1989; Grathwohl et al. 2019, arXiv 1810.01367): without bias, and its error is known from the
    spread over probes. Where there are as many probes as coordinates, v are these, and it is exact.

    Args:
        denoiser: a function that JAX can differentiate, unless it gives `trace_cov`.
        prior: at the last level.
        mesh: the devices.
        x: [n, *event] points at the first level, model coordinates.
        ends: the last and the first level, σ_max > σ_min > 0.
        probes: at least 2.
        seed: of the probes.
        use_trace: False takes derivatives in any case.

    Raises:
        UserError: the denoiser has no derivative.
    """
    n, size = len(x), -(-len(x) // mesh.shape[BATCH]) * mesh.shape[BATCH]
    x = np.resize(np.asarray(x, np.float64), (size, *x.shape[1:]))
    dtype, place = jnp.result_type(float), batch_sharding(mesh)
    z = jax.device_put(x.astype(dtype), place)
    dim, has_trace = int(np.prod(x.shape[1:])), use_trace and _gives_trace(denoiser, z)
    is_exact = has_trace or probes >= dim
    require(
        has_trace or not is_on_host(denoiser),
        "bits per dimension need the divergence of the denoiser, and one of NumPy arrays has no "
        "derivatives: give trace_cov, write it in JAX, or use metrics.bits_per_dim=false",
    )
    directions = None
    if is_exact and not has_trace:  # of such a length that their mean is the trace
        v = np.sqrt(dim) * np.eye(dim).reshape(1, dim, *x.shape[1:])
        directions = jax.device_put(v.astype(dtype), NamedSharding(mesh, PartitionSpec()))
    elif not is_exact:
        v = np.random.default_rng(seed).integers(0, 2, (size, probes, *x.shape[1:]), np.int8)
        directions = jax.device_put((2 * v - 1).astype(dtype), place)

    def asked(y: np.ndarray, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        sigma = np.exp(t)
        z = jax.device_put((_beside(sigma, y) * y).astype(dtype), place)
        found = _ask(denoiser, z, jax.device_put(sigma.astype(dtype), place), directions)
        mean, divergence = (processes.gathered(part).astype(np.float64) for part in found)
        if is_exact:
            divergence = divergence.mean(1, keepdims=True)
        return -mean / _beside(sigma, y), divergence

    high, low = np.log(ends[0]), np.log(ends[1])
    y, total = _integral(asked, x / ends[1], low, high)
    z = jax.device_put((ends[0] * y).astype(dtype), place)
    last = processes.gathered(_log_prob(prior, z)).astype(np.float64)
    values = ((last + dim * (high - low))[:, None] - total)[:n]
    if is_exact:
        return Flow(values[:, 0], np.zeros(n), 0)
    return Flow(values.mean(1), values.std(1, ddof=1) / np.sqrt(probes), probes)


def _integral(
    asked: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]],
    y: np.ndarray,
    low: float,
    high: float,
) -> tuple[np.ndarray, np.ndarray]:
    """The last y [n, *event], and the integrals [n, p] of the second of dy/dt and a function.

    Both are `asked` of y and t [n]. Beyond `_MOST` evaluations steps are as long as must be.
    """
    t, h = np.full(len(y), low), np.full(len(y), _FIRST_STEP * (high - low))
    first = asked(y, t)
    total, count = np.zeros_like(first[1]), 1
    with track("probability flow") as progress:
        while np.any(t < high):
            least = (high - low) * count / _MOST - (t - low)
            h = np.minimum(np.maximum(h, least), high - t)
            stages = [first]
            for node, row in zip(_NODES[1:], _TABLE[1:], strict=True):
                there = y + _beside(h, y) * _weighed(row, stages, 0)
                stages.append(asked(there, t + node * h))
            count += len(stages) - 1
            off = h * _norm(_weighed(_DIFFERENCE, stages, 0))
            nats = np.abs(h * _weighed(_DIFFERENCE, stages, 1).mean(1))
            error = np.maximum(off / (_ERROR_Y + _ROUNDING * _norm(y)), nats / _ERROR_NATS)
            good = (error <= 1) | (h <= least)
            t, y = np.where(good, t + h, t), np.where(_beside(good, y), there, y)
            t = np.where(high - t < 1e-9, high, t)
            total += np.where(good, h, 0)[:, None] * _weighed(_TABLE[-1], stages, 1)
            first = tuple(
                np.where(_beside(good, new), new, old)
                for new, old in zip(stages[-1], first, strict=True)
            )
            grow = _SAFETY * np.maximum(error, 1e-9) ** -0.2
            h = h * np.clip(grow, _SHRINK, _GROW)
            progress.advance(0)
    return y, total


def _weighed(weights: tuple[float, ...], stages: list, part: int) -> np.ndarray:
    """Sum of a part of the stages."""
    return sum(w * stage[part] for w, stage in zip(weights, stages, strict=False) if w)


def _norm(y: np.ndarray) -> np.ndarray:
    return np.linalg.norm(y.reshape(len(y), -1), axis=1)


def _beside(values: np.ndarray, like: np.ndarray) -> np.ndarray:
    """Numbers [n] in the shape in which they multiply the rows of an array."""
    return values.reshape(-1, *[1] * (like.ndim - 1))


def _gives_trace(denoiser: Denoiser, z: Array) -> bool:
    found = eqx.filter_eval_shape(denoiser, z, per_row(1.0, z))
    return found.trace_cov is not None


@eqx.filter_jit
def _log_prob(prior: Prior, z: Array) -> Array:
    return prior.log_prob(z)


@eqx.filter_jit
def _ask(
    denoiser: Denoiser, z: Array, levels: Array, directions: Array | None
) -> tuple[Float[Array, "b *event"], Float[Array, "b p"]]:
    """Means and divergences: exact with p = 1, or along directions [b or 1, p, *event]."""
    if directions is None:
        found = denoiser(z, levels)
        return found.mean, (found.trace_cov / levels**2)[:, None]
    mean, slope = jax.linearize(lambda z: denoiser(z, levels).mean, z)

    def along(v: Array) -> Array:
        v = jnp.broadcast_to(v, z.shape)
        return jnp.sum((v * slope(v)).reshape(len(z), -1), axis=1)

    return mean, jax.lax.map(along, jnp.moveaxis(directions, 1, 0)).T
