"""All that determines a run, as a configuration says it: nothing is fitted yet."""

from dataclasses import dataclass

import numpy as np

from gdiff.dataset import DatasetSpec
from gdiff.errors import require, require_one_of
from gdiff.metrics import MetricsSpec
from gdiff.prior.base import PriorSpec
from gdiff.process.base import ProcessSpec
from gdiff.runs.logger import LOGGERS
from gdiff.runtime import Runtime
from gdiff.sampler.base import SamplerSpec
from gdiff.sampler.blocks import Blocks
from gdiff.schedule.base import AUTO, ScheduleSpec
from gdiff.score.base import ScoreSpec

# A condition that names all classes.
EACH = "each"
# Levels that were written by another version may be rounded otherwise.
_ROUNDING = 1e-5


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
        report: whether a sweep leaves a page that compares its runs.
        logger: where a complete run is logged besides its folder, one of `LOGGERS`.
        plots: "pdf" or "svg" writes plots in that format too; "png" does not.
        condition: classes, by number or by name, that samples are drawn from in turn: sample i
            from number i, and from the first again after the last; "each" for all classes in
            their order, None for no classes, but the data as a whole.
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
    report: bool = True
    plots: str = "png"
    logger: str = "none"
    condition: str | list[int | str] | None = None

    def __post_init__(self) -> None:
        for key in ("num_samples", "batch_size", "picture_samples"):
            value = getattr(self, key)
            require(value >= 1, f"{key}={value} must be at least 1")
        require_one_of("plots", self.plots, ("png", "pdf", "svg"))
        require_one_of("logger", self.logger, LOGGERS)
        require(0 <= self.seed < 2**32, f"seed={self.seed} must be between 0 and 2^32 - 1")
        require(
            self.condition in (None, EACH) or (isinstance(self.condition, list) and self.condition),
            f"condition={self.condition} is neither {EACH}, nor null, nor a list of classes such "
            "as [0, cat]",
        )
        self.blocks()

    @property
    def plot_kinds(self) -> tuple[str, ...]:
        """Formats of plots."""
        return tuple(dict.fromkeys(("png", self.plots)))

    def require_whole(self, what: str) -> None:
        """Raise `UserError` if samples are drawn class by class, which `what` is not about."""
        require(
            self.condition is None,
            f"condition={self.condition}: {what} is about the data as a whole; use condition=null",
        )

    @property
    def measures_score(self) -> bool:
        """Whether the score is compared with the exact one."""
        return self.metrics.measures_score(is_exact=self.score.is_exact)

    def grid(self) -> np.ndarray:
        """Noise levels of the run: [steps + 1], decreasing.

        Where the schedule follows the data, this is a stand-in with as many levels.
        """
        return self.schedule.grid(self.process)

    def may_have(self, levels: np.ndarray) -> bool:
        """Whether a run of this experiment may have these noise levels, [K + 1] decreasing."""
        spec = self.schedule
        if spec.horizon == AUTO:
            spec = spec.reaching(float(levels[0]) * (1 - _ROUNDING / 10), self.process)
        grid = spec.grid(self.process)
        follows_data = spec.needs_losses or spec.needs_forecast
        kept = spec.known_ends if follows_data else slice(None)
        return len(grid) == len(levels) and np.allclose(grid[kept], levels[kept], _ROUNDING, 0)

    def blocks(self) -> Blocks:
        """The sampler's table on these levels, cut into blocks."""
        return self.sampler.blocks(self.grid(), self.schedule.blocks(self.process))
