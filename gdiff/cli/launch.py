"""Runs, alone or in a sweep, new or continued, by one process or several."""

import logging
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from gdiff.cli.endings import Interrupted, ending, error_line, in_words, shown
from gdiff.errors import PartError, UserError, interrupt_in

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from gdiff.config import Composer, Place, Sources
    from gdiff.prepared import Experiment


class _Outcome(NamedTuple):
    """What a run ended with: metrics and the objective, or the error."""

    metrics: dict[str, float] | None = None
    objective: float | None = None
    error: Exception | None = None


def run(composer: "Composer", overrides: list[str], *, quiet: bool) -> None:
    """A new run in a folder of its own."""
    from gdiff import artefacts, progress
    from gdiff.store import outputs

    progress.configure(quiet=quiet)
    # Finds most mistakes before a folder is made.
    experiment, folder = composer.plan(overrides)
    artefacts.require_objective(experiment)
    with _together(experiment) as is_first:
        if not is_first:
            return
        with outputs.vacant(folder, "hydra.run.dir"):
            outcome = composer.run(partial(_job, composer.sources), overrides, folder)
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
            progress.configure(quiet=True)
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


def _job(sources: "Sources", cfg: "DictConfig", place: "Place") -> _Outcome:
    """One run in its folder; what the user can put right is returned: Hydra would dress it up."""
    from gdiff import artefacts, config
    from gdiff.parallel import processes
    from gdiff.run import run
    from gdiff.store.outputs import RunFolder

    is_sweep = place.number is not None
    try:
        experiment = config.build(cfg, sources)
        artefacts.require_objective(experiment)
        if is_sweep and experiment.runtime.distributed:
            raise UserError("runtime.distributed=true is for one run: leave it out, or -m")
        text = _text(experiment)
        with RunFolder.create(place.folder, text, is_claimed=not is_sweep) as folder:
            metrics = run(experiment, folder)
        if experiment.objective is None:
            return _Outcome(metrics)
        if experiment.objective not in metrics:
            raise UserError(f"objective={experiment.objective} cannot be had for this run")
        return _Outcome(metrics, float(metrics[experiment.objective]))
    except (UserError, OSError) as error:
        return _Outcome(error=error)
    except Exception as error:
        if interrupt_in(error):
            raise Interrupted(place.folder) from None
        if processes.lost(error) is None:
            raise
        return _Outcome(error=error)
    except KeyboardInterrupt:
        raise Interrupted(place.folder) from None


def _text(experiment: "Experiment") -> str:
    """What config.yaml says: all but the processes that share the work."""
    from gdiff import config

    return config.to_yaml(replace(experiment, runtime=experiment.runtime.without_processes()))


def sweep(composer: "Composer", overrides: list[str], *, quiet: bool) -> None:
    """Hydra's multirun, and then one table of its runs."""
    from gdiff import report
    from gdiff.store import outputs

    folder = composer.sweep_dir(overrides)
    with outputs.vacant(folder, "hydra.sweep.dir"):
        try:
            composer.multirun(partial(_sweep_job, composer.sources, quiet), overrides, folder)
        finally:  # also of the runs before an error or an interrupt
            rows = report.sweep_rows(folder)
            if rows:
                outputs.write_csv(folder / report.SWEEP, report.columns(rows), rows)
    if not quiet:
        report.show(report.sweep_table(rows))
    print(shown(folder / report.SWEEP))
    failed = [str(row["run"]) for row in rows if row["status"] == "failed"]
    if failed:
        raise UserError(f"{len(failed)} of {len(rows)} runs failed: {', '.join(failed)}")


def _sweep_job(sources: "Sources", quiet: bool, cfg: "DictConfig", place: "Place") -> float | None:
    """One run of a sweep: an error fails this run and not the others."""
    from gdiff import progress
    from gdiff.store import outputs

    label = f"run {place.number}"
    # Runs that go on at the same time cannot share a terminal's bars.
    progress.configure(quiet=quiet, live=place.launcher == "basic", label=f"{label}:")
    if not quiet:
        print(f"{label}: {' '.join(place.overrides)}", file=sys.stderr, flush=True)
    try:
        outcome = _job(sources, cfg, place)
    except Exception as error:
        traceback.print_exc()
        outcome = _Outcome(error=error)
    if outcome.error is None:
        return outcome.objective
    print(error_line(outcome.error, f"{label}: "), file=sys.stderr, flush=True)
    outputs.write_failure(place.folder, in_words(outcome.error) or type(outcome.error).__name__)
    return float("nan")


def resume(composer: "Composer", path: Path, overrides: list[str], *, quiet: bool) -> None:
    """Continue a run; devices, processes and the batch size may be others."""
    from gdiff import progress
    from gdiff.run import run
    from gdiff.store import outputs

    progress.configure(quiet=quiet)
    outputs.require_run(path)
    experiment = composer.resumed(path, overrides)
    with _together(experiment) as is_first:
        if not is_first:
            return
        with outputs.RunFolder.open(path) as folder:
            composer.log_to(path)
            # What it goes on with is what `evaluate` will find.
            text = _text(experiment)
            if text != (path / "config.yaml").read_text():
                folder.write_text("config.yaml", text)
            try:
                metrics = run(experiment, folder)
            except KeyboardInterrupt:
                raise Interrupted(path) from None
        show_run(path, metrics, quiet=quiet)


def show_run(path: Path, metrics: dict[str, float], *, quiet: bool) -> None:
    """The result on stdout; the last line is the folder.

    Raises:
        PartError: something of it could not be made.
    """
    from gdiff.report import failures, metrics_table, show

    if not quiet:
        show(metrics_table(metrics))
    print(shown(path))
    missing = failures(path)
    if missing:
        raise PartError(f"{missing}: all else is in {shown(path)}")
