"""An experiment, and its parts fitted to the data: where every command and notebook begins."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property

import jax
import numpy as np
from jax.sharding import Mesh

from gdiff import memory
from gdiff.budget.forecast import GaussianForecast
from gdiff.budget.initialization import shortest
from gdiff.budget.losses import measure
from gdiff.budget.spectrum import Spectrum
from gdiff.clock import Clock
from gdiff.dataset import Dataset
from gdiff.dataset.base import class_numbers
from gdiff.dataset.placed import Placed
from gdiff.denoiser import Denoiser, headed
from gdiff.errors import require
from gdiff.experiment import EACH, Experiment
from gdiff.kernels.streamed import AUTO as ANYWHERE
from gdiff.prior.base import Prior
from gdiff.sampler.blocks import Blocks
from gdiff.sampler.drivers import driver
from gdiff.sampler.drivers.account import TOTALS
from gdiff.sampler.steps import Steps
from gdiff.schedule.base import AUTO, ScheduleSpec
from gdiff.schedule.losses import LossCurve
from gdiff.score.centres import Centres
from gdiff.score.exact import Exact
from gdiff.score.wiener import Wiener
from gdiff.trajectory import Batches, ByClass

# Principal directions of the first guess of a parallel run: it need not be exact, but quick.
_GUESS_RANK = 256
# Bytes of arrays that classes may keep fitted between their samples, but for the last one's.
_KEPT_BYTES = 2**31
# What metrics.json may hold besides the comparisons with the data: the account of the run.
ACCOUNT = ("seconds_per_sample", *TOTALS)


@dataclass(eq=False)
class Prepared:
    """The parts of an experiment, each fitted to the data when it is first needed.

    A part that there is already may be set instead.

    Attributes:
        experiment: what it is about.
        clock: to which the seconds of every phase are added.
        sigma: noise levels that are known already, as those of an interrupted run.
    """

    experiment: Experiment
    clock: Clock = field(default_factory=Clock)
    sigma: np.ndarray | None = None
    _of: "Prepared | None" = field(default=None, init=False, repr=False)
    _classes: dict[int, "Prepared"] = field(default_factory=dict, init=False, repr=False)

    @cached_property
    def mesh(self) -> Mesh:
        """The devices; sets the arithmetic of this process."""
        return self.experiment.runtime.start()

    @cached_property
    def dataset(self) -> Dataset:
        """The data."""
        with self.clock.phase("dataset"):
            return self.experiment.dataset.load()

    @cached_property
    def classes(self) -> np.ndarray | None:
        """Numbers of the classes that samples are of in turn; None without a condition.

        Raises:
            UserError: the data have no labels, or no such class.
        """
        asked, spec = self.experiment.condition, self.experiment.dataset
        if asked is None:
            return None
        if asked == EACH and self.dataset.labels is not None:
            return np.unique(self.dataset.labels)
        left_out = [key for key in ("classes", "subset") if getattr(spec, key) is not None]
        why = f", which dataset.{left_out[0]} leaves out" if left_out else ""
        return np.array(class_numbers(self.dataset, "condition", asked, why))

    def labels(self, index: np.ndarray) -> np.ndarray | None:
        """Classes of samples by their numbers [k]; None without a condition."""
        return None if self.classes is None else self.classes[index % len(self.classes)]

    def parts(self, index: np.ndarray) -> Iterator[tuple["Prepared", np.ndarray]]:
        """What draws the samples of these numbers [k], and where in `index` its own are.

        Without a condition that is this itself. With one, classes follow one another; those that
        are needed again may have to be fitted again if they are many.
        """
        labels = self.labels(index)
        if labels is None:
            yield self, np.arange(len(index))
            return
        for label in np.unique(labels).tolist():
            yield self._of_class(label), np.flatnonzero(labels == label)

    def _of_class(self, label: int) -> "Prepared":
        """The experiment on the rows of a class, with the noise levels of the whole."""
        found = self._classes.pop(label, None)
        if found is None:
            while self._classes and _bytes_of(self._classes.values()) > _KEPT_BYTES:
                del self._classes[next(iter(self._classes))]  # used the longest ago
            found = self._restricted(self.dataset.of_class(label))
        self._classes[label] = found
        return found

    def _restricted(self, dataset: Dataset) -> "Prepared":
        own, where = self.experiment, getattr(self.experiment.score, "rows", ANYWHERE)
        changes = {"condition": None, "batch_size": -(-self.batch_size // len({*self.classes}))}
        # Those on the host have a program for each data set; a class is small.
        if where != ANYWHERE and dataset.x.nbytes < _KEPT_BYTES:
            changes["score"], where = replace(own.score, rows=ANYWHERE), ANYWHERE
        # Classes of about the size of the largest share its programs, others with their like.
        labels, n = self.dataset.labels, len(dataset)
        most = max(int(np.sum(labels == label)) for label in {*self.classes.tolist()})
        room = most if 2 * n > most else 1 << (n - 1).bit_length()
        found = Prepared(replace(own, **changes), self.clock, self.grid)
        found.data, found.dataset = Placed(dataset, self.mesh, where, room), dataset
        found.mesh, found.blocks = self.mesh, self.blocks
        found._of = self
        return found

    @cached_property
    def data(self) -> Placed:
        """The data on the devices, shared by all who need their rows."""
        where = getattr(self.experiment.score, "rows", ANYWHERE)
        return Placed(self.dataset, self.mesh, where)

    @cached_property
    def schedule(self) -> ScheduleSpec:
        """The schedule for these data, where it follows them.

        Raises:
            UserError: no horizon meets the tolerance, or the loss cannot be had.
        """
        spec, process = self.experiment.schedule, self.experiment.process
        spec = spec.serving(is_ancestral=self.experiment.sampler.is_ancestral)
        if self.sigma is not None:
            return spec.starting_at(float(self.sigma[0])) if spec.horizon == AUTO else spec
        if spec.horizon == AUTO:
            levels = spec.grid(process)
            ends = (float(levels[0]), float(levels[levels > 0][-1]))
            with self.clock.phase("horizon"):
                prior, tolerance = self.experiment.prior, spec.horizon_tolerance
                spec = spec.reaching(shortest(self.data, prior, tolerance, ends), process)
        losses = None
        if spec.needs_losses:
            losses = self.losses((spec.first_level(process), spec.started(process).sigma_min))
        if spec.needs_forecast:
            with self.clock.phase("forecast"):
                forecast = self.forecast(getattr(spec, "objective", "frechet"))
                if spec.is_optimal:
                    return spec.found(forecast, process)
                spec = spec.settled(forecast, process, losses)
        return spec if losses is None else spec.adapted(losses, process)

    @cached_property
    def spectrum(self) -> Spectrum:
        """Variances of the data by direction, and of the prior."""
        return Spectrum.of(self.dataset, self.experiment.prior)

    def forecast(self, objective: str) -> GaussianForecast:
        """How far Gaussian data with the spectrum of these come out, by the grid.

        Args:
            objective: one of `gdiff.schedule.optimal.OBJECTIVES`.
        """
        own = self.experiment
        return GaussianForecast(self.spectrum, own.sampler, own.schedule.to_zero, objective)

    @cached_property
    def grid(self) -> np.ndarray:
        """Noise levels: [K + 1], decreasing, the last maybe 0."""
        if self.sigma is not None:
            return self.sigma
        return self.schedule.grid(self.experiment.process)

    @property
    def ends(self) -> tuple[float, float]:
        """The largest and the smallest positive level of the grid."""
        levels = self.grid[self.grid > 0]
        return float(levels[0]), float(levels[-1])

    def require_span(self) -> None:
        """Raise `UserError` unless the grid has levels between which grids can differ."""
        require(
            self.ends[0] > self.ends[1],
            f"schedule.steps={self.experiment.schedule.steps} has a single noise level, between "
            "which and itself grids do not differ: use at least 2",
        )

    @cached_property
    def blocks(self) -> Blocks:
        """The method's table on the grid, cut into blocks."""
        own = self.schedule.blocks(self.experiment.process)
        return self.experiment.sampler.blocks(self.grid, own)

    @property
    def steps(self) -> Steps:
        """The table alone."""
        return self.blocks.steps

    @cached_property
    def denoiser(self) -> Denoiser:
        """The score's, fitted for the levels of the grid."""
        levels = self.steps.levels
        with self.clock.phase("fit"):
            return self.experiment.score.fit(self.data, levels)

    @cached_property
    def of_all_rows(self) -> Denoiser | None:
        """What the score approximates from few rows; None where that is the exact one."""
        spec = self.experiment.score.of_all_rows
        if spec is None:
            return None
        with self.clock.phase("fit score of all rows"):
            return spec.fit(self.data, self.steps.levels)

    @cached_property
    def exact(self) -> Denoiser:
        """The exact score's, on the same rows."""
        with self.clock.phase("fit exact score"):
            return Exact().fit(self.data)

    @cached_property
    def prior(self) -> Prior:
        """The prior at the first level of the grid."""
        start = float(self.grid[0])
        with self.clock.phase("fit prior"):
            return self.experiment.prior.fit(self.data, start)

    @property
    def advice(self) -> str | None:
        """What a user should know of the cost of the run's score, in a line."""
        if self.experiment.condition is not None:  # of a class there are few
            return None
        return self.experiment.score.advice(self.dataset)

    @property
    def title(self) -> str:
        """Of plots: the score, and the data."""
        return f"{type(self.experiment.score).__name__} score on {self.dataset.name}"

    @property
    def measuring(self) -> float:
        """Evaluations of the score that one measurement may take: a share of the run's own.

        A power of two, so that the runs of a sweep are measured alike.
        """
        own = self.experiment.num_samples * self.steps.evaluations
        return 2.0 ** math.floor(math.log2(max(1.0, self.experiment.metrics.share * own)))

    @property
    def batch_size(self) -> int:
        """Samples in a whole batch."""
        return min(self.experiment.batch_size, self.experiment.num_samples)

    @cached_property
    def batches(self) -> Batches | ByClass:
        """What draws the samples of the run."""
        if self.classes is not None:
            parts = self.parts
            return ByClass(lambda index: ((part.batches, own) for part, own in parts(index)))
        return self.drawing(self.denoiser, self.batch_size)

    def guess(self, start: str) -> Denoiser | None:
        """What first guesses of the states come from; None if from the state before."""
        if start == "constant":
            return None
        return self._centres if start == "mixture" else self._wiener

    @cached_property
    def _wiener(self) -> Denoiser:
        """That of Gaussian data; classes share that of the whole."""
        if self._of is not None:
            return self._of._wiener
        with self.clock.phase("fit first guess"):
            return Wiener(rank=_GUESS_RANK).fit(self.data)

    @cached_property
    def _centres(self) -> Denoiser:
        """That of balls about centres; classes have their own."""
        with self.clock.phase("fit first guess"):
            return Centres.fit(self.data)

    def drawing(self, denoiser: Denoiser, size: int) -> Batches:
        """What draws samples of this experiment with any denoiser, so many at a time."""
        sampler = self.experiment.sampler
        guess = None
        if sampler.wants_guess:
            sampler = sampler.settled(has_heads=headed(denoiser) is not None)
            guess = self.guess(sampler.start)
        engine = driver(denoiser, self.blocks, sampler, self.mesh, guess)
        return Batches(engine, self.prior, self.mesh, size, self.experiment.seed, self.clock)

    def samples(self) -> np.ndarray:
        """All samples of the experiment, batch by batch: [num_samples, *event]."""
        self.require_room()
        index = np.arange(self.experiment.num_samples)
        parts = np.split(index, index[:: self.batch_size][1:])
        drawn = [self.batches.draw(part, (), lambda *_: None)[0] for part in parts]
        return np.concatenate(drawn)

    def require_room(self) -> None:
        """Raise `UserError` if the samples, or a batch, are too large for memory."""
        own = self.experiment
        sample = self.dataset.dim * (8 if own.runtime.x64 else 4)
        memory.require_room(4 * sample * self.batch_size, f"batch_size={own.batch_size}")
        # They are read as a whole to be compared with the data.
        memory.require_room(sample * own.num_samples, f"num_samples={own.num_samples}")

    def losses(self, ends: tuple[float, float] | None = None) -> LossCurve:
        """The denoising loss between two noise levels: measured, or read from the user's file.

        Args:
            ends: the largest and the smallest level; by default those of the grid.

        Raises:
            UserError: the file cannot be read, or the data set has no points held out.
        """
        spec, ends = self.experiment.schedule, ends or self.ends
        with self.clock.phase("losses"):
            if spec.loss_file is not None:
                return LossCurve.read(spec.loss_file, spec.loss_type)
            if spec.loss_samples is not None:
                need = 16 * spec.loss_samples * self.dataset.dim
                memory.require_room(need, f"schedule.loss_samples={spec.loss_samples}")
            is_test = spec.loss_on == "test"
            test = self.experiment.dataset.held_out().load() if is_test else None
            score, samples = self.experiment.score, spec.loss_samples
            return measure(score, self.data, ends, samples=samples, test=test)


def _bytes_of(parts: Iterable[Prepared]) -> int:
    """Bytes of the arrays that these have been fitted with, those that they share once."""
    fitted = [[vars(part).get(name) for name in ("denoiser", "prior")] for part in parts]
    arrays = {id(leaf): leaf for leaf in jax.tree.leaves(fitted) if isinstance(leaf, jax.Array)}
    return sum(leaf.nbytes for leaf in arrays.values())
