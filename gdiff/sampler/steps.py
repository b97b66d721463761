"""A sampling method as data: a row of coefficients for every evaluation of the denoiser."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
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
        noise: [R] number under which the noise of a row is drawn; by default that of its step.
        clip: a bounded part of z'; None if none.
        draws: for each column of noise how many numbers ago it was drawn, and as which vector;
            None stands for (0, 0), (0, 1), …
    """

    sigma: np.ndarray
    a: np.ndarray
    b: np.ndarray
    c: np.ndarray
    before: np.ndarray | None
    step: np.ndarray
    noise: np.ndarray
    clip: Clip | None
    draws: tuple[tuple[int, int], ...] | None = eqx.field(static=True)

    def __init__(
        self,
        sigma: np.ndarray,
        a: np.ndarray,
        b: np.ndarray,
        c: np.ndarray | None = None,
        *,
        before: np.ndarray | None = None,
        step: np.ndarray | None = None,
        noise: np.ndarray | None = None,
        clip: Clip | None = None,
        draws: tuple[tuple[int, int], ...] | None = None,
    ) -> None:
        """A single column may be given as [R]; by default no noise, and every row is a step."""
        self.sigma = sigma
        self.a, self.b = _columns(a), _columns(b)
        self.c = np.zeros((len(sigma), 1)) if c is None else _columns(c)
        self.before = None if before is None else _columns(before)
        self.step = np.arange(len(sigma)) if step is None else step
        self.noise = self.step if noise is None else noise
        self.clip = None if clip is None else Clip(*map(_columns, clip))
        self.draws = draws

    @property
    def count(self) -> int:
        """K, the number of steps: one less than the levels of the grid."""
        return int(self.step[-1]) + 1 if len(self.step) else 0

    @property
    def is_stochastic(self) -> bool:
        """Whether the method draws noise."""
        return bool(np.any(self.c)) or self.before is not None

    @property
    def columns(self) -> tuple[tuple[int, int], ...]:
        """`draws`, spelled out."""
        return self.draws or tuple((0, n) for n in range(self.c.shape[-1]))

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
        wide = np.stack(_alike(parts), axis=1)
        return wide.reshape(-1, *wide.shape[2:])

    return jax.tree.map(rows, *_complete(stages))


def joined(tables: Sequence[Steps]) -> Steps:
    """Tables one after the other; steps and noise keep their numbers."""
    return jax.tree.map(lambda *parts: np.concatenate(_alike(parts)), *_complete(tables))


def _alike(parts: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Columns of zeros up to the same number."""
    if parts[0].ndim == 1:
        return list(parts)
    width = max(part.shape[1] for part in parts)
    return [np.pad(part, [(0, 0), (0, width - part.shape[1])]) for part in parts]


def _complete(tables: Sequence[Steps]) -> Sequence[Steps]:
    """With rows of zeros where only others have noise before the evaluation, or a bounded part."""
    for name in ("before", "clip"):
        given = [part for table in tables if (part := getattr(table, name)) is not None]
        if given:
            tables = [
                table
                if getattr(table, name) is not None
                else replace(
                    table, **{name: jax.tree.map(partial(_zeros, len(table.sigma)), given[0])}
                )
                for table in tables
            ]
    return tables


def _zeros(count: int, like: np.ndarray) -> np.ndarray:
    return np.zeros((count, *like.shape[1:]))
