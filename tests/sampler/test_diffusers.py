"""Our tables against numbers recorded from diffusers by scripts/compare_diffusers.py."""

import json
from pathlib import Path

import numpy as np
import pytest

from gdiff.process.ddpm import DDPM
from gdiff.sampler.methods.ddim import DDIM
from gdiff.sampler.methods.dpmpp_2m import DPMpp2M
from gdiff.schedule.ddpm import DDPMIndices

from .reference import run

RECORD = json.loads((Path(__file__).parents[1] / "data" / "diffusers.json").read_text())
CASES = {
    "ddim_10": (DDIM(eta=0.0), DDPMIndices(steps=10, spacing="leading")),
    "ddim_20_eta_1": (DDIM(eta=1.0), DDPMIndices(steps=20, spacing="leading")),
    "dpmpp_2m_10": (DPMpp2M(), DDPMIndices(steps=10, spacing="trailing")),
    "dpmpp_2m_50": (DPMpp2M(), DDPMIndices(steps=50, spacing="trailing")),
}


def denoiser(z, sigma):
    """Posterior mean for a Gaussian mixture around the recorded points."""
    points, width = np.array(RECORD["points"]), RECORD["width"]
    logits = -((z[:, None] - points) ** 2).sum(-1) / (2 * (width**2 + sigma**2))
    weights = np.exp(logits - logits.max(1, keepdims=True))
    centre = weights @ points / weights.sum(1, keepdims=True)
    return (width**2 * z + sigma**2 * centre) / (width**2 + sigma**2)


def test_every_recorded_case_is_checked():
    assert set(CASES) == set(RECORD["cases"])


@pytest.mark.parametrize("name", CASES)
def test_samples_agree_with_diffusers(name):
    sampler, schedule = CASES[name]
    case, process = RECORD["cases"][name], DDPM()
    grid = schedule.grid(process)
    start = np.array(RECORD["start"]) / process.signal(grid[0])
    noise = np.array(case["noise"])[:, None] if "noise" in case else None
    samples = run(sampler.steps(grid), denoiser, start, noise)
    # the same formulas in double precision, and the scheduler as it is, in single precision
    assert samples == pytest.approx(np.array(case["samples_double"]), rel=0, abs=1e-12)
    assert samples == pytest.approx(np.array(case["samples_single"]), rel=0, abs=1e-5)
