"""The straight line from a configuration to samples, pictures and numbers."""

import resource
import sys
from dataclasses import dataclass
from functools import cached_property, partial
from importlib.metadata import version

import jax
import numpy as np
from jax.sharding import Mesh

from gdiff import __version__, figures
from gdiff import metrics as metrics_of
from gdiff.budget.initialization import shortest
from gdiff.budget.losses import measure
from gdiff.budget.terms import METRICS as BUDGETS
from gdiff.budget.terms import budget
from gdiff.clock import Clock
from gdiff.dataset import Dataset, DatasetSpec
from gdiff.denoiser import Denoiser
from gdiff.errors import UserError, require, require_one_of
from gdiff.kernels import streamed
from gdiff.metrics import DISTANCES, SCORE_ERRORS, MetricsSpec
from gdiff.metrics.chunks import evenly
from gdiff.metrics.score_error import CURVE, affordable_queries, score_errors
from gdiff.parallel import processes
from gdiff.prior.base import PriorSpec
from gdiff.process.base import ProcessSpec
from gdiff.progress import Progress, track
from gdiff.runtime import Runtime
from gdiff.sampler.base import Plan, SamplerSpec
from gdiff.sampler.drivers.account import TOTALS, summary
from gdiff.sampler.drivers.parallel import ParallelEngine
from gdiff.sampler.drivers.sequential import Engine
from gdiff.sampler.steps import Steps
from gdiff.schedule.base import AUTO, ScheduleSpec
from gdiff.schedule.losses import LossCurve
from gdiff.score.base import ScoreSpec
from gdiff.score.wiener import Wiener
from gdiff.store import outputs
from gdiff.store.outputs import METRICS, RUN, SAMPLES, RunFolder
from gdiff.trajectory import Batches, Queries, States

GRID, TRAJECTORY = "grid.png", "trajectory.gif"
QUERIES, ERROR_CURVE, ERROR_PLOT = "queries.npz", "score_error.csv", "score_error.png"
BUDGET, BUDGET_PLOT = "budget.json", "budget.png"
_TRAJECTORY_FRAMES, _QUERY_LEVELS = 40, 16
# Principal directions of the first guess of a parallel run: it need not be exact, but quick.
_GUESS_RANK = 256
_MEASURING = ("metrics", "score error", "budget")  # phases
# What metrics.json may hold besides the comparisons with the data: the account of the run.
ACCOUNT = ("seconds_per_sample", *TOTALS)


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """All that determines a run.

    Attributes:
        dataset, process, score, schedule, prior, sampler, metrics, runtime: the parts.
        num_samples: how many samples.
        batch_size: how many at a time; samples do not depend on it.
        seed: of all randomness of the run, 0 … 2³² - 1.
        trajectory: also write trajectory.gif.
        picture_samples: images shown in the pictures; plots of points show all, but in motion.
        objective: name of the metric that a sweep should minimise.
    """

    dataset: DatasetSpec
    process: ProcessSpec
    score: ScoreSpec
    schedule: ScheduleSpec
    prior: PriorSpec
    sampler: SamplerSpec
    metrics: MetricsSpec
    runtime: Runtime
    num_samples: int = 64
    batch_size: int = 64
    seed: int = 0
    trajectory: bool = False
    picture_samples: int = 64
    objective: str | None = None

    def __post_init__(self) -> None:
        for key in ("num_samples", "batch_size", "picture_samples"):
            value = getattr(self, key)
            require(value >= 1, f"{key}={value} must be at least 1")
        if self.objective is not None:
            distances = DISTANCES if self.metrics.enabled else ()
            errors = SCORE_ERRORS if self.measures_score else ()
            nats = BUDGETS if self.metrics.has_budget else ()
            require_one_of("objective", self.objective, [*ACCOUNT, *distances, *errors, *nats])
        require(0 <= self.seed < 2**32, f"seed={self.seed} must be between 0 and 2^32 - 1")
        self.plan()

    @property
    def measures_score(self) -> bool:
        """Whether the score is compared with the exact one."""
        return self.metrics.measures_score(is_exact=self.score.is_exact)

    def grid(self) -> np.ndarray:
        """Noise levels of the run: [steps + 1], decreasing.

        Where the schedule follows the data, this is a stand-in with as many levels.
        """
        return self.schedule.grid(self.process)

    def plan(self) -> Plan:
        """The sampler's table on these levels, cut into blocks."""
        return self.sampler.plan(self.grid(), self.schedule.blocks(self.process))

    def fitted_schedule(self, dataset: Dataset, mesh: Mesh, clock: Clock) -> ScheduleSpec:
        """The schedule for these data, where it follows them.

        Raises:
            UserError: no horizon meets the tolerance, or the loss cannot be had.
        """
        spec = self.schedule
        if spec.horizon == AUTO:
            ends = (spec.sigma_max, spec.sigma_min)
            with clock.phase("horizon"):
                spec = spec.starting_at(
                    shortest(dataset, mesh, self.prior, spec.horizon_tolerance, ends)
                )
        if spec.needs_losses:
            ends = (spec.first_level(self.process), spec.sigma_min)
            with clock.phase("losses"):
                spec = spec.adapted(self.losses(dataset, mesh, ends), self.process)
        return spec

    def losses(self, dataset: Dataset, mesh: Mesh, ends: tuple[float, float]) -> LossCurve:
        """The denoising loss between two noise levels: measured, or read from the user's file.

        Raises:
            UserError: the file cannot be read, or the data set has no points held out.
        """
        spec = self.schedule
        if spec.loss_file is not None:
            return LossCurve.read(spec.loss_file, spec.loss_type)
        test = self.dataset.held_out().load() if spec.loss_on == "test" else None
        return measure(self.score, dataset, mesh, ends, samples=spec.loss_samples, test=test)


def run(experiment: Experiment, folder: RunFolder) -> dict[str, float]:
    """Run an experiment, or what is left of it, in a run folder.

    Of several processes all run the experiment of the first, and that one alone looks at the
    samples as a whole.

    Returns:
        The metrics, as in metrics.json.

    Raises:
        UserError: the data cannot be had, or are not those that the run began with, or the
            numbers of the schedule are beyond the arithmetic.
    """
    experiment = processes.broadcast(lambda: experiment)
    streamed.rest()  # those of earlier runs of a sweep
    before = folder.read_json(RUN)
    results = [SAMPLES, METRICS, GRID]
    if experiment.measures_score:
        results += [ERROR_CURVE, ERROR_PLOT]
    if experiment.metrics.has_budget:
        results += [BUDGET, BUDGET_PLOT]
    if before.get("status") == "complete" and all(map(folder.has, results)):
        return folder.read_json(METRICS)
    clock = Clock()
    mesh = experiment.runtime.start()
    with clock.phase("dataset"):
        dataset = experiment.dataset.load()
    record = _record(experiment, dataset, mesh, before)
    folder.write_json(RUN, record)
    job = _Job(experiment, folder, mesh, dataset, clock)
    record["sigma"] = job.grid.tolist()
    folder.write_json(RUN, record)
    if not (folder.has(SAMPLES) and "rounds" in record):
        record |= job.sample()
        # In this order, so that a run with samples always has the account of them.
        folder.write_json(RUN, record)
        folder.gather_chunks(record["chunks"])
    metrics = {"seconds_per_sample": record["sampling_seconds"] / experiment.num_samples}
    metrics |= {name: record[name] for name in ACCOUNT if name in record}
    samples = folder.samples() if processes.is_first() else None
    if samples is not None:
        with processes.first_only(), clock.phase("picture"):
            # Points of a scatter plot take no room.
            shown = samples[: experiment.picture_samples] if dataset.is_image else samples
            folder.write_bytes(GRID, figures.picture(shown, dataset, experiment.picture_samples))
    # Of the run itself: comparing it with the data takes memory of its own.
    record["peak_memory_bytes"] = _peak_memory()
    metrics |= job.measure(samples)
    folder.write_json(METRICS, metrics)
    record |= {"status": "complete", "seconds": record["seconds"] | clock.seconds}
    folder.write_json(RUN, record)
    return metrics


def evaluate(experiment: Experiment, folder: RunFolder) -> dict[str, float]:
    """Compute the metrics of a finished run again, with the options that `experiment` has now.

    Returns:
        The metrics computed, which take their places in metrics.json.

    Raises:
        UserError: there are no samples, or the data are not those of the run.
    """
    mesh = experiment.runtime.start()
    samples = folder.samples()
    dataset = experiment.dataset.load()
    record = folder.read_json(RUN)
    if record.get("dataset", {}).get("fingerprint") != dataset.fingerprint():
        raise UserError(
            f"the data set {dataset.name} is not the one that {folder.path} was made with (see "
            f"{RUN}): restore it"
        )
    clock = Clock()
    metrics = _Job(experiment, folder, mesh, dataset, clock).measure(samples)
    folder.write_json(METRICS, folder.read_json(METRICS) | metrics)
    # The other phases stay those of the run.
    latest = {name: seconds for name, seconds in clock.seconds.items() if name in _MEASURING}
    folder.write_json(RUN, record | {"seconds": record.get("seconds", {}) | latest})
    return metrics


def _record(experiment: Experiment, dataset: Dataset, mesh: Mesh, before: dict) -> dict:
    """The start of run.json; `before` is what an interrupted run wrote there."""
    fingerprint = dataset.fingerprint()
    if before.get("dataset", {}).get("fingerprint", fingerprint) != fingerprint:
        raise UserError(
            f"the data set {dataset.name} has changed since this run began: start a new run"
        )
    packages = ("jax", "jaxlib", "numpy", "hydra-core", "equinox")
    return (
        {"sampling_seconds": 0.0, "seconds": {}}
        | {key: value for key, value in before.items() if key != "error"}
        | {
            "status": "running",
            "dataset": {
                "name": dataset.name,
                "points": len(dataset),
                "event_shape": list(dataset.event_shape),
                "fingerprint": fingerprint,
            },
            "versions": {"gdiff": __version__, "python": sys.version.split()[0]}
            | {name: version(name) for name in packages},
            "devices": [str(device) for device in mesh.devices.flat],
            "mesh": dict(mesh.shape),
        }
    )


@dataclass
class _Job:
    """An experiment at work in its folder; parts are fitted to the data when first needed."""

    experiment: Experiment
    folder: RunFolder
    mesh: Mesh
    dataset: Dataset
    clock: Clock

    @cached_property
    def grid(self) -> np.ndarray:
        """Noise levels of the run: those that an interrupted run began with, if there was one."""
        known = self.folder.read_json(RUN).get("sigma")
        if known is not None:
            return np.array(known)
        schedule = self.experiment.fitted_schedule(self.dataset, self.mesh, self.clock)
        return schedule.grid(self.experiment.process)

    @cached_property
    def plan(self) -> Plan:
        """The method's table on these levels, and its blocks."""
        schedule = self.experiment.schedule
        if schedule.horizon == AUTO:
            schedule = schedule.starting_at(float(self.grid[0]))
        return self.experiment.sampler.plan(self.grid, schedule.blocks(self.experiment.process))

    @property
    def steps(self) -> Steps:
        """The table alone."""
        return self.plan.steps

    @property
    def batch(self) -> int:
        """Samples in a whole batch."""
        return min(self.experiment.batch_size, self.experiment.num_samples)

    @cached_property
    def denoiser(self) -> Denoiser:
        """The score's, fitted."""
        with self.clock.phase("fit"):
            return self.experiment.score.fit(self.dataset, self.mesh, self.steps.levels)

    @cached_property
    def batches(self) -> Batches:
        """What draws the samples."""
        with self.clock.phase("fit"):
            engine = self._engine()
            prior = self.experiment.prior.fit(self.dataset, float(self.grid[0]), self.mesh)
        return Batches(engine, prior, self.mesh, self.batch, self.experiment.seed, self.clock)

    def _engine(self) -> Engine | ParallelEngine:
        """Sequential for blocks of one step, and else parallel."""
        sampler = self.experiment.sampler
        if sampler.block_size == 1:
            return Engine(self.denoiser, self.steps)
        guess = None
        if sampler.start == "wiener":
            guess = Wiener(rank=_GUESS_RANK).fit(self.dataset, self.mesh)
        return ParallelEngine(self.denoiser, self.plan, sampler, self.mesh, guess)

    def sample(self) -> dict:
        """Draw every batch that is not on disk yet; returns the account of all."""
        batches, count = self.batches, self.experiment.num_samples
        accounts, first = [], 0
        with track("sampling", self._steps_before(count), "steps") as progress:
            while first < count:
                number = len(accounts)
                chunk = self.folder.chunk(number)
                # One that begins elsewhere is of another batch size.
                is_done = chunk is not None and chunk["index"][0] == first
                if not is_done:
                    chunk = self._draw(batches, first, progress)
                    self.folder.write_chunk(number, **chunk)
                accounts.append({k: v for k, v in chunk.items() if k not in ("samples", "index")})
                first += len(chunk["index"])
                progress.reach(self._steps_before(first), skipped=is_done)
        return {"chunks": len(accounts)} | summary(self.plan, accounts)

    def _steps_before(self, first: int) -> int:
        """How many steps the samples before number `first` take in whole batches.

        Counted from the end: batches that are done may be of another size.
        """
        count = self.experiment.num_samples
        left = -(-(count - first) // self.batch)
        return (-(-count // self.batch) - left) * self.steps.count

    def _draw(self, batches: Batches, first: int, progress: Progress) -> dict[str, np.ndarray]:
        """The batch from sample `first` on, as a chunk; what sample 0 shows is written."""
        before = self._steps_before(first)
        index = np.arange(first, min(first + self.batch, self.experiment.num_samples))
        movie, queries = self._movie(), self._queries()
        states = [each for each in (movie, queries) if each.stops and first == 0]

        def report(done: int, note: str) -> None:
            progress.reach(before + done, note)

        samples, account = batches.draw(index, states, report)
        if movie in states:
            with self.clock.phase("trajectory"):
                frames, sigma = movie.stacked(), self.grid[movie.stops]
                gif = figures.trajectory_gif(frames, self.dataset, sigma, movie.count)
                self.folder.write_bytes(TRAJECTORY, gif)
        if queries in states:
            found = Queries(queries.stacked(), self.grid[queries.stops])
            self.folder.write_bytes(QUERIES, found.to_bytes())
        return {"samples": samples, "index": index} | account

    def _movie(self) -> States:
        """Collects the frames of trajectory.gif, if it is wanted."""
        is_wanted = self.experiment.trajectory
        frames = evenly(len(self.grid), _TRAJECTORY_FRAMES) if is_wanted else []
        return States(frames, min(self.experiment.picture_samples, self.batch))

    def _queries(self) -> States:
        """Collects the states that the denoiser is asked about, if it is to be measured."""
        is_wanted = self.experiment.measures_score
        levels = evenly(len(self.grid) - 1, _QUERY_LEVELS) if is_wanted else []
        affordable = affordable_queries(self.dataset, max(1, len(levels)))
        asked = self.experiment.metrics.score_queries
        return States(levels, min(asked, affordable, self.batch))

    def measure(self, samples: np.ndarray | None) -> dict[str, float]:
        """The metrics of the samples and of the score, as far as they are wanted.

        What takes the devices of all processes comes first: the others, which have no samples,
        are free then.
        """
        found = {}
        if self.experiment.measures_score:
            found |= self._measure_score()
        if self.experiment.metrics.has_budget:
            found |= self._account()
        if samples is None:
            return found
        with processes.first_only(), self.clock.phase("metrics"):
            return metrics_of.compute(self.experiment.metrics, samples, self.dataset) | found

    def _account(self) -> dict[str, float]:
        """The budget in nats; writes its file and plot."""
        experiment = self.experiment
        denoiser = None if experiment.score.is_exact else self.denoiser
        blocks = self.folder.read_json(RUN).get("blocks", ())
        with self.clock.phase("budget"):
            found = budget(
                *(self.dataset, self.mesh, self.grid, self.plan, experiment.prior),
                *(experiment.score, denoiser, blocks),
            )
            self.folder.write_json(BUDGET, found.to_json())
            self.folder.write_bytes(BUDGET_PLOT, figures.budget_figure(found.terms, found.dim))
        return found.metrics()

    def _measure_score(self) -> dict[str, float]:
        """Compare the denoiser with the exact score at the queries; writes curve and plot."""
        wanted = self._queries().count
        read = partial(processes.broadcast, partial(Queries.read, self.folder.path / QUERIES))
        queries = read()
        if queries is None or queries.z.shape[1] < wanted:
            # Those of a finished run are the same ones again.
            batches = self.batches
            with track("sampling the first batch again", self.steps.count, "steps") as progress:
                self._draw(batches, 0, progress)
            queries = read()
        z, denoiser = queries.z[:, :wanted], self.denoiser
        with self.clock.phase("score error"):
            answers = queries._replace(z=z).ask(denoiser, self.mesh)
        if not processes.is_first():
            return {}
        with processes.first_only(), self.clock.phase("score error"):
            errors = score_errors(self.dataset, z, queries.sigma, answers)
            curve = errors.curve()
            outputs.write_csv(self.folder.path / ERROR_CURVE, CURVE, curve)
            self.folder.write_bytes(ERROR_PLOT, figures.score_error(curve, len(self.dataset)))
        return errors.metrics()


def _peak_memory() -> dict[str, int]:
    """Largest memory of this process, and of each device that keeps count, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    peak = {"host": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
    for device in jax.local_devices():
        stats = device.memory_stats() or {}
        if "peak_bytes_in_use" in stats:
            peak[str(device)] = stats["peak_bytes_in_use"]
    return peak
