"""The denoising loss as a function of the noise level, and what it says about a grid."""

import codecs
import csv
import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np

from gdiff.errors import UserError, require, require_one_of
from gdiff.schedule.monotone import Pchip, isotonic

KINDS = ("x0", "eps", "v", "flow")
# Losses of scores that memorise underflow; their logarithm must not.
_FLOOR = 1e-300
# Levels given as text are rounded.
_SLACK = 1e-6
# For the slope of log R, R = dℓ / d log sigma: half the stretch of log sigma that it is taken over,
# and its bounds; that of Gaussian data is from -2 to 2.
_REACH, _SLOPES = np.log(2) / 2, (-1.99, 2.0)
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(32)


@dataclass(frozen=True, eq=False)
class LossCurve:
    """Denoising loss ℓ = E‖x_0 - D(x_0 + sigma ε, sigma)‖² at some noise levels.

    In terms of the signal-to-noise ratio γ = 1/sigma², the Kullback-Leibler divergence of the path
    of ancestral sampling is, by Girsanov's theorem, that of the prior plus

        ½ Σ_k (γ_{k+1} - γ_k) ℓ(γ_k) - ½ ∫ mmse dγ,

    where mmse is the loss of the exact denoiser: the objective of loss-adaptive schedules
    (Aghapour et al., arXiv 2601.21943). With the integral of ℓ itself in the last place it is the
    share of the discretisation, which is all that a grid can change.

    Between the levels log ℓ is interpolated by a monotone cubic in log sigma, through the
    non-decreasing curve (in sigma) that is nearest to the losses in least squares.

    Attributes:
        sigma: [L ≥ 2] noise levels, positive and strictly decreasing.
        loss: [L] losses, summed over coordinates; not negative.
        replicates: [R ≥ 2, L] independent estimates whose mean is `loss`, or None.
    """

    sigma: np.ndarray
    loss: np.ndarray
    replicates: np.ndarray | None = None

    def __post_init__(self) -> None:
        for key in ("sigma", "loss", "replicates"):
            value = getattr(self, key)
            if value is not None:
                object.__setattr__(self, key, np.asarray(value, np.float64))
        count = len(self.sigma)
        is_whole = self.sigma.shape == self.loss.shape == (count,) and count >= 2
        if self.replicates is not None:
            is_whole &= len(self.replicates) >= 2 and self.replicates.shape[1:] == (count,)
        if not (is_whole and self.sigma[-1] > 0 and np.all(np.diff(self.sigma) < 0)):
            raise ValueError("a loss curve needs two or more levels in decreasing order")
        if not (np.all(np.isfinite(self.loss)) and np.all(self.loss >= 0)):
            raise ValueError("losses must be finite and not negative")

    @classmethod
    def read(cls, path: Path, kind: str = "x0") -> "LossCurve":
        """A curve measured elsewhere, from a CSV file with columns `sigma` and `loss`.

        Args:
            path: of the file; levels in increasing or decreasing order, other columns ignored.
            kind: what the loss is the squared error of, summed over coordinates: "x0"; "eps", the
                noise (ℓ = loss/γ); "v" of a variance-preserving process (ℓ = loss/(1 + γ)); or
                "flow", the velocity ε - x_0 of x_t = (1 - t) x_0 + t ε (ℓ = t² loss, with
                t = sigma / (1 + sigma)).

        Raises:
            UserError: there is no such file, or its numbers cannot be a curve.
        """
        require_one_of("schedule.loss_type", kind, KINDS)
        named = f"schedule.loss_file={path}"
        sigma, loss = _columns(path, named)
        require(len(sigma) >= 2, f"{named} has {len(sigma)} rows: a curve needs at least 2")
        for key, values in (("sigma", sigma), ("loss", loss)):
            is_valid = np.isfinite(values) & ((values > 0) if key == "sigma" else (values >= 0))
            if not is_valid.all():
                row = int(np.argmin(is_valid))
                sign = "positive" if key == "sigma" else "not negative"
                raise UserError(
                    f"{named} has {key}={values[row]:g} in row {row + 1}: it must be finite and "
                    f"{sign}"
                )
        require(bool(np.any(loss > 0)), f"{named} has no loss above 0: measure some")
        values, counts = np.unique(sigma, return_counts=True)
        require(
            len(values) == len(sigma),
            f"{named} has sigma={values[np.argmax(counts)]:g} twice: keep one row for each sigma",
        )
        if sigma[0] < sigma[-1]:
            sigma, loss = sigma[::-1], loss[::-1]
        require(bool(np.all(np.diff(sigma) < 0)), f"{named} is unsorted: sort its rows by sigma")
        snr = sigma**-2.0
        factors = {"x0": 1.0, "eps": snr, "v": 1 + snr, "flow": (1 + 1 / sigma) ** 2}
        return cls(sigma, loss / factors[kind])

    @cached_property
    def _log_loss(self) -> Pchip:
        """Of log sigma."""
        increasing = isotonic(self.loss[::-1])
        return Pchip(np.log(self.sigma[::-1]), np.log(np.maximum(increasing, _FLOOR)))

    def _log(self, sigma: np.typing.ArrayLike) -> np.ndarray:
        """log sigma, refused outside the levels of the curve."""
        sigma = np.asarray(sigma, np.float64)
        low, high = self.sigma[-1], self.sigma[0]
        for end in (sigma.min(initial=high), sigma.max(initial=low)):
            require(
                low * (1 - _SLACK) <= end <= high * (1 + _SLACK),
                f"sigma = {end:.6g} is outside the loss curve, known from {low:.6g} to "
                f"{high:.6g}: move schedule.sigma_max, schedule.sigma_min or schedule.horizon "
                "inside",
            )
        return np.log(np.clip(sigma, low, high))

    def at(self, sigma: np.typing.ArrayLike) -> np.ndarray:
        """Loss at noise levels of any shape; non-decreasing in sigma, and positive.

        Raises:
            UserError: a level is outside the curve's.
        """
        return np.exp(self._log_loss(self._log(sigma)))

    @property
    def standard_error(self) -> np.ndarray | None:
        """[L] standard errors of the losses; None without replicates."""
        return None if self.replicates is None else _standard_error(self.replicates)

    def integrals(self, sigma: np.ndarray) -> np.ndarray:
        """[K] integrals of ℓ dγ over the steps of a strictly decreasing grid [K + 1]."""
        return self._integrated(self._energy, sigma)

    def root_integrals(self, sigma: np.ndarray, measure: float = 0.0) -> np.ndarray:
        """[K] integrals of √(-dℓ/dγ) γ^(-g/2) dγ, g = `measure`, over the steps of a grid."""
        return self._integrated(partial(self._root, measure=measure), sigma)

    def ancestral_integrals(self, sigma: np.ndarray) -> np.ndarray:
        """[K] integrals over log sigma of (R (R + ½ dR / d log sigma))^¼, R = dℓ / d log sigma.

        The slope of log R is taken over a factor of two in sigma, and bounded, as a curve that was
        measured needs it.
        """
        return self._integrated(self._ancestral, sigma)

    def integral(self, sigma_max: float, sigma_min: float) -> float:
        """∫ ℓ dγ between the signal-to-noise ratios of two noise levels."""
        return float(self.integrals(np.array([sigma_max, sigma_min])).sum())

    def asymptotic_constant(self, sigma_max: float, sigma_min: float) -> float:
        """C such that the best grid of K steps has a discretisation of about C/K nats, K large.

        C = (∫ √(-dℓ/dγ) dγ)² / 4.
        """
        return float(self.root_integrals(np.array([sigma_max, sigma_min])).sum() ** 2 / 4)

    def sum(self, grid: np.ndarray, measure: float) -> float:
        """Left Riemann sum of ℓ over the measure dγ/γ^g, g = `measure`, on a grid [K + 1] > 0."""
        return float(np.diff(clock(grid, measure)) @ self.at(grid[:-1]))

    def discretization(self, grid: np.ndarray) -> float:
        """KL divergence that the steps of a grid cost ancestral sampling.

        ½ Σ_k (γ_{k+1} - γ_k) ℓ(γ_k) - ½ ∫ ℓ dγ, never negative but for rounding.

        Args:
            grid: [K + 1] noise levels, strictly decreasing. A last level 0 is left out: γ is
                infinite there, and the step onto it returns the mean, which has no density.

        Returns:
            Nats.
        """
        return float(np.sum(self.discretization_steps(grid)))

    def discretization_steps(self, grid: np.ndarray) -> np.ndarray:
        """[K] what each step between positive levels has of `discretization`, in nats."""
        grid = grid[grid > 0]
        return 0.5 * (np.diff(grid**-2.0) * self.at(grid[:-1]) - self.integrals(grid))

    def discretization_error(self, grid: np.ndarray) -> float | None:
        """Standard error of `discretization`, from the replicates; None without."""
        if self.replicates is None:
            return None
        curves = (LossCurve(self.sigma, loss) for loss in self.replicates)
        return float(_standard_error(np.array([curve.discretization(grid) for curve in curves])))

    def _energy(self, x: np.ndarray) -> np.ndarray:
        """ℓ dγ/dx of x = -log sigma."""
        return 2 * np.exp(self._log_loss(-x) + 2 * x)

    def _root(self, x: np.ndarray, measure: float) -> np.ndarray:
        """√(-dℓ/dγ) γ^(-g/2) dγ/dx of x = -log sigma."""
        slope = np.maximum(self._log_loss.slope(-x), 0.0)
        return np.sqrt(2 * slope * np.exp(self._log_loss(-x) + 2 * (1 - measure) * x))

    def _ancestral(self, x: np.ndarray) -> np.ndarray:
        """(R (R + ½ R'))^¼ = √R (1 + ½ (log R)')^¼ at x = -log sigma."""
        low, high = np.log(self.sigma[-1]), np.log(self.sigma[0])

        def fall(at: np.ndarray) -> np.ndarray:
            return np.maximum(self._log_loss.slope(at) * np.exp(self._log_loss(at)), _FLOOR)

        ends = np.clip(-x, low, high)
        above, below = np.minimum(ends + _REACH, high), np.maximum(ends - _REACH, low)
        slope = np.log(fall(above) / fall(below)) / (above - below)
        return np.sqrt(fall(ends)) * (1 + np.clip(slope, *_SLOPES) / 2) ** 0.25

    def _integrated(
        self, density: Callable[[np.ndarray], np.ndarray], sigma: np.ndarray
    ) -> np.ndarray:
        """[K] integrals of a density of x = -log sigma over steps, by Gauss-Legendre quadrature.

        The rule is applied between neighbours among the steps' ends and the curve's levels, where
        the interpolation is smooth.
        """
        ends, levels = -self._log(sigma), -np.log(self.sigma)
        is_within = (levels > ends[0]) & (levels < ends[-1])
        edges = np.union1d(ends, levels[is_within])
        half = np.diff(edges)[:, None] / 2
        pieces = (density(edges[:-1, None] + half * (1 + _NODES)) * half) @ _WEIGHTS
        return np.add.reduceat(pieces, np.searchsorted(edges, ends[:-1])) if len(pieces) else pieces


def clock(sigma: np.ndarray, measure: float) -> np.ndarray:
    """∫ dγ/γ^g up to noise levels, g = `measure`: γ itself for 0, log γ for 1."""
    if measure == 1:
        return -2 * np.log(sigma)
    return sigma ** (-2.0 * (1 - measure)) / (1 - measure)


def _standard_error(replicates: np.ndarray) -> np.ndarray:
    """Of the mean over the first axis."""
    return np.std(replicates, axis=0, ddof=1) / math.sqrt(len(replicates))


def _columns(path: Path, named: str) -> tuple[np.ndarray, np.ndarray]:
    """The columns sigma and loss of a CSV file, as spreadsheets write them too.

    Those separate columns by semicolons where the decimal mark is a comma, or by tabs, and some
    save UTF-16.
    """
    try:
        content = path.read_bytes()
        is_wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        text = content.decode("utf-16" if is_wide else "utf-8-sig")
        first = text.partition("\n")[0]
        delimiter = next((mark for mark in ";\t" if mark in first), ",")
        table = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        header, *rows = [row for row in table if any(map(str.strip, row))] or [[]]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or "it is not a text file"
        raise UserError(f"{named} cannot be read ({reason}): give a CSV file") from error
    header = [name.strip().lower() for name in header]
    columns = []
    for key in ("sigma", "loss"):
        require(key in header, f"{named} has no column {key!r}: its first line must name it")
        try:
            cells = [row[header.index(key)] for row in rows]
            if delimiter != ",":
                cells = [cell.replace(",", ".") for cell in cells]
            columns.append(np.array(list(map(float, cells))))
        except (IndexError, ValueError) as error:
            raise UserError(f"{named} has a row whose {key} is not a number: mend it") from error
    return columns[0], columns[1]
