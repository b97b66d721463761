"""Samples and their pictures in a notebook: those of the command line, without a run folder."""

import io
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from numpy.typing import ArrayLike

from gdiff import figures, rng
from gdiff.dataset import Dataset, DatasetSpec
from gdiff.dataset.placed import Placed
from gdiff.denoiser import Denoiser, as_denoiser, is_on_host
from gdiff.errors import UserError, require
from gdiff.experiment import Experiment
from gdiff.kernels.fold import Rows
from gdiff.metrics import MetricsSpec
from gdiff.parallel.mesh import BATCH, DATA, make_mesh
from gdiff.prepared import Prepared
from gdiff.prior.base import Prior, PriorSpec
from gdiff.prior.standard import Standard
from gdiff.process.base import ProcessSpec
from gdiff.process.vp import VPLinear
from gdiff.runtime import Runtime
from gdiff.sampler.base import SamplerSpec
from gdiff.schedule.base import AUTO, ScheduleSpec
from gdiff.schedule.levels import Levels
from gdiff.score.base import ScoreSpec

if TYPE_CHECKING:
    from PIL.Image import Image

log = logging.getLogger(__name__)


def sample(
    denoise: Callable[..., Any] | ScoreSpec,
    sampler: SamplerSpec,
    schedule: ScheduleSpec | ArrayLike,
    *,
    num: int,
    seed: int = 0,
    prior: PriorSpec | Prior | None = None,
    process: ProcessSpec | None = None,
    data: Dataset | Placed | None = None,
    shape: Sequence[int] | None = None,
    batch_size: int = 64,
    mesh: Mesh | str | None = None,
) -> np.ndarray:
    """Samples of a denoiser: those of `gdiff sample` for the same parts, levels and seed.

        x = gdiff.sample(denoise, gdiff.samplers.DDIM(), gdiff.schedules.EDM(steps=32), num=16)

    Args:
        denoise: what a score's `fit` gives, or any function of z [b, *event] and sigma [b] that
            JAX can trace and that gives x_0's mean, or a `Posterior`; one of NumPy arrays through
            `gdiff.from_numpy`. A score that is not fitted is fitted to `data`, for the levels of
            the grid.
        sampler: the method.
        schedule: of noise levels, or the levels themselves: [K + 1], decreasing, the last maybe 0.
        num: how many samples.
        seed: of all randomness, 0 … 2³² - 1.
        prior: what trajectories start from; fitted at the first level, or to be fitted to `data`.
            By default `gdiff.priors.Standard()`, which needs no data.
        process: whose time some schedules use; by default `gdiff.processes.VPLinear()`.
        data: for a score, a prior or a schedule that is to be fitted, and for a first guess.
        shape: of a sample, where neither `data` nor the denoiser tells.
        batch_size: samples at a time, which changes the memory needed, and not the samples.
        mesh: the devices, as text like "data:2/batch:4" too; by default those of `data` or of the
            denoiser, else all (for `gdiff.from_numpy`, the first).

    Returns:
        [num, *event] in the model's coordinates, where images range over [-1, 1].

    Raises:
        UserError: parts that do not fit together, or that lack the data.
    """
    require(
        isinstance(sampler, SamplerSpec),
        f"{sampler!r} is not a sampler: give one such as gdiff.samplers.DDIM()",
    )
    require(
        callable(denoise) != isinstance(denoise, ScoreSpec) and not isinstance(denoise, type),
        f"{denoise!r} is not a denoiser: give gdiff.scores.Exact().fit(data), or a function of "
        "(z, sigma)",
    )
    require(num >= 1, f"num={num} must be at least 1")
    prior = Standard() if prior is None else prior
    if not isinstance(schedule, ScheduleSpec):
        schedule = _levels(schedule)
    if data is None:
        _need_no_data(denoise, sampler, schedule, prior)
    elif schedule.needs_losses and schedule.loss_file is None:
        require(
            isinstance(denoise, ScoreSpec),
            f"{type(schedule).__name__} follows the loss of a score: give the score itself, as in "
            "gdiff.sample(gdiff.scores.Exact(), …, data=data)",
        )
    placed = _placed(denoise, data, shape, mesh)
    is_spec = isinstance(denoise, ScoreSpec)
    experiment = Experiment(
        dataset=_Given(dataset=placed.dataset),
        process=process or VPLinear(),
        score=denoise if is_spec else _Fitted(denoiser=as_denoiser(denoise, placed.mesh)),
        schedule=schedule,
        prior=prior if isinstance(prior, PriorSpec) else Standard(),
        sampler=sampler,
        metrics=MetricsSpec(enabled=False),
        runtime=Runtime(),
        num_samples=num,
        batch_size=batch_size,
        seed=seed,
    )
    if doubt := schedule.doubt(experiment.process):
        log.warning("%s", doubt)
    prepared = Prepared(experiment)
    prepared.data, prepared.dataset, prepared.mesh = placed, placed.dataset, placed.mesh
    if not isinstance(prior, PriorSpec):
        prepared.prior = prior
    try:
        with rng.fixed_switches():
            return prepared.samples()
    except jax.errors.TracerArrayConversionError as error:
        raise UserError(
            "the denoiser makes NumPy arrays of what JAX traces: use gdiff.from_numpy(denoise)"
        ) from error


def picture(x: np.ndarray, data: Dataset | Placed | None = None, max_images: int = 64) -> "Image":
    """Samples as a picture: images side by side, points over those of the data.

    Args:
        x: [n, *event] samples.
        data: what they are to resemble; images need none.
        max_images: at most so many images.

    Returns:
        An image of Pillow, which a notebook shows and `save(path)` writes.
    """
    from PIL import Image

    x = np.asarray(x, np.float32)
    require(data is not None or x.ndim == 4, "points are drawn over those of the data: give data")
    dataset = Dataset("samples", x) if data is None else Placed.of(data).dataset
    return Image.open(io.BytesIO(figures.picture(x, dataset, max_images)))


@dataclass(frozen=True, kw_only=True)
class _Given(DatasetSpec):
    """A data set that there is already."""

    dataset: Dataset

    def read(self) -> Dataset:
        return self.dataset


@dataclass(frozen=True, kw_only=True)
class _Fitted(ScoreSpec):
    """A denoiser that there is already."""

    denoiser: Denoiser

    def fit(self, data: Dataset | Placed, sigmas: Sequence[float] = ()) -> Denoiser:
        return self.denoiser


def _levels(sigma: ArrayLike) -> Levels:
    """The schedule of given noise levels."""
    try:
        sigma = np.asarray(sigma, np.float64)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{sigma!r} is not a schedule: give one such as gdiff.schedules.EDM(), or noise levels"
        ) from error
    require(
        sigma.ndim == 1 and len(sigma) > 1 and math.isfinite(sigma[0]) and sigma[-1] >= 0,
        "noise levels are an array of two or more finite numbers, the last of which may be 0",
    )
    require(bool(np.all(np.diff(sigma) < 0)), "noise levels must decrease")
    ends_at_zero = sigma[-1] == 0
    levels = sigma[: len(sigma) - ends_at_zero].tolist()
    return Levels(levels=levels, to_zero=bool(ends_at_zero))


def _need_no_data(denoise: Any, sampler: SamplerSpec, schedule: ScheduleSpec, prior: Any) -> None:
    """Raise `UserError` if a part is to be fitted to data."""
    follows = schedule.horizon == AUTO or schedule.needs_forecast
    follows |= schedule.needs_losses and schedule.loss_file is None
    fitted = isinstance(prior, PriorSpec) and not isinstance(prior, Standard)
    parts = {
        f"the score {type(denoise).__name__}": isinstance(denoise, ScoreSpec),
        f"the schedule {type(schedule).__name__}": follows,
        f"the prior {type(prior).__name__}": fitted,
        "a first guess of blocks, other than start='constant',": sampler.wants_guess,
    }
    lacking = next((name for name, is_so in parts.items() if is_so), None)
    require(lacking is None, f"{lacking} is fitted to the data: give data=data")


def _placed(
    denoise: Any, data: Dataset | Placed | None, shape: Sequence[int] | None, mesh: Any
) -> Placed:
    """The data on the devices; without them, no rows of the shape of a sample."""
    if isinstance(mesh, str):
        mesh = make_mesh(mesh)
    if isinstance(data, Placed) and mesh in (None, data.mesh):
        return data
    mesh = mesh or _mesh_of(denoise) or make_mesh("batch:1" if is_on_host(denoise) else AUTO)
    if data is not None:
        return Placed(Placed.of(data).dataset, mesh)
    shape = shape or _shape_of(denoise)
    require(shape is not None, "the denoiser does not tell the shape of a sample: give shape=")
    return Placed(Dataset("nothing", np.empty((0, *shape), np.float32)), mesh)


def _mesh_of(denoise: Any) -> Mesh | None:
    """The devices on which the arrays of a fitted denoiser lie."""
    placements = (getattr(leaf, "sharding", None) for leaf in jax.tree.leaves(denoise))
    meshes = (each.mesh for each in placements if isinstance(each, NamedSharding))
    return next((mesh for mesh in meshes if mesh.axis_names == (DATA, BATCH)), None)


def _shape_of(denoise: Any) -> tuple[int, ...] | None:
    """The shape of a point, if a fitted denoiser knows it."""
    leaves = jax.tree.leaves(denoise, is_leaf=lambda each: isinstance(each, Rows))
    rows = (leaf.event_shape for leaf in leaves if isinstance(leaf, Rows))
    return getattr(denoise, "event_shape", None) or next(rows, None)
