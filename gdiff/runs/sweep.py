"""The table of a sweep: sweep.csv, a row a run, and rows that average over seeds."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from gdiff.errors import Failures, UserError
from gdiff.runs.groups import SEED, mean
from gdiff.runs.past import COMPLETE, FAILED, natural, typed
from gdiff.store.outputs import METRICS, RUN, read_json

TABLE = "sweep.csv"
# What the column `run` says in rows that average over seeds, and in those of their errors.
MEAN, ERROR = "mean", "se"
_NO_METRICS = ("run", "status", "error")


def rows(folder: Path) -> list[dict[str, object]]:
    """One row a run of a sweep, in the order of job numbers.

    Columns: run (its folder within the sweep's), status, the overrides, the metrics, and the
    error where there is one. A run that was killed counts as failed, and so does one of which
    something could not be made, which has metrics all the same.
    """
    files = [*folder.rglob(RUN), *folder.rglob("overrides.yaml")]
    runs = {file.parent if file.name == RUN else file.parent.parent for file in files}
    by_number = sorted(runs, key=lambda p: [natural(s) for s in p.relative_to(folder).parts])
    return [_row(run, folder) for run in by_number]


def _row(run: Path, folder: Path) -> dict[str, object]:
    try:
        record, metrics = read_json(run / RUN), read_json(run / METRICS)
    except UserError as error:
        record, metrics = {"error": str(error)}, {}
    is_complete, missing = record.get("status") == COMPLETE, Failures.of(record).line()
    row: dict[str, object] = {
        "run": str(run.relative_to(folder)),
        "status": COMPLETE if is_complete and not missing else FAILED,
    }
    words = (override.lstrip("+").partition("=") for override in typed(run) or ())
    row |= {key: re.sub(r"^'([^'\\]*)'$", r"\1", value) for key, _, value in words}
    row |= metrics if is_complete else {"error": record.get("error", "")}
    return row | ({"error": missing} if is_complete and missing else {})


def averages(rows: Sequence[Mapping[str, object]]) -> list[dict[str, object]]:
    """Two rows for each setting that was run with several seeds: mean, and standard error.

    The column `seed` names the seeds that are averaged; settings are those of the runs, which
    must be complete. A metric that only some seeds have is averaged over these.
    """
    found: dict[tuple[tuple[str, object], ...], list[Mapping[str, object]]] = {}
    for row in rows:
        # Overrides are text, metrics are numbers.
        settings = {k: v for k, v in row.items() if isinstance(v, str) and k not in _NO_METRICS}
        if row["status"] == COMPLETE and SEED in settings:
            key = tuple(sorted((k, v) for k, v in settings.items() if k != SEED))
            found.setdefault(key, []).append(row)
    return [line for key, group in found.items() for line in _averaged(dict(key), group)]


def _averaged(
    settings: dict[str, object], group: Sequence[Mapping[str, object]]
) -> list[dict[str, object]]:
    seeds = dict.fromkeys(str(row[SEED]) for row in group)
    if len(seeds) < 2:
        return []
    shared = {"status": COMPLETE, SEED: ",".join(seeds), **settings}
    means: dict[str, object] = {"run": MEAN, **shared}
    errors: dict[str, object] = {"run": ERROR, **shared}
    names = dict.fromkeys(k for row in group for k, v in row.items() if isinstance(v, int | float))
    for name in names:
        found = mean([float(v) for v in (row.get(name) for row in group) if v is not None])
        if found is not None and found.error is not None:
            means[name], errors[name] = found.value, found.error
    return [means, errors]


def columns(rows: Sequence[Mapping]) -> list[str]:
    """Names of all columns of a table, in order of appearance, "error" last."""
    names = dict.fromkeys(name for row in rows for name in row)
    return sorted(names, key=lambda name: name == "error")


def failures(run: Path) -> str:
    """What of a run could not be made, and why, in a line; empty if nothing."""
    return Failures.of(read_json(run / RUN)).line()
