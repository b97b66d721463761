"""The denoising loss of a score by noise level, measured on the data."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Float

from gdiff.budget.noised import REPLICATES, Points, at_levels, call_width, draw, rounded
from gdiff.budget.spectrum import Spectrum
from gdiff.dataset import Dataset
from gdiff.dataset.placed import Placed
from gdiff.dataset.statistics import WHOLE_DIM, statistics
from gdiff.denoiser import Denoiser
from gdiff.errors import require
from gdiff.schedule.losses import LossCurve
from gdiff.score.base import ScoreSpec
from gdiff.score.exact import Exact, ExactScan
from gdiff.score.wiener import Wiener
from gdiff.store import cache

# Part of the key: to be raised when what is stored changes.
_VERSION = 7
# A grid is made for the points that its loss was measured on, and does better on them than on
# others: it should be judged on those. A plan, which chooses among grids, has a judge of its own.
GRID_SEED, JUDGE_SEED, PLAN_SEED = 0, 3, 4
# Data with no more numbers cost so little that the curve is measured finely.
_SMALL = 2**20
_FINE_LEVELS, _LEVELS = 128, 24
# Noise levels between which a curve has so many.
_USUAL = (80.0, 0.002)
# Products of numbers, in all, up to which more samples are taken than the fewest.
_PRODUCTS = 2**31
_FEWEST, _MOST = 2 * REPLICATES, 2**12
# Relative standard error beyond which a loss is chance, and the factor of sigma over which the
# slope is taken before that. A grid made for 16 samples of MNIST then costs up to twice the best
# one's nats; without the power law, thousands of times.
_DOUBTFUL, _SLOPE_RANGE = 0.4, 1.4
# Relative error of the exact score that is nothing to its loss, whose standard error is larger.
_ALLOWED = 1e-3
# In so few dimensions noise is drawn wider and weighed: at low noise levels its tails decide.
_FEW, _SPREAD = 2, 2.0


def effort(dataset: Dataset, samples: int | None = None, fewest: int = _FEWEST) -> tuple[int, int]:
    """Noise levels of a curve, and samples at each: by the size of the data unless given."""
    size = len(dataset) * dataset.dim
    levels = _FINE_LEVELS if size <= _SMALL else _LEVELS
    affordable = int(np.clip(_PRODUCTS // (levels * size), fewest, _MOST))
    return levels, samples or affordable


def measure(
    score: ScoreSpec,
    data: Placed,
    ends: tuple[float, float],
    *,
    samples: int | None = None,
    levels: int | None = None,
    test: Dataset | None = None,
    seed: int = GRID_SEED,
    is_lifted: bool = True,
) -> LossCurve:
    """Loss ℓ(σ) = E‖x_0 - D(x_0 + σ ε, σ)‖² on levels that span two, from the cache if there.

    The same points and noise serve at all levels, so that the curve is smooth. For the exact score
    on its own data the trace of the posterior covariance is averaged instead, which has the same
    mean and less variance (Rao–Blackwell). That of the Wiener filter is known in closed form, and
    the losses of other scores are corrected by its own on the same points: which points these are
    matters for both alike.

    Args:
        score: what is measured.
        data: that it is fitted to.
        ends: the largest and the smallest noise level.
        samples: at each level, rounded up to a multiple of 8; None chooses by size, as `effort`.
        levels: within the usual range, 80 to .002; None chooses as `effort`.
        test: points that the score does not know; None for those that it is fitted to.
        seed: of points and noise.
        is_lifted: whether losses that are chance follow a power law, for the sake of a grid;
            without it they are unbiased.

    Returns:
        A curve with 8 replicates, to five digits; without any where it is exact.

    Raises:
        UserError: the square of a level is beyond the arithmetic.
    """
    numbers = jnp.finfo(jnp.result_type(float))
    least, most = float(numbers.tiny) ** 0.5, float(numbers.max) ** 0.5
    require(
        least < ends[1] and ends[0] < most,
        f"noise levels from {ends[0]:g} to {ends[1]:g} are beyond the arithmetic: bring "
        f"schedule.sigma_max and schedule.sigma_min between {most:.0e} and {least:.0e}",
    )
    dataset = data.dataset
    usual, count = effort(dataset, samples)
    levels = levels or usual
    if isinstance(score, Wiener) and test is None:
        return Spectrum.along(statistics(dataset, score.rank), dataset.dim).losses(ends)
    sigma, wanted = _lattice(levels, ends)
    where = "train" if test is None else test.fingerprint()
    # Where a score is the exact one to a tolerance, so is its loss, and the scan needs no fitting.
    measured = Exact() if score.is_posterior and not score.is_exact else score
    what = (measured, where, sigma[0], sigma[-1], levels, count, seed, is_lifted)
    what = (*what, jnp.result_type(float), *((measured.mark,) if measured.mark else ()))
    key = cache.key("losses", _VERSION, dataset.fingerprint(), *what)
    is_posterior = score.is_posterior and test is None

    def build() -> np.ndarray:
        denoiser = measured.fit(data, sigma)
        points = test if test is not None else dataset
        chosen = draw(points, count, seed, _SPREAD if points.dim <= _FEW else 1.0)
        is_known = test is None and not is_posterior and dataset.dim <= WHOLE_DIM

        def at(part: np.ndarray) -> np.ndarray:
            asked = denoiser.within(part, _ALLOWED) if isinstance(denoiser, ExactScan) else denoiser
            loss = Partial(_trace if is_posterior else _squared_error, asked)
            found = at_levels(loss, data, chosen, part, "denoising loss")
            return _controlled(found, data, chosen, part) if is_known else found

        each = max(1, call_width(dataset) // chosen.weight.size) if is_lifted else len(sigma)
        return _from_above(at, sigma, each)

    replicates = cache.cached(key, build)
    replicates = np.array(replicates)
    replicates = (_with_tail(sigma, replicates) if is_lifted else replicates)[:, wanted]
    return LossCurve(sigma[wanted], rounded(replicates.mean(axis=0)), replicates)


def _lattice(levels: int, ends: tuple[float, float]) -> tuple[np.ndarray, slice]:
    """Noise levels at which the loss is measured, and those of them that span the ends.

    They are the same for all ends within the usual range, so that one curve serves all runs.
    """
    high, low = _USUAL
    step = np.log(high / low) / (levels - 1)
    first, last = (np.log(high / end) / step for end in ends)
    first, last = int(np.floor(first + 1e-9)), int(np.ceil(last - 1e-9))
    # Two levels at least, however near the ends are.
    last = max(last, first + 1)
    start, stop = min(0, first), max(levels - 1, last)
    sigma = high * np.exp(-step * np.arange(start, stop + 1))
    return sigma, slice(first - start, last - start + 1)


def _from_above(at: Callable[[np.ndarray], np.ndarray], sigma: np.ndarray, each: int) -> np.ndarray:
    """Losses [R, L], so many levels at a time, down to where they are chance; zeros below."""
    found = np.zeros((REPLICATES, len(sigma)))
    for start in range(0, len(sigma), each):
        found[:, start : start + each] = at(sigma[start : start + each])
        if _first_doubtful(found[:, : start + each]) is not None:
            break
    return found


def _first_doubtful(replicates: np.ndarray) -> int | None:
    """The first level at which losses [R, L] are chance, if a power law can be had above it."""
    mean = replicates.mean(axis=0)
    error = replicates.std(axis=0, ddof=1) / len(replicates) ** 0.5
    doubtful = np.flatnonzero(error > _DOUBTFUL * mean + np.finfo(float).tiny)
    return int(doubtful[0]) if len(doubtful) and doubtful[0] >= 2 else None


def _controlled(
    replicates: np.ndarray, data: Placed, points: Points, sigma: np.ndarray
) -> np.ndarray:
    """Losses [R, L] times what the Wiener filter's loss is, over what it is on these points."""
    loss = Partial(_squared_error, Wiener().fit(data))
    found = at_levels(loss, data, points, sigma, "denoising loss of the Wiener filter")
    known = Spectrum.along(statistics(data.dataset), data.dataset.dim).loss(sigma)
    return replicates * np.divide(known, found, out=np.ones_like(found), where=found > 0)


def _with_tail(sigma: np.ndarray, replicates: np.ndarray) -> np.ndarray:
    """Losses [R, L] with a power law of sigma below the level at which chance takes over.

    Where a score memorises, its loss at low noise is that of the few points with a near
    neighbour. A sample holds none of them, and its loss vanishes although γ times the true loss
    does not: a grid made for it would leap there. The law goes on with the slope in which the
    losses begin to fall; theirs only becomes steeper, so this errs on the safe side.
    """
    first, mean = _first_doubtful(replicates), replicates.mean(axis=0)
    if first is None:
        return replicates
    last = first - 1
    before = max(0, int(np.searchsorted(-sigma, -_SLOPE_RANGE * sigma[last], side="right")) - 1)
    slope = np.log(mean[before] / mean[last]) / np.log(sigma[before] / sigma[last])
    tail = mean[last] * (sigma[last + 1 :] / sigma[last]) ** max(slope, 0.0)
    lifted = np.maximum(mean[last + 1 :], tail)
    share = replicates[:, last] / mean[last]
    return np.concatenate([replicates[:, : last + 1], share[:, None] * lifted], axis=1)


def _trace(denoiser: Denoiser, x: Array, z: Array, sigma: Array) -> Float[Array, " b"]:
    return denoiser(z, sigma).trace_cov


def _squared_error(denoiser: Denoiser, x: Array, z: Array, sigma: Array) -> Float[Array, " b"]:
    return jnp.sum((x - denoiser(z, sigma).mean).reshape(len(x), -1) ** 2, axis=1)
