"""Runs, new or continued, by one process or several."""

import logging
import sys
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from gdiff.cli.endings import Interrupted, ending, shown
from gdiff.errors import PartError, UserError, interrupt_in

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from gdiff.config import Composer, Place, Sources
    from gdiff.experiment import Experiment
    from gdiff.store.outputs import RunFolder


class Outcome(NamedTuple):
    """What a run ended with: metrics and the objective, or the error.

    Attributes:
        metrics, objective, error: of the run.
        has_folder: whether the folder was this run's.
    """

    metrics: dict[str, float] | None = None
    objective: float | None = None
    error: Exception | None = None
    has_folder: bool = True


def run(composer: "Composer", overrides: list[str], *, quiet: bool) -> None:
    """A new run in a folder of its own."""
    from gdiff import artefacts, progress
    from gdiff.runs.logger import require_installed
    from gdiff.store import outputs

    progress.configure(quiet=quiet)
    # Finds most mistakes before a folder is made.
    experiment, folder = composer.plan(overrides)
    artefacts.require_objective(experiment)
    require_installed(experiment.logger)
    with _together(experiment) as is_first:
        if not is_first:
            return
        remark(experiment, overrides)
        with outputs.vacant(folder, "hydra.run.dir"):
            outcome = composer.run(partial(job, composer.sources), overrides, folder)
            if outcome.error is not None:
                raise outcome.error
        show_run(folder, outcome.metrics, quiet=quiet)


@contextmanager
def _together(experiment: "Experiment") -> Iterator[bool]:
    """The block in the first of the processes that work on a run; the others do their part here.

    The block is told whether it is in the first process. If one process fails, all do.
    """
    if not experiment.runtime.distributed:
        yield True
        return
    from gdiff import progress
    from gdiff.parallel import processes
    from gdiff.run import run
    from gdiff.store.outputs import RunFolder

    try:
        experiment.runtime.join()
        is_first = processes.is_first()
        if not is_first:
            progress.configure(silent=True)
            logging.getLogger().addHandler(logging.NullHandler())
            run(experiment, RunFolder.of_first())
        yield is_first
        processes.leave()
    except (UserError, OSError, KeyboardInterrupt) as error:
        if isinstance(error, PartError):  # the others have done their part
            processes.leave()
        processes.abandon(*ending(error))
    except Exception as error:
        processes.abandon(processes.lost(error) or traceback.format_exc(), 1)


def job(sources: "Sources", cfg: "DictConfig", place: "Place") -> Outcome:
    """One run in its folder; what the user can put right is returned: Hydra would dress it up.

    A run of a sweep that has begun goes on.
    """
    from gdiff import artefacts, config
    from gdiff.parallel import processes
    from gdiff.run import run
    from gdiff.runs.logger import require_installed
    from gdiff.store.outputs import CONFIG, RunFolder

    is_sweep = place.number is not None
    is_begun = is_sweep and (place.folder / CONFIG).is_file()
    has_folder = not is_begun
    try:
        experiment = config.build(cfg, sources)
        if is_sweep:  # of a run alone it has been looked at
            artefacts.require_objective(experiment)
            config.require_consistent(experiment, place.overrides)
            if experiment.runtime.distributed:
                raise UserError("runtime.distributed=true is for one run: leave it out, or -m")
            require_installed(experiment.logger)
            remark(experiment, place.overrides, f"run {place.number}: ")
        if is_begun:
            _require_same(place.folder, experiment, sources)
            opened = _continued(place.folder, experiment)
        else:
            text = _text(experiment)
            opened = RunFolder.create(place.folder, text, is_claimed=not is_sweep)
        has_folder = False  # until it is open it may be that of another run
        with opened as folder:
            has_folder = True
            metrics = run(experiment, folder)
        _log(place.folder, experiment.logger)
        if experiment.objective is None:
            return Outcome(metrics)
        if experiment.objective not in metrics:
            raise UserError(f"objective={experiment.objective} cannot be had for this run")
        return Outcome(metrics, float(metrics[experiment.objective]))
    except (UserError, OSError) as error:
        return Outcome(error=error, has_folder=has_folder)
    except Exception as error:
        if interrupt_in(error):
            raise Interrupted(place.folder) from None
        if processes.lost(error) is None:
            raise
        return Outcome(error=error)
    except KeyboardInterrupt:
        raise Interrupted(place.folder) from None


def _log(path: Path, logger: str) -> None:
    """Hand a run to a logger; that this fails is a warning, for the run is there."""
    from gdiff import runs
    from gdiff.runs import logger as loggers

    if logger == loggers.NONE:
        return
    try:
        loggers.log(runs.read(path), logger)
    except Exception as error:  # of a server, or of any of the logger's own
        say([f"logger={logger}: {type(error).__name__}: {' '.join(str(error).split())[:200]}"])


def _require_same(path: Path, experiment: "Experiment", sources: "Sources") -> None:
    """Raise `UserError` unless the run in a folder was begun with this experiment."""
    from gdiff import config

    begun = config.load(path, (), sources)
    other = sorted(set(config.differences(begun, experiment)).difference(config.FREE))
    if other:
        raise UserError(
            f"{path} holds a run with another {', '.join(other)}: continue it with --resume, or "
            "move it away"
        )


@contextmanager
def _continued(path: Path, experiment: "Experiment") -> "Iterator[RunFolder]":
    """The folder of a run that goes on as an experiment, which `evaluate` will find there."""
    from gdiff.store.outputs import CONFIG, RunFolder

    with RunFolder.open(path) as folder:
        text = _text(experiment)
        if text != (path / CONFIG).read_text(encoding="utf-8"):
            folder.write_text(CONFIG, text)
        yield folder


def remark(experiment: "Experiment", overrides: Sequence[str], where: str = "") -> None:
    """Say on stderr which settings of a run were hardly meant so."""
    from gdiff import config

    doubt = experiment.schedule.doubt(experiment.process)
    say([*config.without_effect(experiment, overrides), doubt], where)


def say(lines: Iterable[str | None], where: str = "") -> None:
    """Warnings on stderr, a line each."""
    for line in filter(None, lines):
        print(f"warning: {where}{line}", file=sys.stderr, flush=True)


def _text(experiment: "Experiment") -> str:
    """What config.yaml says: all but the processes that share the work."""
    from gdiff import config

    return config.to_yaml(replace(experiment, runtime=experiment.runtime.without_processes()))


def resume(composer: "Composer", path: Path, overrides: list[str], *, quiet: bool) -> None:
    """Continue a run; devices, processes and the batch size may be others."""
    from gdiff import progress
    from gdiff.run import run
    from gdiff.runs.logger import require_installed
    from gdiff.store import outputs

    progress.configure(quiet=quiet)
    outputs.require_run(path)
    experiment = composer.resumed(path, overrides)
    require_installed(experiment.logger)
    with _together(experiment) as is_first:
        if not is_first:
            return
        with _continued(path, experiment) as folder:
            composer.log_to(path)
            try:
                metrics = run(experiment, folder)
            except KeyboardInterrupt:
                raise Interrupted(path) from None
        _log(path, experiment.logger)
        show_run(path, metrics, quiet=quiet)


def show_run(path: Path, metrics: dict[str, float], *, quiet: bool) -> None:
    """The result on stdout; the last line is the folder.

    Raises:
        PartError: something of it could not be made.
    """
    from gdiff.report import metrics_table, show
    from gdiff.runs.sweep import failures

    if not quiet:
        show(metrics_table(metrics))
    print(shown(path))
    missing = failures(path)
    if missing:
        raise PartError(f"{missing}: all else is in {shown(path)}")
