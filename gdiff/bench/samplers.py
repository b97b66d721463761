"""Samplers of diffusers next to ours: the same denoiser, noise levels, start and noise."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from gdiff import rng
from gdiff.bench.harness import compiled, in_turn
from gdiff.dataset.placed import Placed
from gdiff.denoiser import Denoiser
from gdiff.process.ddpm import DDPM
from gdiff.report import processors
from gdiff.sampler.base import SamplerSpec
from gdiff.sampler.drivers.sequential import Engine
from gdiff.sampler.methods.ancestral import Ancestral
from gdiff.sampler.methods.ddim import DDIM
from gdiff.sampler.methods.dpmpp_2m import DPMpp2M
from gdiff.schedule.ddpm import DDPMIndices
from gdiff.score.base import ScoreSpec
from gdiff.trajectory import States

# It divides the 1 000 indices, else schedulers disagree about the index that comes next.
STEPS = 10
_PROCESS = DDPM()  # that of diffusers
_SPACING = "trailing"  # the one that all of its schedulers understand alike


class Pair(NamedTuple):
    """One method of ours and its counterpart.

    Attributes:
        ours: the method.
        scheduler: name of a class of diffusers.
        options: of that class.
        eta: of its step, which then takes our noise; None for a step without noise of ours.
        is_alike: False where the counterpart draws its own noise: other samples of the same law.
    """

    ours: SamplerSpec
    scheduler: str
    options: Mapping[str, Any]
    eta: float | None = None
    is_alike: bool = True


_DDIM = {"clip_sample": False, "set_alpha_to_one": True}
_DPM = {"algorithm_type": "dpmsolver++", "solver_order": 2, "solver_type": "midpoint"}
_DPM |= {"final_sigmas_type": "zero"}
_DDPM = {"clip_sample": False, "variance_type": "fixed_small"}
PAIRS = {
    "DDIM": Pair(DDIM(), "DDIMScheduler", _DDIM),
    "DPM-Solver++(2M)": Pair(DPMpp2M(), "DPMSolverMultistepScheduler", _DPM),
    "ancestral": Pair(Ancestral(), "DDIMScheduler", _DDIM, eta=1.0),
    "ancestral, own noise": Pair(Ancestral(), "DDPMScheduler", _DDPM, is_alike=False),
}


def measure(
    data: Placed, queries: int, spec: ScoreSpec, seed: int, repeats: int
) -> dict[str, dict]:
    """Run every pair from the same draws of x_T ~ N(0, 1), in single precision; for JSON.

    `max_difference` is of any coordinate of x = m z after any step; None where the two draw noise
    of their own.

    Raises:
        ImportError: diffusers or torch is not installed.
    """
    import diffusers  # noqa: F401
    import torch

    torch.set_num_threads(processors())
    grid = DDPMIndices(steps=STEPS, spacing=_SPACING).grid(_PROCESS)
    signal = _PROCESS.signal(grid).astype(np.float32)
    denoiser = spec.fit(data, grid[:-1].tolist())
    shape = (queries, *data.dataset.event_shape)
    x = np.asarray(jax.random.normal(rng.key(seed), shape, jnp.float32))
    z = jnp.asarray(x / signal[0])
    keys = rng.sample_keys(seed, rng.Role.STEP, jnp.arange(len(x)))
    found = {}
    for name, pair in PAIRS.items():
        engine = Engine(denoiser, pair.ours.steps(grid))
        engine.compile(z, keys)
        theirs = _theirs(denoiser, pair, grid, x, keys)
        timed = in_turn({"ours": partial(engine.sample, z, keys), "theirs": theirs}, repeats)
        difference = None
        if pair.is_alike:
            states = States(range(1, len(grid)), len(x))
            engine.sample(z, keys, report=states.add, stops=frozenset(states.stops))
            mine = [m * each for m, each in zip(signal[1:], states.stacked(), strict=True)]
            difference = float(np.abs(np.stack(mine) - timed["theirs"].result).max())
        seconds, scheduler_seconds = timed["ours"].seconds, timed["theirs"].seconds
        found[name] = {
            "scheduler": pair.scheduler,
            "steps": STEPS,
            "seconds": float(np.median(seconds)),
            "scheduler_seconds": float(np.median(scheduler_seconds)),
            "times_slower": float(np.median(scheduler_seconds / seconds)),
            "max_difference": difference,
        }
    return found


def _theirs(
    denoiser: Denoiser, pair: Pair, grid: np.ndarray, x: np.ndarray, keys: Array
) -> Callable[[], list[np.ndarray]]:
    """A run from x_T, which gives x after every step."""
    import diffusers
    import torch

    options = {"prediction_type": "sample", "timestep_spacing": _SPACING}
    scheduler = getattr(diffusers, pair.scheduler)(**options, **pair.options)
    scheduler.set_timesteps(len(grid) - 1)
    indices = scheduler.timesteps.numpy()
    if not np.allclose(_PROCESS.sigma(indices), grid[:-1], rtol=1e-6):
        raise ValueError(f"{pair.scheduler} does not use the same indices: {indices}")
    levels, signal = grid.astype(np.float32), _PROCESS.signal(grid).astype(np.float32)
    mean = compiled(denoiser, jnp.asarray(x))
    extra = [{} for _ in indices]
    if pair.eta is not None:  # drawn before the clock runs, which ours is not
        for k, each in enumerate(extra):
            noise = np.array(rng.normal(rng.at_step(keys, k), x))
            each |= {"eta": pair.eta, "variance_noise": torch.from_numpy(noise)}

    def run() -> list[np.ndarray]:
        scheduler.set_timesteps(len(indices))
        states = [torch.from_numpy(x.copy())]
        for k, index in enumerate(indices.tolist()):
            clean = np.array(mean(jnp.asarray(states[-1].numpy() / signal[k]), levels[k]))
            step = scheduler.step(torch.from_numpy(clean), index, states[-1], **extra[k])
            states.append(step.prev_sample)
        return [state.numpy() for state in states[1:]]

    return run
