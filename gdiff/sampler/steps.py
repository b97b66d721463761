"""A sampling method as data: a row of coefficients for every evaluation of the denoiser."""

from dataclasses import replace
from typing import NamedTuple

import equinox as eqx
import jax
import numpy as np


class Clip(NamedTuple):
    """A part of z' whose norm, sample by sample, must not exceed that of another combination.

    The part is e = Σ_i a_i z_i + Σ_j b_j D_j, the bound f = Σ_i bound_a_i z_i + Σ_j bound_b_j D_j
    in the notation of `Steps`, and z' gets e min(1, ‖f‖ / ‖e‖) instead of e. Rows of zeros have
    no such part.

    Attributes:
        a, b: [R, A] and [R, B] weights of the part, which those of the step contain.
        bound_a, bound_b: [R, A] and [R, B] weights of the bound.
    """

    a: np.ndarray
    b: np.ndarray
    bound_a: np.ndarray
    bound_b: np.ndarray


class Steps(eqx.Module):
    """Coefficients of K steps in R rows, each of which evaluates the denoiser once.

    A row takes D_0 = D(z_0 + Σ_n before_n ξ_n, sigma) and goes on to

        z' = Σ_i a_i z_i + Σ_j b_j D_j + Σ_n c_n ξ_n,

    where z_0 is the state, z_i the one i rows ago, D_j the denoiser output j rows ago and ξ_n
    the n-th standard normal vector of the step. A method with one evaluation a step has R = K; a
    method with two stages has two rows a step, and between them z is the point, or the point
    before noise, at which the second one evaluates. All float64 on the host; the engine casts.

    Attributes:
        sigma: [R] the noise level at which a row evaluates the denoiser.
        a: [R, A] weights of the current and the A - 1 previous states.
        b: [R, B] weights of the current and the B - 1 previous denoiser outputs.
        c: [R, N] weights of the step's noise.
        before: [R, N] weights of the noise that is added before the evaluation only; None if none.
        step: [R] the step that a row belongs to: 0 … K - 1.
        clip: a bounded part of z'; None if none.
    """

    sigma: np.ndarray
    a: np.ndarray
    b: np.ndarray
    c: np.ndarray
    before: np.ndarray | None
    step: np.ndarray
    clip: Clip | None

    def __init__(
        self,
        sigma: np.ndarray,
        a: np.ndarray,
        b: np.ndarray,
        c: np.ndarray | None = None,
        *,
        before: np.ndarray | None = None,
        step: np.ndarray | None = None,
        clip: Clip | None = None,
    ) -> None:
        """A single column may be given as [R]; by default no noise, and every row is a step."""
        self.sigma = sigma
        self.a, self.b = _columns(a), _columns(b)
        self.c = np.zeros((len(sigma), 1)) if c is None else _columns(c)
        self.before = None if before is None else _columns(before)
        self.step = np.arange(len(sigma)) if step is None else step
        self.clip = None if clip is None else Clip(*map(_columns, clip))

    @property
    def count(self) -> int:
        """K, the number of steps: one less than the levels of the grid."""
        return int(self.step[-1]) + 1 if len(self.step) else 0

    @property
    def evaluations(self) -> int:
        """How often a whole run evaluates the denoiser, one evaluation after the other."""
        return len(self.sigma)

    @property
    def ends(self) -> np.ndarray:
        """[K + 1] how many rows are done after k steps."""
        return np.searchsorted(self.step, np.arange(self.count + 1))

    @property
    def levels(self) -> np.ndarray:
        """Noise levels at which the denoiser is evaluated, decreasing, each once."""
        levels = np.unique(self.sigma)
        is_new = np.diff(levels, prepend=0.0) > 1e-9 * levels  # roots of squares are rounded
        return levels[is_new][::-1]

    @property
    def corrections(self) -> int:
        """The number of rows with a part that may be clipped."""
        return 0 if self.clip is None else int(np.any(self.clip.b, axis=1).sum())


def _columns(weights: np.ndarray) -> np.ndarray:
    return weights if weights.ndim == 2 else weights[:, None]


def interleave(*stages: Steps) -> Steps:
    """The table of a method with several stages: their rows take turns.

    Args:
        stages: tables of K rows each, in the order in which a step evaluates them.
    """

    def rows(*parts: np.ndarray) -> np.ndarray:
        if parts[0].ndim == 1:
            return np.stack(parts, axis=1).reshape(-1)
        width = max(part.shape[1] for part in parts)
        wide = [np.pad(part, [(0, 0), (0, width - part.shape[1])]) for part in parts]
        return np.stack(wide, axis=1).reshape(-1, width)

    for name in ("before", "clip"):
        given = [part for stage in stages if (part := getattr(stage, name)) is not None]
        if given:  # rows of zeros where other stages have none
            zeros = {name: jax.tree.map(np.zeros_like, given[0])}
            stages = [replace(s, **zeros) if getattr(s, name) is None else s for s in stages]
    return jax.tree.map(rows, *stages)
