"""The account of a run: how often the denoiser was asked, and how often in turn."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from gdiff.sampler.base import Plan
from gdiff.sampler.drivers.sequential import Account

# Numbers of `summary` that stand for the whole run.
TOTALS = ("denoiser_evaluations", "rounds", "speedup_in_rounds", "clip_rate")


def summary(plan: Plan, accounts: Sequence[Account]) -> dict[str, Any]:
    """Numbers for run.json, from the accounts of all batches.

    Args:
        plan: of the run.
        accounts: of each batch, as the engines give them, with `seconds`.

    Returns:
        sampling_seconds; denoiser_evaluations, for one sample on average; rounds, which is how
        many of them are made one after the other when all samples run together; for parallel
        sampling speedup_in_rounds, over sequential sampling, and blocks, one by one;
        clip_rate for methods with a bounded part.
    """
    seconds = float(sum(account["seconds"] for account in accounts))
    columns = {
        name: np.concatenate([account[name] for account in accounts])
        for name in ("clip_rate", "sweeps", "evaluations", "residual", "unconverged")
        if name in accounts[0]
    }
    found: dict[str, Any] = {"sampling_seconds": seconds}
    if "clip_rate" in columns:
        found["clip_rate"] = float(columns["clip_rate"].mean())
    total = plan.steps.evaluations
    if "sweeps" not in columns:
        return found | {"denoiser_evaluations": total, "rounds": total}
    rounds = int(columns["sweeps"].max(axis=0).sum())
    blocks = [
        {
            "rows": stop - start,
            "sigma": float(plan.steps.sigma[start]),
            "sweeps": int(columns["sweeps"][:, k].max()),
            "residual": float(columns["residual"][:, k].max()),
            "samples_step_by_step": int(columns["unconverged"][:, k].sum()),
        }
        for k, (start, stop) in enumerate(pairwise((0, *plan.ends)))
    ]
    return found | {
        "denoiser_evaluations": float(columns["evaluations"].mean()),
        "rounds": rounds,
        "speedup_in_rounds": total / rounds,
        "blocks": blocks,
    }
