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
data too, by sliced Wasserstein distance (images.csv). That takes half an hour.
"""

import argparse
import math
import sys
import time
from dataclasses import replace
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from scipy.interpolate import CubicSpline
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri

from gdiff import config, rng
from gdiff.clock import Clock
from gdiff.denoiser import Posterior
from gdiff.errors import UserError
from gdiff.figures.encode import figure_png
from gdiff.mesh import make_mesh
from gdiff.metrics.sliced import sliced_w2_with_null
from gdiff.outputs import write_csv
from gdiff.process.ou import OU
from gdiff.sampler.accelerated_ode import AcceleratedODE
from gdiff.sampler.accelerated_sde import AcceleratedSDE
from gdiff.sampler.ancestral import Ancestral
from gdiff.sampler.ddim import DDIM
from gdiff.sampler.ddpm import DDPM
from gdiff.sampler.dpmpp_2m import DPMpp2M
from gdiff.sampler.engine import Engine
from gdiff.sampler.exponential import Exponential
from gdiff.sampler.heun import Heun
from gdiff.sampler.li_cai import LiCai
from gdiff.sampler.midpoint import Midpoint
from gdiff.sampler.parallel import ParallelEngine
from gdiff.sampler.srk import SRK
from gdiff.schedule.piadm import Piadm
from gdiff.trajectory import Batches

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

ROUNDS = ("measure", "dim", "sigma_max", "budget", "error", "blocks", "steps", "rounds")
ROUNDS = (*ROUNDS, "rounds_max", "picard_error")
ERRORS = ("method", "steps", "evaluations", "total_variation")
IMAGES = ("method", "steps", "evaluations", "sliced_w2", "sliced_w2_null")


class Mixture:
    """A mixture of Gaussians on the line, at any noise level; float64 on the host."""

    def __init__(self, weights, means, deviations):
        self.weights, self.means, self.deviations = map(np.array, (weights, means, deviations))

    def density(self, z, sigma):
        """[n] of z = x_0 + sigma ε."""
        return self._parts(z, sigma).sum(1)

    def denoise(self, z, sigma):
        """[n] posterior mean of x_0."""
        parts = self._parts(z, sigma) + 1e-300
        gain = self.deviations**2 / (self.deviations**2 + sigma**2)
        return (parts * (gain * z[:, None] + (1 - gain) * self.means)).sum(1) / parts.sum(1)

    def score(self, z, sigma):
        return (self.denoise(z, sigma) - z) / sigma**2

    def below(self, z, sigma):
        """[n] distribution function."""
        deviations = np.hypot(self.deviations, sigma)
        return ndtr((z[:, None] - self.means) / deviations) @ self.weights

    def quantile(self, mass, sigma):
        """[n] where the distribution function has the values `mass`, by bisection."""
        reach = 12 * (np.abs(self.means).max() + self.deviations.max() + sigma)
        low, high = np.full_like(mass, -reach), np.full_like(mass, reach)
        for _ in range(70):
            middle = (low + high) / 2
            is_below = self.below(middle, sigma) < mass
            low, high = np.where(is_below, middle, low), np.where(is_below, high, middle)
        return (low + high) / 2

    def information(self, sigma):
        """Mean square of the score, by quadrature."""
        reach = np.abs(self.means).max() + 9 * np.hypot(self.deviations.max(), sigma)
        z = np.linspace(-reach, reach, 1001)
        return (z[1] - z[0]) * (self.density(z, sigma) @ self.score(z, sigma) ** 2)

    def _parts(self, z, sigma):
        variance = self.deviations**2 + sigma**2
        exponent = -((z[:, None] - self.means) ** 2) / (2 * variance)
        return self.weights * np.exp(exponent) / np.sqrt(2 * np.pi * variance)


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


class Line:
    """Densities of z / √(1 + sigma²) on an equidistant grid, wide enough that they vanish.

    A map is followed by the mass below every point, noise by the Fourier transform.
    """

    def __init__(self, reach=10.0, points=2**12):
        self.y = np.linspace(-reach, reach, points, endpoint=False)
        self.spacing = self.y[1] - self.y[0]
        self._frequency = 2 * np.pi * np.fft.rfftfreq(points, self.spacing)

    def law(self, law, sigma):
        scale = np.hypot(1, sigma)
        return scale * law.density(scale * self.y, sigma)

    def push(self, density, image):
        """Density of the image [n] of every point, which increases along the line."""
        mass = CubicSpline(self.y, density).antiderivative()(self.y)
        found = CubicSpline(image, mass, extrapolate=False).derivative()(self.y)
        return np.nan_to_num(found)

    def blur(self, density, deviation):
        """Density after adding N(0, deviation²)."""
        damping = np.exp(-0.5 * (deviation * self._frequency) ** 2)
        return np.fft.irfft(np.fft.rfft(density) * damping, len(self.y))

    def total_variation(self, p, q):
        return 0.5 * self.spacing * np.abs(p - q).sum()

    def divergence(self, p, q):
        """KL(p ‖ q) = ∫ p log(p/q) - p + q, whose integrand is never negative."""
        is_inside = (p > 1e-14) & (q > 1e-14)
        p, q = p[is_inside], q[is_inside]
        return self.spacing * np.sum(p * np.log(p / q) - p + q)

    def propagate(self, law, grid, steps):
        """Density at the end of a table, from the exact law at the first level of the grid.

        Methods with noise are followed step by step, others, with all their memory, at once.
        """
        density = self.law(law, grid[0])
        ends = steps.ends if steps.is_stochastic else np.array([0, len(steps.sigma)])
        levels = np.hypot(1, grid if steps.is_stochastic else grid[[0, -1]])
        for begin, end, here, there in zip(
            ends[:-1], ends[1:], levels[:-1], levels[1:], strict=True
        ):
            before = np.zeros_like(steps.c[0]) if steps.before is None else steps.before[begin]
            # z' = T(u) + after·ξ, and u = z + before·ξ is where the denoiser is evaluated first.
            after = after_of(steps, begin, end, before)
            slope, nodes = 0.0, np.zeros(1)
            if before @ after:  # after·ξ = slope before·ξ + independent noise
                slope = before @ after / (before @ before)
                nodes = np.linalg.norm(before) * np.linspace(-6, 6, 13)
            else:
                density = self.blur(density, np.linalg.norm(before) / here)
            weights = np.exp(-0.5 * np.linspace(-6, 6, len(nodes)) ** 2) if slope else np.ones(1)
            density = sum(
                weight
                * self.push(density, (moved(steps, begin, end, u, law) + slope * node) / there)
                for weight, node, u in zip(
                    weights / weights.sum(), nodes, here * self.y + nodes[:, None], strict=True
                )
            )
            density = self.blur(density, np.linalg.norm(after - slope * before) / there)
        return density


def after_of(steps, begin, end, before):
    """Weights of a step's noise that come after its last evaluation, see `Line.propagate`."""
    after = -before
    for row in range(begin, end):
        assert row == begin or not np.any(after), "a later evaluation sees noise of its own"
        after = steps.a[row, 0] * after + steps.c[row]
        after[np.abs(after) < 1e-14] = 0
    return after


def moved(steps, begin, end, z, law):
    """Points [n] after some rows of a table without noise, and no memory of earlier rows."""
    states, outputs = [], []

    def dot(a, b):
        return sum(
            weight * value
            for weights, values in ((a[row], states), (b[row], outputs))
            for weight, value in zip(weights, values, strict=False)
        )

    for row in range(begin, end):
        states = [z, *states][: steps.a.shape[1]]
        outputs = [law.denoise(z, steps.sigma[row]), *outputs][: steps.b.shape[1]]
        z = dot(steps.a, steps.b)
        if steps.clip is not None:
            part, bound = dot(*steps.clip[:2]), np.abs(dot(*steps.clip[2:]))
            z = z - part + np.clip(part, -bound, bound)
    return z


def start_divergence(law, sigma):
    """KL(p_T ‖ N(0, 1)) of a coordinate of z / √(1 + sigma²)."""
    line = Line()
    return line.divergence(line.law(law, sigma), np.exp(-0.5 * line.y**2) / np.sqrt(2 * np.pi))


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
    line = Line(points=2**11)
    found = line.propagate(law, grid, Exponential(stochastic=True).table(grid))
    return line.divergence(line.law(law, grid[-1]), found)


def flow_error(law, grid, points=4096):
    """Mean square distance of Exponential's ODE from the exact flow, of a coordinate.

    The flow of a line is the one increasing map between its laws: it keeps the mass below.
    """
    z = np.hypot(1, grid[0]) * ndtri((np.arange(points) + 0.5) / points)
    steps = Exponential(stochastic=False).table(grid)
    exact = law.quantile(law.below(z, grid[0]), grid[-1])
    return np.mean((moved(steps, 0, len(steps.sigma), z, law) - exact) ** 2)


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
    low = high // 2  # is not enough, if there is such a number
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if is_good(middle) else (middle, high)
    return high


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
        engine = ParallelEngine(denoiser, sampler.plan(grid, blocks), sampler, mesh)
        gap = float(jnp.sqrt(jnp.sum((engine.sample(z, keys) - exact) ** 2) / len(z)))
    return engine.account["rounds"].sum(1), gap


def exponents(rows):
    """p of steps ~ d^p, and of rounds ~ (log d)^p, by least squares of the logarithms."""
    dim, steps, rounds = (
        np.array([row[key] for row in rows]) for key in ("dim", "steps", "rounds")
    )
    logs = np.log(dim)
    return np.polyfit(logs, np.log(steps), 1)[0], np.polyfit(np.log(logs), np.log(rounds), 1)[0]


def errors_row(method, evaluations):
    """Total variation of a method on the line with so many evaluations."""
    count = evaluations // 2 if method in TWO_STAGES else evaluations
    grid, line = np.sqrt(np.geomspace(9, 0.05, count + 1)), Line()
    steps = METHODS[method].steps(grid)
    assert steps.evaluations == evaluations
    found = line.propagate(LAW, grid, steps)
    distance = line.total_variation(found, line.law(LAW, grid[-1]))
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
    mesh, dataset, grid = experiment.runtime.start(), experiment.dataset.load(), experiment.grid()
    steps = experiment.plan().steps
    prior = experiment.prior.fit(dataset, float(grid[0]), mesh)
    engine = Engine(experiment.score.fit(dataset, mesh, steps.levels), steps)
    batches = Batches(engine, prior, mesh, experiment.batch_size, experiment.seed, Clock())
    index = np.arange(experiment.num_samples)
    samples = [
        batches.draw(part, (), lambda *_: None)[0]
        for part in np.split(index, index[:: experiment.batch_size][1:])
    ]
    found = sliced_w2_with_null(np.concatenate(samples), dataset, PROJECTIONS, 0, len(dataset))
    return {"evaluations": steps.evaluations} | dict(zip(IMAGES[-2:], found, strict=True))


_COLOURS = {"SDE, path": "#c2255c", "SDE, law": "#e8590c", "ODE": "#1971c2"}
_UNITS = {
    "SDE, path": "KL of paths ≤ {:g} nats",
    "SDE, law": "KL of the end ≤ {:g} nats",
    "ODE": "‖x - x*‖² ≤ {:g}",
}
# Methods with noise are warm, those without are cold; two evaluations have hollow marks.
_STYLES = {
    "ancestral": ("#f08c00", "o"),
    "ddpm": ("#e03131", "s"),
    "exponential_sde": ("#c2255c", "^"),
    "accelerated_sde": ("#862e9c", "D"),
    "srk": ("#845b2b", "v"),
    "li_cai": ("#e03131", "P"),
    "midpoint": ("#862e9c", "X"),
    "ddim": ("#1971c2", "o"),
    "exponential_ode": ("#0c8599", "^"),
    "accelerated_ode": ("#2f9e44", "D"),
    "dpmpp_2m": ("#364fc7", "s"),
    "heun": ("#0c8599", "P"),
}


def new_figure(width, height, count=1):
    """A figure and its axes, both logarithmic."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, count, squeeze=False)[0]
    for each in axes:
        each.set(xscale="log", yscale="log")
        each.grid(which="major", color="#e9ecef", linewidth=0.8)
        each.set_axisbelow(True)
        each.spines[["top", "right"]].set_visible(False)
    return figure, axes


def ticks(axis, values):
    axis.set_ticks(values, [f"{value:g}" for value in values])
    axis.set_ticks([], minor=True)


def rounds_figure(rows):
    """Rounds against the dimension, one by one and in parallel, as PNG bytes."""
    figure, (axes,) = new_figure(8.6, 5.2)
    for measure, colour in _COLOURS.items():
        chosen = [row for row in rows if row["measure"] == measure]
        dim = [row["dim"] for row in chosen]
        power, log_power = exponents(chosen)
        budget = _UNITS[measure].format(chosen[0]["budget"])
        lines = (
            ("steps", f"{measure[:3]} one by one: $d^{{{power:.2f}}}$\n{budget}", "-"),
            ("rounds", f"{measure[:3]} in parallel: $(\\log\\, d)^{{{log_power:.2f}}}$", "--"),
        )
        for key, label, dashes in lines:
            style = {"markerfacecolor": "white" if key == "rounds" else colour, "marker": "o"}
            values = [row[key] for row in chosen]
            axes.plot(dim, values, dashes, color=colour, label=label, markersize=5.5, **style)
    axes.set(xlabel="dimension d", ylabel="rounds: evaluations one after the other")
    ticks(axes.xaxis, sorted({row["dim"] for row in rows}))
    axes.yaxis.set_major_formatter("{x:,.0f}")
    figure.legend(
        loc="outside right center", frameon=False, fontsize=9, labelspacing=0.7, handlelength=3
    )
    return figure_png(figure)


def errors_figure(rows, images):
    """Errors against evaluations as PNG bytes; the second panel only if there are images."""
    panels = [(rows, "total_variation", "total variation, two Gaussians on the line")]
    if images:
        panels.append((images, "sliced_w2", "sliced W2 to the training data, MNIST"))
    figure, all_axes = new_figure(6.8 if not images else 11.5, 5.2, len(panels))
    for axes, (table, key, label) in zip(all_axes, panels, strict=True):
        for method, (colour, marker) in _STYLES.items():
            chosen = [row for row in table if row["method"] == method]
            if chosen:
                axes.plot(
                    [row["evaluations"] for row in chosen],
                    [row[key] for row in chosen],
                    "-" if METHODS[method].table(np.geomspace(3, 1, 4)).is_stochastic else "--",
                    color=colour,
                    marker=marker,
                    markerfacecolor="white" if method in TWO_STAGES else colour,
                    label=method if axes is all_axes[0] else None,
                    markersize=6,
                    linewidth=1.4,
                )
        axes.set(xlabel="evaluations of the denoiser", ylabel=label)
        counts = {row["evaluations"] for row in table if row["method"] not in TWO_STAGES}
        ticks(axes.xaxis, sorted(counts))
    if images:
        null = np.mean([row["sliced_w2_null"] for row in images])
        all_axes[1].yaxis.set_major_formatter("{x:g}")
        all_axes[1].yaxis.set_minor_formatter("{x:g}")
        all_axes[1].axhline(null, color="#343a40", linewidth=1, linestyle=":")
        place = all_axes[1].get_yaxis_transform()
        text = {"transform": place, "va": "bottom", "fontsize": 9}
        all_axes[1].text(0.01, null, "as many data points", **text)
    title = "solid: with noise\nhollow: two evaluations a step"
    figure.legend(
        loc="outside right center", frameon=False, fontsize=9, title=title, title_fontsize=9
    )
    return figure_png(figure)


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
    folder = options.folder or Path("outputs/scaling_study", time.strftime("%Y-%m-%d-%H-%M-%S"))
    folder.mkdir(parents=True, exist_ok=True)
    errors = [errors_row(method, count) for method in METHODS for count in EVALUATIONS]
    write_csv(folder / "errors.csv", ERRORS, errors)
    (folder / "errors.png").write_bytes(errors_figure(errors, []))

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
    print(folder)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        sys.exit(f"error: {error}")
