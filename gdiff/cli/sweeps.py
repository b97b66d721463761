"""Sweeps, new or continued: each of its runs in a folder of its own, and one table of all."""

import logging
import os
import sys
import traceback
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from gdiff.cli.endings import Interrupted, error_line, in_words, shown
from gdiff.cli.launch import Outcome, job
from gdiff.errors import UserError

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from gdiff.config import Composer, Place, Sources

log = logging.getLogger(__name__)

# What Hydra's optimising sweepers leave.
_OPTIMUM = "optimization_results.yaml"


def sweep(composer: "Composer", overrides: list[str], *, quiet: bool) -> None:
    """Hydra's multirun, and then one table of its runs."""
    from gdiff.store import outputs

    folder = composer.sweep_dir(overrides)
    with_folder = outputs.vacant(folder, "hydra.sweep.dir")
    _multirun(composer, composer.sources, overrides, folder, with_folder, quiet=quiet)


def resume(composer: "Composer", folder: Path, overrides: list[str], *, quiet: bool) -> None:
    """Continue a sweep: its runs that are complete stay as they are, all others are completed."""
    from gdiff.store import lock, outputs

    folder = folder.absolute()
    outputs.require_sweep(folder)
    begun = composer.resumed_sweep(folder, overrides)
    composer.sweep_dir(begun.words)
    sources = replace(composer.sources, base=begun.cwd)
    _multirun(composer, sources, begun.words, folder, lock.locked(folder), quiet=quiet)


def _multirun(
    composer: "Composer",
    sources: "Sources",
    overrides: list[str],
    folder: Path,
    with_folder: AbstractContextManager,
    *,
    quiet: bool,
) -> None:
    """All runs of a sweep that are not complete, and then the table of all."""
    from gdiff import report
    from gdiff.runs import sweep
    from gdiff.store import outputs

    with with_folder:
        try:
            work = partial(_job, sources, os.getpid(), quiet)
            undone = composer.multirun(work, overrides, folder)
        except KeyboardInterrupt as error:  # in a run, or while a launcher waits for its own
            raise Interrupted(folder) from error
        except (ValueError, TypeError) as error:  # of a sweeper that takes no run without a number
            raise _given_up(folder, error) from error
        finally:  # also of the runs before an error or an interrupt
            rows = sweep.rows(folder)
            if rows:
                table = [*rows, *sweep.averages(rows)]
                outputs.write_csv(folder / sweep.TABLE, sweep.columns(table), table)
    if not quiet:
        report.show(report.sweep_table(rows))
        if best := _best(folder):
            print(best)
    made = _page_of(folder)
    if made and not quiet:
        print(shown(made))
    print(shown(folder / sweep.TABLE))
    # In the folder of an undone one there may be a complete run with other settings.
    names = {str(path.relative_to(folder)) for path in undone}
    failed = [r["run"] for r in rows if r["status"] == "failed" or r["run"] in names]
    if failed:
        raise UserError(f"{len(failed)} of {len(rows)} runs failed: {', '.join(failed)}")


def _given_up(folder: Path, error: Exception) -> Exception:
    """What to raise for an error of a sweeper: one line if a run of its own failed before."""
    from gdiff.runs import sweep

    failed = [str(row["run"]) for row in sweep.rows(folder) if row["status"] == "failed"]
    if not failed:
        return error
    return UserError(f"the sweeper ended, since runs failed: {', '.join(failed)}")


def _best(folder: Path) -> str | None:
    """What an optimising sweeper found, in a line."""
    from gdiff.store.yamls import read_yaml

    try:
        found = read_yaml(folder / _OPTIMUM)
        settings = [f"{key}={value}" for key, value in found["best_params"].items()]
        return f"best: {' '.join(settings)}, {float(found['best_value']):.6g}"
    except (UserError, OSError, TypeError, ValueError, AttributeError, KeyError):
        return None


def _page_of(folder: Path) -> Path | None:
    """The page that compares the runs, unless they say report=false; a sweep is whole without."""
    from gdiff import runs

    found, damaged = runs.find([folder])
    if not any(run.settings.get("report", True) for run in found):
        return None
    from gdiff.report import page

    path = folder / page.FILE
    try:
        page.write(path, found, damaged, folder.name)
    except Exception as error:
        log.info("%s could not be made", page.FILE, exc_info=True)
        line = " ".join(f"warning: {page.FILE} could not be made: {error}".split())
        print(line, file=sys.stderr, flush=True)
        return None
    return path


def _job(
    sources: "Sources", launched_by: int, quiet: bool, cfg: "DictConfig", place: "Place"
) -> float | None:
    """One run of a sweep: an error fails this run and not the others."""
    from gdiff import progress
    from gdiff.parallel import processes
    from gdiff.store import outputs

    if place.launcher == "joblib":
        processes.end_with(launched_by)
    label = f"run {place.number}"
    # Runs that go on at the same time cannot share a terminal's bars.
    progress.configure(quiet=quiet, live=place.launcher == "basic", label=f"{label}:")
    if not quiet:
        print(f"{label}: {' '.join(place.overrides)}", file=sys.stderr, flush=True)
    try:
        outcome = job(sources, cfg, place)
    except Exception as error:
        traceback.print_exc()
        outcome = Outcome(error=error)
    if outcome.error is None:
        return outcome.objective
    print(error_line(outcome.error, f"{label}: "), file=sys.stderr, flush=True)
    if outcome.has_folder:
        # What is damaged, or on a full disk, stays as it is, and the other runs go on.
        with suppress(UserError):
            outputs.write_failure(
                place.folder, in_words(outcome.error) or type(outcome.error).__name__
            )
    return float("nan")
