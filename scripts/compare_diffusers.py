"""Run diffusers' DDIM and DPM-Solver++(2M) next to ours and record the numbers.

    python scripts/compare_diffusers.py [tests/data/diffusers.json]

Needs torch and diffusers, which gdiff itself does not: use an environment of their own, with this
package in it. Both sides start from the same z on the same DDPM indices and use the same float64
denoiser, the exact posterior mean of a Gaussian mixture around a few random points. (That of the
bare points would lead to one of them whatever the sampler did.) diffusers works with x = m z.

Its schedulers compute in single precision. They are run twice: as they are ("single"), and with
single precision switched to double, where nothing but the formulas is compared ("double").
"""

import contextlib
import json
import platform
import sys
from pathlib import Path
from unittest import mock

import numpy as np

try:
    import diffusers
    import torch
except ImportError as missing:
    sys.exit(f"error: {missing.name} is not installed: pip install -e '.[bench]'")

from gdiff.bench.samplers import PAIRS
from gdiff.process.ddpm import DDPM
from gdiff.sampler.methods.ddim import DDIM
from gdiff.sampler.methods.dpmpp_2m import DPMpp2M
from gdiff.schedule.ddpm import DDPMIndices

SEED = 20240229
POINTS, SAMPLES, DIM = 48, 6, 4
WIDTH = 0.4  # standard deviation of a component of the mixture
PROCESS = DDPM()
CASES = {
    "ddim_10": (DDIM(eta=0.0), DDPMIndices(steps=10, spacing="leading")),
    "ddim_20_eta_1": (DDIM(eta=1.0), DDPMIndices(steps=20, spacing="leading")),
    "dpmpp_2m_10": (DPMpp2M(), DDPMIndices(steps=10, spacing="trailing")),
    "dpmpp_2m_50": (DPMpp2M(), DDPMIndices(steps=50, spacing="trailing")),
}


def posterior_mean(points, z, sigma):
    """E[x_0 | z = x_0 + sigma ε] for the mixture of N(point, WIDTH²); z [n, dim]."""
    variance = WIDTH**2 + sigma**2
    logits = -np.square(z[:, None] - points).sum(-1) / (2 * variance)
    weights = np.exp(logits - logits.max(1, keepdims=True))
    centre = weights @ points / weights.sum(1, keepdims=True)
    return (WIDTH**2 * z + sigma**2 * centre) / variance


def ours(sampler, grid, points, z, noise):
    """Final samples of our table on a grid."""
    steps = sampler.steps(grid)
    history = []
    for k, sigma in enumerate(steps.sigma):
        history = [posterior_mean(points, z, sigma), *history][: steps.b.shape[1]]
        z = steps.a[k] * z + steps.c[k] * noise[k]
        z = z + sum(b * d for b, d in zip(steps.b[k], history, strict=False))
    return z


def theirs(sampler, spacing, grid, points, z, noise, double):
    """Final samples of diffusers' scheduler on the DDPM indices of a grid."""
    count = len(grid) - 1
    with contextlib.ExitStack() as stack:
        if double:
            stack.enter_context(mock.patch.object(torch, "float32", torch.float64))
            stack.enter_context(mock.patch.object(np, "float32", np.float64))
        pair = PAIRS["DDIM" if isinstance(sampler, DDIM) else "DPM-Solver++(2M)"]
        options = {"prediction_type": "sample", "timestep_spacing": spacing}
        scheduler = getattr(diffusers, pair.scheduler)(**options, **pair.options)
        scheduler.set_timesteps(count)
        indices = scheduler.timesteps.numpy()
        if not np.allclose(PROCESS.sigma(indices), grid[:-1], rtol=1e-9):
            raise SystemExit(f"the two sides do not use the same indices: {indices}")
        x = torch.from_numpy(z * PROCESS.signal(grid[0]))
        for k, index in enumerate(indices):
            sigma = grid[k]
            mean = posterior_mean(points, x.numpy() / PROCESS.signal(sigma), sigma)
            options = {}
            if isinstance(sampler, DDIM):
                options = {"eta": sampler.eta, "variance_noise": torch.from_numpy(noise[k])}
            step = scheduler.step(torch.from_numpy(mean), int(index), x, **options)
            x = step.prev_sample
    return x.numpy()


def record():
    """The problem, the final samples of both sides and their largest difference."""
    rng = np.random.default_rng(SEED)
    points = np.round(rng.standard_normal((POINTS, DIM)), 4)
    start = np.round(rng.standard_normal((SAMPLES, DIM)), 4)
    cases = {}
    for name, (sampler, schedule) in CASES.items():
        grid = schedule.grid(PROCESS)
        z = start / PROCESS.signal(grid[0])
        noise = np.zeros((schedule.steps, SAMPLES, DIM))
        if name.endswith("eta_1"):
            noise = np.round(rng.standard_normal(noise.shape), 2)
        mine = ours(sampler, grid, points, z, noise)
        problem = (schedule.spacing, grid, points, z, noise)
        single, double = (theirs(sampler, *problem, is_double) for is_double in (False, True))
        cases[name] = {
            "max_difference_single": float(np.abs(mine - single).max()),
            "max_difference_double": float(np.abs(mine - double).max()),
            "samples_single": single.tolist(),
            "samples_double": double.tolist(),
        }
        if np.any(noise):
            cases[name]["noise"] = noise.tolist()
    return {
        "script": "scripts/compare_diffusers.py",
        "versions": {
            "python": platform.python_version(),
            "numpy": np.__version__,
            "torch": torch.__version__,
            "diffusers": diffusers.__version__,
        },
        "seed": SEED,
        "width": WIDTH,
        "points": points.tolist(),
        "start": start.tolist(),
        "cases": cases,
    }


if __name__ == "__main__":
    path = Path(sys.argv[1] if len(sys.argv) > 1 else "tests/data/diffusers.json")
    result = record()
    path.write_text(json.dumps(result) + "\n")
    print(result["versions"])
    for case, numbers in result["cases"].items():
        single, double = numbers["max_difference_single"], numbers["max_difference_double"]
        print(f"{case:16s} largest difference: single {single:.1e}, double {double:.1e}")
