"""The account of a batch: how often the denoiser was asked, and how often in turn."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from gdiff.sampler.blocks import Blocks

# What a driver counted for each sample of a batch, by name: [b, ...].
Account = dict[str, np.ndarray]
_COLUMNS = (
    *("clip_rate", "sweeps", "evaluations", "residual", "unconverged", "surrogate_seconds"),
)
# Numbers of `summary` that stand for the whole run.
TOTALS = ("denoiser_evaluations", "rounds", "speedup_in_rounds", "clip_rate")


def columns(blocks: Blocks, *, is_parallel: bool) -> dict[str, tuple[type, tuple[int, ...]]]:
    """Type and shape, for one sample, of what the drivers count: see `Account`."""
    found: dict[str, tuple[type, tuple[int, ...]]] = {}
    if blocks.steps.clip is not None:
        found["clip_rate"] = (np.floating, ())
    if is_parallel:
        each = (len(blocks.ends),)
        found |= {"sweeps": (np.integer, each), "evaluations": (np.integer, ())}
        found |= {"residual": (np.floating, each), "unconverged": (np.bool_, each)}
        found["surrogate_seconds"] = (np.floating, ())
    return found


def summary(blocks: Blocks, accounts: Sequence[Account]) -> dict[str, Any]:
    """Numbers for run.json, from the accounts of all batches.

    Args:
        blocks: of the run.
        accounts: of each batch, as the drivers give them, with `seconds`.

    Returns:
        sampling_seconds; denoiser_evaluations, for one sample on average; rounds, which is how
        many of them are made one after the other when all samples run together; for parallel
        sampling speedup_in_rounds, over sequential sampling, surrogate_seconds, which is the part
        of sampling_seconds between evaluations, and numbers of every block; clip_rate for methods
        with a bounded part.
    """
    columns = {
        name: np.concatenate([account[name] for account in accounts])
        for name in _COLUMNS
        if name in accounts[0]
    }
    found: dict[str, Any] = {"sampling_seconds": float(sum(x["seconds"] for x in accounts))}
    if "clip_rate" in columns:
        found["clip_rate"] = float(columns["clip_rate"].mean())
    total = blocks.steps.evaluations
    if "sweeps" not in columns:
        return found | {"denoiser_evaluations": total, "rounds": total}
    rounds = int(columns["sweeps"].max(axis=0).sum())
    return found | {
        "denoiser_evaluations": float(columns["evaluations"].mean()),
        "rounds": rounds,
        "speedup_in_rounds": total / rounds,
        "surrogate_seconds": float(columns["surrogate_seconds"].sum()),
        "blocks": [
            {
                "rows": stop - start,
                "sigma": float(blocks.steps.sigma[start]),
                "sweeps": int(columns["sweeps"][:, k].max()),
                "residual": float(columns["residual"][:, k].max()),
                "samples_step_by_step": int(columns["unconverged"][:, k].sum()),
            }
            for k, (start, stop) in enumerate(pairwise((0, *blocks.ends)))
        ],
    }
