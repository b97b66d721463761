"""What Hydra runs: a job, told where it is."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn
from omegaconf import DictConfig, OmegaConf


class Place(NamedTuple):
    """Where Hydra put a job.

    Attributes:
        folder: of the run, made by Hydra.
        overrides: the job's own.
        number: of the job in its sweep, None outside a sweep.
        launcher: Hydra's launcher of the sweep.
    """

    folder: Path
    overrides: list[str]
    number: int | None
    launcher: str | None


# A run; what it returns is for Hydra's sweepers, which minimise it.
Job = Callable[[DictConfig, Place], Any]


def task(job: Job, cfg: DictConfig) -> Any:
    """What Hydra calls: the job, told where it is."""
    hydra = HydraConfig.get()
    is_sweep = not OmegaConf.is_missing(hydra.job, "num")
    place = Place(
        folder=Path(hydra.runtime.output_dir),
        overrides=list(hydra.overrides.task),
        number=hydra.job.num if is_sweep else None,
        launcher=hydra.runtime.choices["hydra/launcher"] if is_sweep else None,
    )
    return job(cfg, place)


def undone(batches: Iterable[Iterable[JobReturn]]) -> list[Path]:
    """Folders of the jobs of a sweep whose value was NaN.

    Raises:
        Exception: that of the first job that raised one.
    """
    jobs = [(job, job.return_value) for batch in batches for job in batch]
    return [Path(job.hydra_cfg.hydra.runtime.output_dir) for job, value in jobs if value != value]
