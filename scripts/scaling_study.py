"""How rounds grow with the dimension, and errors fall with evaluations of the denoiser.

    python scripts/scaling_study.py [--folder DIR] [--data-dir DIR]

The first study writes rounds.csv and rounds.png. The target has d independent coordinates, each a
mixture of two Gaussians (so 2^d components in all), and the exact denoiser. An error budget that
does not grow with d then asks for more steps as d grows. The grid is PIADM's (arXiv 2405.15986):
blocks of at most one unit of time of the Ornstein–Uhlenbeck process. The budget has three parts:

- start: KL(p_T ‖ N(0, I)) of all coordinates, which decides how long the process is;
- discretisation, which decides how many steps there are. Three measures of it:
  - SDE, path: KL between the laws of the whole paths, with and without frozen scores. This is what
    the theory bounds, and it is linear in d times the step: steps ~ d;
  - SDE, law: KL between the laws at the end alone, which is much smaller: steps ~ √d;
  - ODE: root mean square distance ‖x - x*‖ from the exact flow of the same start: steps ~ √d;
- Picard iteration: root mean square distance ‖x - x'‖ from samples of the sequential engine with
  the same noise, which decides the tolerance.

The first two are found without sampling, by quadrature in one dimension, as coordinates are
independent. One by one every step is a round. In parallel, ParallelEngine counts the sweeps of all
blocks; `rounds` is the mean over samples, each of which converges on its own. With d = 4096 the
first measure takes minutes and 2 GiB.

The second study writes errors.csv and errors.png: the total variation between samples and the exact
law at sigma² = .05, for the mixture .4 N(-1.5, .3²) + .6 N(1, .5²) on a geometric grid from
sigma² = 9. Laws are propagated as densities, without random numbers; the results are right to about
1 %. With --data-dir, a folder of prepared TFDS data sets, samples of MNIST are compared with the
data too, by sliced Wasserstein distance (images.csv), and sweeps.csv has the rounds of Picard and
surrogate sweeps of one block of 200 steps to a tolerance of .01, against the number of images and
of their pixels, with fitted exponents. That takes an hour.

`gdiff plot DIR rounds` and `gdiff plot DIR errors` draw the figures again, as PDF, SVG or PNG.
"""

import argparse
import math
import sys
from bisect import bisect_left
from dataclasses import replace
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import sweeps
from densities import Line, Mixture, follow, moved
from jax.sharding import NamedSharding, PartitionSpec
from scipy.interpolate import CubicSpline
from scipy.optimize import brentq
from scipy.special import ndtri

from gdiff import config, rng
from gdiff.denoiser import Posterior
from gdiff.figures import errors_figure, exponents, rounds_figure
from gdiff.metrics.sliced import sliced_w2_with_null
from gdiff.parallel.mesh import make_mesh
from gdiff.prepared import Prepared
from gdiff.process.ou import OU
from gdiff.sampler.drivers.parallel import ParallelEngine
from gdiff.sampler.drivers.sequential import Engine
from gdiff.sampler.methods.accelerated_ode import AcceleratedODE
from gdiff.sampler.methods.accelerated_sde import AcceleratedSDE
from gdiff.sampler.methods.ancestral import Ancestral
from gdiff.sampler.methods.ddim import DDIM
from gdiff.sampler.methods.ddpm import DDPM
from gdiff.sampler.methods.dpmpp_2m import DPMpp2M
from gdiff.sampler.methods.exponential import Exponential
from gdiff.sampler.methods.heun import Heun
from gdiff.sampler.methods.li_cai import LiCai
from gdiff.sampler.methods.midpoint import Midpoint
from gdiff.sampler.methods.srk import SRK
from gdiff.schedule.piadm import Piadm
from gdiff.store.outputs import write_csv

DIMENSIONS = (4, 16, 64, 256, 1024, 4096)
NUMBERS, MOST_SAMPLES, FEWEST_SAMPLES = 2**13, 64, 2  # coordinates of all samples together
SIGMA_MIN = 0.05**0.5
START_KL = 1e-3  # nats
PICARD_ERROR = 0.2  # length of the difference from sequential samples

EVALUATIONS = (10, 20, 40, 80, 160, 320)
METHODS = {
    "ancestral": Ancestral(),
    "ddpm": DDPM(),
    "exponential_sde": Exponential(stochastic=True),
    "accelerated_sde": AcceleratedSDE(),
    "srk": SRK(),
    "li_cai": LiCai(),
    "midpoint": Midpoint(),
    "ddim": DDIM(),
    "exponential_ode": Exponential(stochastic=False),
    "accelerated_ode": AcceleratedODE(),
    "dpmpp_2m": DPMpp2M(),
    "heun": Heun(),
}
TWO_STAGES = ("li_cai", "midpoint", "heun")
IMAGE_STEPS, IMAGE_SAMPLES, PROJECTIONS = (5, 10, 20, 40), 512, 256

SIZES, RESOLUTIONS, SWEEP_STEPS, SWEEP_SAMPLES = (1000, 4000, 16000, 60000), (7, 14, 28), 200, 8

ROUNDS = ("measure", "dim", "sigma_max", "budget", "error", "blocks", "steps", "rounds")
ROUNDS = (*ROUNDS, "rounds_max", "picard_error")
ERRORS = ("method", "steps", "evaluations", "total_variation")
SWEEPS = ("method", "sweep", "rows", "dim", "rounds", "rounds_max", "evaluations")
IMAGES = ("method", "steps", "evaluations", "sliced_w2", "sliced_w2_null")

LAW = Mixture([0.4, 0.6], [-1.5, 1.0], [0.3, 0.5])


class Product(eqx.Module):
    """The denoiser of a law with independent coordinates, all distributed like `LAW`."""

    weights: jax.Array
    means: jax.Array
    variances: jax.Array

    def __call__(self, z, sigma):
        """Posterior of points [b, d] at levels [b]."""
        z, level = z[..., None], sigma[:, None, None] ** 2
        variance = self.variances + level
        logits = jnp.log(self.weights / jnp.sqrt(variance)) - (z - self.means) ** 2 / (2 * variance)
        means = (self.variances * z + level * self.means) / variance
        return Posterior(mean=jnp.sum(jax.nn.softmax(logits, axis=-1) * means, axis=-1))


def product(law):
    return Product(jnp.array(law.weights), jnp.array(law.means), jnp.array(law.deviations**2))


def start_divergence(law, sigma):
    """KL(p_T ‖ N(0, 1)) of a coordinate of z / √(1 + sigma²)."""
    line = Line()
    found = line.law(law, sigma, np.hypot(1, sigma))
    return line.divergence(found, np.exp(-0.5 * line.y**2) / np.sqrt(2 * np.pi))


def path_divergence(law, grid):
    """KL between the paths of the reversed process and of Exponential's SDE, of a coordinate.

    In the clock ρ = sigma² noise has unit variance, and a step freezes the score of z / √(1 + ρ):
    the drift is √((1 + ρ_k) / (1 + ρ)) s_k. Along the reversed process the score s is a
    martingale, so Girsanov's theorem gives, with J = E s² and c the square root,

        KL = ½ Σ_k ∫ E (s - c s_k)² dρ = ½ Σ_k ∫ J(ρ) - J(ρ_k) + (1 - c)² J(ρ_k) dρ.
    """
    rho = grid**2
    log_rho = np.linspace(np.log(rho[-1]), np.log(rho[0]), 400)
    information = np.array([law.information(sigma) for sigma in np.exp(log_rho / 2)])
    spline = CubicSpline(log_rho, information)
    integral = CubicSpline(log_rho, information * np.exp(log_rho)).antiderivative()
    h, left = rho[:-1] - rho[1:], spline(np.log(rho[:-1]))
    ratio = (1 + rho[1:]) / (1 + rho[:-1])
    # ∫ (1 - c)² dρ = h - 4 (1 + ρ_k) (1 - √ratio) - (1 + ρ_k) log ratio
    bend = h - (1 + rho[:-1]) * (4 * (1 - np.sqrt(ratio)) + np.log(ratio))
    return 0.5 * np.sum(-np.diff(integral(np.log(rho))) + left * (bend - h))


def law_divergence(law, grid):
    """KL between the exact law at the end and that of Exponential's SDE, of a coordinate."""
    line, scale = Line(points=2**11), np.hypot(1, grid)
    found = follow(line, law, Exponential(stochastic=True).table(grid), scale)
    return line.divergence(line.law(law, grid[-1], scale[-1]), found)


def flow_error(law, grid, points=4096):
    """Mean square distance of Exponential's ODE from the exact flow, of a coordinate.

    The flow of a line is the one increasing map between its laws: it keeps the mass below.
    """
    z = np.hypot(1, grid[0]) * ndtri((np.arange(points) + 0.5) / points)
    steps = Exponential(stochastic=False).table(grid)
    exact = law.quantile(law.below(z, grid[0]), grid[-1])
    return np.mean((moved(law, steps, 0, len(steps.sigma), z) - exact) ** 2)


# The method, what a coordinate adds to its error, and the budget of all coordinates.
MEASURES = {
    "SDE, path": (Exponential(stochastic=True), path_divergence, 4.0),
    "SDE, law": (Exponential(stochastic=True), law_divergence, 0.02),
    "ODE": (Exponential(stochastic=False), flow_error, 0.01),  # a squared length
}


def horizon(dim):
    """The first noise level: the lowest one at which the standard prior is good enough."""

    def excess(log_sigma):
        return math.log(dim * start_divergence(LAW, math.exp(log_sigma)) / START_KL)

    return math.exp(brentq(excess, math.log(SIGMA_MIN), math.log(300)))


def schedule(sigma_max, inner):
    """PIADM's grid with `inner` steps in each of its blocks but the last."""
    length = OU().time(sigma_max)
    step = float(length / math.ceil(length) / inner)
    return Piadm(
        sigma_max=sigma_max, sigma_min=SIGMA_MIN, to_zero=False, block=max(1.0, step), step=step
    )


def coarsest(error, sigma_max, budget):
    """The fewest inner steps with which the error of the grid keeps to the budget."""

    def is_good(inner):
        return error(schedule(sigma_max, inner).grid(OU())) <= budget

    high = 1
    while not is_good(high):
        high *= 2
    return bisect_left(range(high + 1), True, lo=high // 2 + 1, key=is_good)


def within_budget(measure, dim):
    """PIADM's schedule with as few steps as the budgets allow, and the error of its grid."""
    _, error, budget = MEASURES[measure]
    sigma_max = horizon(dim)
    inner = coarsest(lambda grid: dim * error(LAW, grid), sigma_max, budget)
    found = schedule(sigma_max, inner)
    return found, float(dim * error(LAW, found.grid(OU())))


def rounds_row(measure, dim):
    """One dimension: steps within the budgets, and the rounds that Picard iteration needs."""
    sampler, _, budget = MEASURES[measure]
    piadm, error = within_budget(measure, dim)
    grid, blocks = piadm.grid(OU()), piadm.blocks(OU())
    rounds, gap = parallel(sampler, grid, blocks, dim)
    values = (measure, dim, piadm.sigma_max, budget, error, len(blocks), len(grid) - 1)
    return dict(zip(ROUNDS, (*values, float(rounds.mean()), int(rounds.max()), gap), strict=True))


def parallel(sampler, grid, blocks, dim):
    """Rounds [samples] of Picard iteration with the largest tolerance that keeps to the budget,
    and the root mean square distance of its samples from those of the sequential engine."""
    index = jnp.arange(min(MOST_SAMPLES, max(FEWEST_SAMPLES, NUMBERS // dim)))
    z = rng.normal(rng.sample_keys(0, rng.Role.PRIOR, index), jnp.zeros((len(index), dim)))
    z, keys = z * math.hypot(1, grid[0]), rng.sample_keys(0, rng.Role.STEP, index)
    denoiser, mesh = product(LAW), make_mesh("batch:1")
    z, keys = jax.device_put((z, keys), NamedSharding(mesh, PartitionSpec()))
    exact = Engine(denoiser, sampler.table(grid)).sample(z, keys)
    tolerance, gap = 2 * PICARD_ERROR / math.sqrt(dim), math.inf
    while gap > PICARD_ERROR:
        tolerance *= min(0.5, PICARD_ERROR / gap) if math.isfinite(gap) else 0.5
        options = {"tolerance": tolerance, "block_size": "schedule", "start": "constant"}
        sampler = replace(sampler, **options)
        engine = ParallelEngine(denoiser, sampler.blocks(grid, blocks), sampler, mesh)
        gap = float(jnp.sqrt(jnp.sum((engine.sample(z, keys) - exact) ** 2) / len(z)))
    return engine.account["sweeps"].sum(1), gap


def errors_row(method, evaluations):
    """Total variation of a method on the line with so many evaluations."""
    count = evaluations // 2 if method in TWO_STAGES else evaluations
    grid, line = np.sqrt(np.geomspace(9, 0.05, count + 1)), Line()
    steps, scale = METHODS[method].steps(grid), np.hypot(1, grid)
    assert steps.evaluations == evaluations
    exact = line.law(LAW, grid[-1], scale[-1])
    distance = line.total_variation(follow(line, LAW, steps, scale), exact)
    return dict(zip(ERRORS, (method, count, evaluations, distance), strict=True))


def image_rows(data_dir, score):
    """Sliced W2 of MNIST samples to the data, for every method and number of steps."""
    rows = []
    with config.composer() as composer:
        for method in METHODS:
            for count in IMAGE_STEPS:
                words = ["dataset=mnist", f"dataset.data_dir={data_dir}", f"score={score}"]
                words += [f"num_samples={IMAGE_SAMPLES}", f"batch_size={IMAGE_SAMPLES}"]
                words += [f"sampler={method}", f"schedule.steps={count}"]
                experiment = composer.experiment(words)
                rows.append({"method": method, "steps": count} | images_error(experiment))
                print(*rows[-1].values(), file=sys.stderr, flush=True)
    return rows


def images_error(experiment):
    """The evaluations and the distances of a run."""
    prepared = Prepared(experiment)
    dataset, evaluations = prepared.dataset, prepared.steps.evaluations
    own, null = sliced_w2_with_null(prepared.samples(), dataset, PROJECTIONS, 0, len(dataset))
    return {"evaluations": evaluations} | dict(zip(IMAGES[-2:], (own, null.item()), strict=True))


def sweeps_row(words, method, sweep):
    """Rounds of one block on a data set, and evaluations in multiples of the sequential ones."""
    with config.composer() as composer:
        words = [*words, f"sampler={method}", f"sampler.sweep={sweep}", "sampler.block_size=all"]
        prepared = Prepared(composer.experiment([*words, "sampler.tolerance=0.01"]))
    index = np.arange(prepared.experiment.num_samples)
    account = prepared.batches.draw(index, (), lambda *_: None)[1]
    rounds, evaluations = account["sweeps"].sum(1), account["evaluations"].mean()
    values = (method, sweep, len(prepared.dataset), prepared.dataset.dim, float(rounds.mean()))
    values += (int(rounds.max()), float(evaluations / prepared.steps.evaluations))
    return dict(zip(SWEEPS, values, strict=True))


def sweeps_rows(data_dir):
    """MNIST in parts, and in fewer pixels, by both kinds of sweeps."""
    common = ["dataset=mnist", f"dataset.data_dir={data_dir}", f"num_samples={SWEEP_SAMPLES}"]
    common += [f"schedule.steps={SWEEP_STEPS}"]
    cases = {"rows": [[f"dataset.subset={n}"] for n in SIZES]}
    cases["dim"] = [[f"dataset.subset={SIZES[1]}", f"dataset.resolution={r}"] for r in RESOLUTIONS]
    rows = []
    for method in ("ddim", "ancestral"):
        for sweep in ("picard", "surrogate"):
            for size, changes in cases.items():
                found = []
                for words in changes:
                    found.append(sweeps_row([*common, *words], method, sweep))
                    print(*found[-1].values(), file=sys.stderr, flush=True)
                x, y = (np.log([row[key] for row in found]) for key in (size, "rounds"))
                print(
                    f"{method}, {sweep}: rounds ~ {size}^{np.polyfit(x, y, 1)[0]:.2f}", flush=True
                )
                rows += found
    return rows


def parse(arguments):
    parser = argparse.ArgumentParser(
        description="Rounds against the dimension, and errors against evaluations.",
        epilog="The top of the file says what is measured.",
    )
    parser.add_argument("--folder", type=Path, help="of the tables and plots")
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="TFDS copies, for MNIST")
    parser.add_argument("--score", default="full", help="option of the group score, for MNIST")
    return parser.parse_args(arguments)


def main(arguments=None):
    options = parse(arguments)
    folder = sweeps.folder_of(options, "scaling_study")
    folder.mkdir(parents=True, exist_ok=True)
    errors = [errors_row(method, count) for method in METHODS for count in EVALUATIONS]
    write_csv(folder / "errors.csv", ERRORS, errors)
    (folder / "errors.png").write_bytes(errors_figure(errors))

    rounds = []
    for measure in MEASURES:
        for dim in DIMENSIONS:
            rounds.append(rounds_row(measure, dim))
            row = rounds[-1]
            print(
                f"{measure}, d = {dim}: {row['steps']} steps, {row['rounds']:.4g} rounds",
                flush=True,
            )
            write_csv(folder / "rounds.csv", ROUNDS, rounds)
        power, log_power = exponents(rounds[-len(DIMENSIONS) :])
        print(f"{measure}: steps ~ d^{power:.2f}, rounds ~ (log d)^{log_power:.2f}")
    (folder / "rounds.png").write_bytes(rounds_figure(rounds))

    if options.data_dir is not None:
        images = image_rows(options.data_dir.absolute(), options.score)
        write_csv(folder / "images.csv", IMAGES, images)
        (folder / "errors.png").write_bytes(errors_figure(errors, images))
        write_csv(folder / "sweeps.csv", SWEEPS, sweeps_rows(options.data_dir.absolute()))
    print(folder)
    return 0


if __name__ == "__main__":
    sweeps.end(main)
