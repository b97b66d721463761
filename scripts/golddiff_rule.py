"""What the released rule of GoldDiff costs and misses, beside the scores of golddiff_table.py.

For PCA-local the rule weighs, for each query and step, the k nearest of n rows pixel by pixel, as
one dense product [k, d] × [d, d] of their squared differences with the masks. Here are its k, the
time of that product alone, with nothing else around it, and the error of its answers.
"""

import time
from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gdiff.dataset.placed import Placed
from gdiff.score.golddiff import GoldDiff

# Numbers of a product for its time; more rows are in proportion.
_MOST_VALUES = 2**26
_REPEATS = 3


class RuleLevel(NamedTuple):
    """The rule at one noise level.

    Attributes:
        rows: k.
        seconds: of the product for one query.
        error: median over queries of ‖D_rule - D‖ / ‖D‖, D being the mean over all rows, each
            weighed by pixel; None where it was not asked for.
    """

    sigma: float
    rows: int
    seconds: float
    error: float | None = None


def rows_of_rule(rule: GoldDiff, n: int, sigma: float) -> int:
    """k = k_max - (k_max - k_min)(1 - g) with g = sigma / √(1 + sigma²) (arXiv 2602.16498)."""
    g = sigma / np.sqrt(1 + sigma**2)
    return max(1, round(n * (rule.k_max - (rule.k_max - rule.k_min) * (1 - g))))


def seconds_of_product(k: int, d: int) -> float:
    """The best of some repeats of one product [k, d] × [d, d] in float32."""
    some = min(k, max(1, _MOST_VALUES // d))
    left, right = jnp.ones((some, d), jnp.float32), jnp.ones((d, d), jnp.float32)
    product = jax.jit(jnp.matmul)
    jax.block_until_ready(product(left, right))
    taken = []
    for _ in range(_REPEATS):
        start = time.perf_counter()
        jax.block_until_ready(product(left, right))
        taken.append(time.perf_counter() - start)
    return min(taken) * k / some


def errors_of_rule(prepared, rule, z, sigma):
    """Relative errors of the rule for queries z [q, *event] at one level, against all rows: [q]."""
    dataset, spec = prepared.dataset, prepared.experiment.score
    full = prepared.of_all_rows
    wanted = np.asarray(full(jnp.asarray(z), sigma).mean).reshape(len(z), -1)
    k, got = rows_of_rule(rule, len(dataset), sigma), []
    distances = np.concatenate(
        [
            np.square(dataset.rows(part).reshape(len(part), 1, -1) - z.reshape(len(z), -1)).sum(2)
            for part in np.array_split(np.arange(len(dataset)), max(1, len(dataset) // 256))
        ]
    )
    for query, own in zip(z, distances.T, strict=True):
        nearest = np.sort(np.argpartition(own, k - 1)[:k])
        # Of the whole data set, whose masks they share.
        part = replace(dataset.part(nearest), whole=dataset.whole or dataset)
        denoiser = spec.of_all_rows.fit(Placed(part, prepared.mesh), prepared.steps.levels)
        got.append(np.asarray(denoiser(query[None], sigma).mean).ravel())
    return np.linalg.norm(np.stack(got) - wanted, axis=1) / np.linalg.norm(wanted, axis=1)


def of_grid(rule: GoldDiff, n: int, d: int, sigmas) -> list[RuleLevel]:
    """The rule at the noise levels of a run, without errors."""
    levels = [(float(sigma), rows_of_rule(rule, n, float(sigma))) for sigma in sigmas]
    unit = seconds_of_product(max(k for _, k in levels), d) / max(k for _, k in levels)
    return [RuleLevel(sigma, k, k * unit) for sigma, k in levels]
