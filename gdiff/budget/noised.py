"""Noised data points, and functions of them that are evaluated on all devices."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from gdiff.dataset import Dataset
from gdiff.dataset.placed import Placed
from gdiff.parallel import processes
from gdiff.parallel.mesh import BATCH, batch_sharding
from gdiff.progress import Progress, track

# Independent estimates from whose spread standard errors come.
REPLICATES = 8
# Beyond so many coordinates low-discrepancy points are no better than random ones.
_MOST_SOBOL = 256
_CALL_BYTES = 2**26
_MOST_ROWS = 2**16
# Numbers of the data multiplied for one term of a budget, up to which nothing is cut: a minute of
# full scans on four CPU cores.
WORK = 2**40
# The same, up to which a short run is measured as a long one: seconds.
_MOMENT = 2**36
# What is left of the noise levels where more are too many.
_FEWEST_LEVELS = 12


class Effort(NamedTuple):
    """What an estimate rests on.

    Attributes:
        levels: noise levels at which it is measured.
        draws: noised points at each of them.
        is_capped: whether these are fewer than usual, since the data are large.
    """

    levels: int
    draws: int
    is_capped: bool = False

    def within(self, work: float, fewest: int = REPLICATES) -> "Effort":
        """As much, in whole replicates; beyond so many evaluations fewer draws, then fewer levels.

        Args:
            work: evaluations.
            fewest: draws that are left.
        """
        usual = -(-self.draws // REPLICATES) * REPLICATES
        if self.levels * self.draws <= work:
            return Effort(self.levels, usual)
        draws = int(work // (self.levels * REPLICATES)) * REPLICATES
        draws = min(usual, max(fewest, draws))
        levels = min(self.levels, max(_FEWEST_LEVELS, int(work // draws)))
        return Effort(levels, draws, is_capped=(levels, draws) != (self.levels, usual))

    def words(self, more: str = "") -> str:
        """It as part of a statement, with more about it."""
        text = f"{self.draws} draws at {self.levels} level{'s' if self.levels > 1 else ''}{more}"
        why = "cut, since the data are large or the run is short"
        return f"{text} ({why})" if self.is_capped else text


def affordable(dataset: Dataset, share: float = math.inf, products: int = 0) -> float:
    """Evaluations of the exact score that a term may take.

    Args:
        dataset: whose rows are scanned.
        share: evaluations that the run may have for it; a moment's work is never too much.
        products: of numbers, that an evaluation takes for each row besides the exact score.
    """
    one = len(dataset) * (dataset.dim + products)
    return min(WORK / one, max(share, _MOMENT / one))


class Points(NamedTuple):
    """Clean points and standard normal noise, in independent replicates of equal size.

    Attributes:
        clean: [R, n, d] float32, model coordinates.
        noise: [R, n, d] float32.
        weight: [R, n] float64, of mean 1: those of importance sampling.
    """

    clean: np.ndarray
    noise: np.ndarray
    weight: np.ndarray


def draw(dataset: Dataset, count: int, seed: int, spread: float = 1.0) -> Points:
    """Rows drawn uniformly, and noise: `count` in all, rounded up to whole replicates.

    In few dimensions row and noise come from scrambled Sobol points, independently scrambled in
    each replicate, so that every replicate is an unbiased estimate and their spread is honest.

    Args:
        dataset: whose rows are drawn.
        count: of points.
        seed: of the draw.
        spread: standard deviation that the noise is drawn with; weights make up for it.
    """
    each, d = -(-count // REPLICATES), dataset.dim
    index, noise = [], []
    if d <= _MOST_SOBOL:
        from scipy.special import ndtri
        from scipy.stats import qmc  # takes a second

    for replicate in range(REPLICATES):
        rng = np.random.default_rng([seed, replicate])
        if d <= _MOST_SOBOL:
            # A power of two is what makes the points balanced; the first ones are used.
            size = int(np.ceil(np.log2(max(each, 2))))
            points = qmc.Sobol(d + 1, seed=rng).random_base2(size)[:each]
            index.append((points[:, 0] * len(dataset)).astype(int))
            tiny = np.finfo(float).eps
            noise.append(ndtri(np.clip(points[:, 1:], tiny, 1 - tiny)))
        else:
            index.append(rng.integers(len(dataset), size=each))
            noise.append(rng.standard_normal((each, d), np.float32))
    clean = dataset.rows(np.concatenate(index)).reshape(REPLICATES, each, d)
    drawn = spread * np.stack(noise)
    weight = spread**d * np.exp(np.sum(drawn**2, axis=2, dtype=float) * (spread**-2 - 1) / 2)
    return Points(clean, drawn.astype(np.float32), weight)


@eqx.filter_jit
def _call(function: Callable[..., Any], rows: tuple[jax.Array, ...]) -> Any:
    return function(*rows)


def evaluate(
    function: Callable[..., Any],
    mesh: Mesh,
    rows: Callable[[np.ndarray], tuple[np.ndarray, ...]],
    count: int,
    width: int,
    progress: Progress | None = None,
) -> np.ndarray:
    """Values of a function of many rows, some of them at a time, so that one program serves all.

    Args:
        function: of arrays [b, ...]; gives one number a row, [b].
        mesh: its devices; b is a multiple of their number.
        rows: makes the arrays for rows with given numbers.
        count: how many rows there are.
        width: rows of a call, but for rounding.
        progress: advanced by rows.

    Returns:
        [count] float64.
    """
    unit = mesh.shape[BATCH]
    width = -(-min(width, count) // unit) * unit
    values = np.empty(count)
    for start in range(0, count, width):
        index = np.arange(start, min(start + width, count))
        placed = jax.device_put(rows(np.resize(index, width)), batch_sharding(mesh))
        values[index] = processes.gathered(_call(function, placed))[: len(index)]
        if progress is not None:
            progress.advance(len(index))
    return values


def at_levels(
    function: Callable[..., Any],
    data: Placed,
    points: Points,
    sigma: np.ndarray,
    description: str,
    *,
    is_level_alone: bool = False,
) -> np.ndarray:
    """Weighted means of a function of points, noised to each of many levels: [R, L].

    Args:
        function: of x [b, *event], z = x + sigma ε and sigma [b]; gives one number a row, [b].
        data: what it is a function of.
        points: x and ε, the same at all levels.
        sigma: [L] the levels.
        description: of the progress.
        is_level_alone: whether no call holds two levels, as for scores that plan by level.
    """
    shape = data.dataset.event_shape
    clean, noise = (x.reshape(-1, *shape) for x in points[:2])
    total, levels, dtype = len(clean), len(sigma), jnp.result_type(float)

    def rows(index: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        level, sample = np.divmod(index, total)
        at, x = sigma[level].astype(dtype), clean[sample].astype(dtype)
        return x, x + at.reshape(-1, *[1] * len(shape)) * noise[sample], at

    width = call_width(data.dataset)
    width = min(width, total) if is_level_alone else width
    with track(description, levels * total, "evaluations") as progress:
        found = evaluate(function, data.mesh, rows, levels * total, width, progress)
    return (found.reshape(levels, *points.weight.shape) * points.weight).mean(axis=2).T


def call_width(dataset: Dataset, most: int = _MOST_ROWS) -> int:
    """Rows of a call: 64, or more where points are so small that this is no work."""
    return int(np.clip(_CALL_BYTES // (8 * len(dataset) * dataset.dim), 64, most))


def rounded(values: np.ndarray, digits: int = 5) -> np.ndarray:
    """Values to so many significant digits, the same ones on all layouts of devices."""
    with np.errstate(divide="ignore"):
        magnitude = np.floor(np.log10(np.abs(values)))
    unit = 10.0 ** (np.where(np.isfinite(magnitude), magnitude, 0) - digits + 1)
    return np.round(values / unit) * unit
