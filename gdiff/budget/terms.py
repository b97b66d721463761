"""The KL divergence of the samples from the data, term by term."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Float

from gdiff.budget import losses
from gdiff.budget.initialization import Noised
from gdiff.budget.noised import REPLICATES, Effort, affordable, at_levels, draw
from gdiff.dataset.placed import Placed
from gdiff.denoiser import Denoiser
from gdiff.prior.base import PriorSpec
from gdiff.sampler.methods.ancestral import Ancestral
from gdiff.sampler.steps import Steps
from gdiff.schedule.losses import LossCurve
from gdiff.score.base import ScoreSpec
from gdiff.score.exact import Exact

INITIALIZATION, DISCRETIZATION, SCORE, PICARD = (
    "initialization",
    "discretization",
    "score",
    "picard",
)
TOTAL = "total"
_SEED = 2
# Samples at each level of the loss curve that a budget is made of: more than a grid needs.
_LOSS_SAMPLES = 128
# Levels of a long grid at which the error of the score is measured, and products of numbers.
_SCORE_LEVELS, _PRODUCTS, _MOST = 24, 2**36, 512
_NOT_ANCESTRAL = (
    "does not apply: the identity holds for sampler=ancestral only, whose steps freeze the denoiser"
)


class Term(NamedTuple):
    """A part of the budget.

    Attributes:
        name: what it is for.
        nats: the estimate; None where it does not apply.
        standard_error: of the estimate; 0 where that is exact.
        statement: where the number comes from, or why there is none.
        effort: what it was measured with; None where nothing was.
        steps: [K] nats of each step between positive levels; None of what is not spent on steps.
    """

    name: str
    nats: float | None
    standard_error: float | None
    statement: str
    effort: Effort | None = None
    steps: np.ndarray | None = None

    def to_json(self, dim: int) -> dict[str, Any]:
        """Its part of budget.json."""
        measured = {} if self.effort is None else self.effort._asdict()
        return {
            "nats": self.nats,
            "standard_error": self.standard_error,
            "nats_per_dimension": None if self.nats is None else self.nats / dim,
            "statement": self.statement,
            "capped": measured.pop("is_capped", False),
            **measured,
        }


class Budget(NamedTuple):
    """KL(data at the last positive noise level ‖ samples) is at most the total.

    By the chain rule, Girsanov's theorem and data processing (arXiv 2601.21943 for the second):

        KL(p_T ‖ prior) + ½ Σ Δγ mmse(γ_k) - ½ ∫ mmse dγ + ½ Σ Δγ E‖D - D̃‖² + stopping early,

    with γ = 1/σ², the mmse of the exact score D, and expectations over noised data. The last step
    onto 0 belongs to no term: nothing has a density there.

    Attributes:
        terms: the parts; the total comes last.
        dim: number of coordinates of a point.
        levels: [K + 1] positive noise levels of the run.
    """

    terms: tuple[Term, ...]
    dim: int
    levels: np.ndarray

    def to_json(self) -> dict[str, Any]:
        """Content of budget.json."""
        parts: dict[str, Any] = {term.name: term.to_json(self.dim) for term in self.terms}
        parts[TOTAL]["capped"] = any(part["capped"] for part in parts.values())
        return parts | {"dimensions": self.dim, "sigma": list(self.sigma)}

    @property
    def sigma(self) -> tuple[float, float]:
        """First and last noise level of the terms."""
        return float(self.levels[0]), float(self.levels[-1])

    def spent(self) -> list[dict[str, float]]:
        """A row for each level, named as in `SPENT`; none where not all terms apply.

        Each has what the terms have spent from the prior down to that level, so that the last one
        has the terms themselves.
        """
        parts = self.terms[:-1]
        if any(term.nats is None for term in parts):
            return []
        nothing = np.zeros(len(self.levels) - 1)
        columns = {"sigma": self.levels}
        for term in parts:
            steps = nothing if term.steps is None else term.steps
            before = term.nats if term.name == INITIALIZATION else 0.0
            columns[term.name] = np.cumsum([before, *steps])
        columns[TOTAL] = sum(columns[term.name] for term in parts)
        return [dict(zip(SPENT, row, strict=True)) for row in np.stack([*columns.values()], 1)]

    def metrics(self) -> dict[str, float]:
        """The terms that apply: kl_initialization, …, kl_total, in nats."""
        return {f"kl_{t.name}": t.nats for t in self.terms if t.nats is not None}


SPENT = ("sigma", INITIALIZATION, DISCRETIZATION, SCORE, PICARD, TOTAL)
METRICS = tuple(f"kl_{name}" for name in SPENT[1:])


def budget(
    data: Placed,
    grid: np.ndarray,
    steps: Steps,
    prior: PriorSpec,
    score: ScoreSpec,
    denoiser: Denoiser | None,
    blocks: Sequence[Mapping[str, float]] = (),
    share: float = math.inf,
) -> Budget:
    """The budget of a run.

    Args:
        data: the data.
        grid: [K + 1] noise levels, the last maybe 0.
        steps: the sampler's table on them.
        prior: where the run starts.
        score: the run's.
        denoiser: what it gave for the data; None will do for the exact score.
        blocks: run.json's numbers of parallel blocks; none for sequential steps.
        share: evaluations of the score that the run may have for each term; what takes but a
            moment is never cut.
    """
    levels = grid[grid > 0]
    terms = [_initialization(data, float(levels[0]), prior, share)]
    if is_ancestral(steps, grid):
        terms += [
            _discretization(data, levels, share),
            _score(data, levels, score, denoiser, share),
            _picard(data.dataset.dim, levels, blocks),
        ]
        nats = sum(term.nats for term in terms)
        error = math.sqrt(sum(term.standard_error**2 for term in terms))
        total = Term(TOTAL, nats, error, "bounds KL(data at the last noise level ‖ samples)")
    else:
        terms += [
            Term(name, None, None, _NOT_ANCESTRAL) for name in (DISCRETIZATION, SCORE, PICARD)
        ]
        total = Term(TOTAL, None, None, "does not apply: not all terms do")
    return Budget((*terms, total), data.dataset.dim, levels)


def is_ancestral(steps: Steps, grid: np.ndarray) -> bool:
    """Whether a table is that of the ancestral sampler, by whatever name, without a corrector."""
    own = Ancestral().steps(grid)
    if steps.c.shape != own.c.shape or steps.a.shape != own.a.shape:
        return False
    return steps.before is None and all(
        np.allclose(getattr(steps, name), getattr(own, name), rtol=1e-9, atol=1e-12)
        for name in ("a", "b", "c")
    )


def _initialization(data: Placed, sigma: float, prior: PriorSpec, share: float) -> Term:
    start = Noised.of(data, sigma, share=share)
    found = start.divergence(prior)
    statement = f"KL(p_T ‖ prior) at sigma = {sigma:.4g}, Monte Carlo: {start.words()}"
    return Term(INITIALIZATION, *found, statement, start.effort)


def _discretization(data: Placed, levels: np.ndarray, share: float) -> Term:
    if len(levels) < 2:
        return Term(DISCRETIZATION, 0.0, 0.0, "no step ends above noise level 0")
    usual = Effort(*losses.effort(data.dataset, fewest=_LOSS_SAMPLES))
    effort = usual.within(affordable(data.dataset, share))
    ends = (float(levels[0]), float(levels[-1]))
    options = {"samples": effort.draws, "levels": effort.levels, "seed": losses.JUDGE_SEED}
    curve = losses.measure(Exact(), data, ends, **options, is_lifted=False)
    nats, error = curve.discretization(levels), curve.discretization_error(levels)
    if effort.is_capped:
        some = _every_other(len(curve.sigma))
        coarse = LossCurve(curve.sigma[some], curve.loss[some])
        error = math.hypot(error, coarse.discretization(levels) - nats)
    statement = f"{len(levels) - 1} steps, from the exact denoising loss: {effort.words()}"
    return Term(DISCRETIZATION, nats, error, statement, effort, curve.discretization_steps(levels))


def _every_other(count: int) -> np.ndarray:
    """Every other of so many levels, and the last: what they miss tells what the levels miss."""
    return np.append(np.arange(0, count - 1, 2), count - 1)


def _score(
    data: Placed, levels: np.ndarray, score: ScoreSpec, denoiser: Denoiser | None, share: float
) -> Term:
    if score.is_exact:
        return Term(SCORE, 0.0, 0.0, "none: the score is the exact one")
    if len(levels) < 2:
        return Term(SCORE, 0.0, 0.0, "no step ends above noise level 0")
    effort = _score_effort(data, levels, share, score.products(data.dataset.dim))
    steps, error = _score_steps(data, levels, denoiser, effort)
    statement = f"measured against the full scan: {effort.words()}"
    return Term(SCORE, float(steps.sum()), error, statement, effort, steps)


def _score_effort(
    data: Placed, levels: np.ndarray, share: float = math.inf, products: int = 0
) -> Effort:
    count = min(len(levels) - 1, _SCORE_LEVELS)
    usual = np.clip(_PRODUCTS // (count * data.dataset.x.size), REPLICATES, _MOST)
    return Effort(count, int(usual)).within(affordable(data.dataset, share, products))


def score_error(data: Placed, levels: np.ndarray, denoiser: Denoiser) -> tuple[float, float]:
    """½ Σ (γ_{k+1} - γ_k) E‖D - D̃‖² on a grid of positive levels, and its standard error.

    On a long grid the expectation is measured at some of the levels, and linear in log σ between;
    where the size of the data leaves few levels, the error holds what half of them would miss.

    Args:
        data: the data.
        levels: [K ≥ 2] positive levels, decreasing.
        denoiser: D̃.
    """
    steps, error = _score_steps(data, levels, denoiser, _score_effort(data, levels))
    return float(steps.sum()), error


def _score_steps(
    data: Placed, levels: np.ndarray, denoiser: Denoiser, effort: Effort
) -> tuple[Float[np.ndarray, " k"], float]:
    """What each of the K - 1 steps has of `score_error`, and the standard error of the sum."""
    few = levels[np.linspace(0, len(levels) - 2, effort.levels).astype(int)]
    points = draw(data.dataset, effort.draws, _SEED)
    gap = Partial(_squared_gap, Exact().fit(data), denoiser)
    gaps = at_levels(gap, data, points, few, "error of the score", is_level_alone=True)
    weights = np.diff(levels**-2.0) / 2

    def spent(some: np.ndarray) -> np.ndarray:
        """[R, K - 1] nats, from some of the levels."""
        # np.interp wants increasing places.
        at, places = np.log(levels[:-1][::-1]), np.log(few[some][::-1])
        return np.array([weights * np.interp(at, places, gap[some][::-1])[::-1] for gap in gaps])

    found = spent(np.arange(len(few)))
    totals = found.sum(axis=1)
    error = float(np.std(totals, ddof=1)) / math.sqrt(len(totals))
    if effort.is_capped:
        error = math.hypot(error, np.mean(spent(_every_other(len(few))).sum(axis=1) - totals))
    return found.mean(axis=0), error


def _squared_gap(
    exact: Denoiser, used: Denoiser, _: Array, z: Array, sigma: Array
) -> Float[Array, " b"]:
    gap = exact(z, sigma).mean - used(z, sigma).mean
    return jnp.sum(gap.reshape(len(z), -1) ** 2, axis=1)


def _picard(dim: int, levels: np.ndarray, blocks: Sequence[Mapping[str, float]]) -> Term:
    """½ Σ E‖Δ‖² / c² over steps whose states were accepted after they still changed by Δ.

    Each is charged the largest change that was accepted in its block, so that this is an estimate
    from above.
    """
    if not blocks:
        return Term(PICARD, 0.0, 0.0, "none: the steps were made one after the other")
    residual = np.concatenate([np.full(int(b["rows"]), b["residual"]) for b in blocks])
    rho, rho_next = levels[:-1] ** 2, levels[1:] ** 2
    noise = rho_next / rho * (rho - rho_next)
    change = dim * residual[: len(noise)] ** 2 * (1 + rho_next)
    statement = "from the largest accepted change of each block: an estimate from above"
    steps = change / noise / 2
    return Term(PICARD, float(steps.sum()), 0.0, statement, steps=steps)
