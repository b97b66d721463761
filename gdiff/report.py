"""Tables made from run folders."""

import os
import platform
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml
from rich import box
from rich.console import Console
from rich.table import Table

from gdiff.errors import Failures, UserError
from gdiff.store.files import read_bytes
from gdiff.store.outputs import METRICS, RUN, read_json

SWEEP = "sweep.csv"
_WIDE = 10_000  # columns, more than any table has
_OVERRIDES = Path(".hydra") / "overrides.yaml"


def sweep_rows(folder: Path) -> list[dict[str, object]]:
    """One row a run of a sweep, in the order of job numbers.

    Columns: run (its folder within the sweep's), status, the overrides, the metrics, and the
    error where there is one. A run that was killed counts as failed, and so does one of which
    something could not be made, which has metrics all the same.
    """
    files = [*folder.rglob(RUN), *folder.rglob(_OVERRIDES.name)]
    runs = {file.parent if file.name == RUN else file.parent.parent for file in files}
    by_number = sorted(runs, key=lambda p: [(len(s), s) for s in p.relative_to(folder).parts])
    return [_row(run, folder) for run in by_number]


def _row(run: Path, folder: Path) -> dict[str, object]:
    overrides, metrics = _overrides(run / _OVERRIDES), {}
    try:
        record = read_json(run / RUN)
        is_complete = record.get("status") == "complete"
        metrics = read_json(run / METRICS) if is_complete else {}
    except UserError as error:  # one that is damaged does not cost the table
        record, is_complete = {"error": str(error)}, False
    missing = Failures.of(record).line()
    row: dict[str, object] = {
        "run": str(run.relative_to(folder)),
        "status": "complete" if is_complete and not missing else "failed",
    }
    words = (override.lstrip("+").partition("=") for override in overrides)
    row |= {key: re.sub(r"^'([^'\\]*)'$", r"\1", value) for key, _, value in words}
    row |= metrics if is_complete else {"error": record.get("error", "")}
    return row | ({"error": missing} if is_complete and missing else {})


def failures(run: Path) -> str:
    """What of a run could not be made, and why, in a line; empty if nothing."""
    return Failures.of(read_json(run / RUN)).line()


def _overrides(path: Path) -> list[str]:
    """What Hydra wrote of a run's overrides; nothing where that is lost or damaged."""
    try:
        found = yaml.safe_load(read_bytes(path))
    except (FileNotFoundError, ValueError, RecursionError, yaml.YAMLError):
        return []
    is_list = isinstance(found, list)
    return [word for word in found if isinstance(word, str)] if is_list else []


def columns(rows: Sequence[Mapping]) -> list[str]:
    """Names of all columns of a table, in order of appearance, "error" last."""
    names = dict.fromkeys(name for row in rows for name in row)
    return sorted(names, key=lambda name: name == "error")


def table(
    headers: Iterable[str], rows: Iterable[Iterable[object]], *, left: int = 1, **options: Any
) -> Table:
    """Rows for the screen.

    Args:
        headers: names of the columns.
        rows: their values, see `cell`.
        left: so many columns are of words; those after them are of numbers, and stand to the right.
        options: title, caption and others of rich's Table.
    """
    shown = Table(**options)
    for place, name in enumerate(headers):
        shown.add_column(name, justify="left" if place < left else "right")
    for row in rows:
        shown.add_row(*map(cell, row))
    return shown


def sweep_table(rows: Sequence[Mapping]) -> Table:
    """The runs of a sweep for the screen, without errors, and without what tells no runs apart."""
    shown: dict[str, list[str]] = {}
    for name in columns(rows):
        cells = [cell(row.get(name), digits=3) for row in rows]
        given = [text for text in cells if text]
        says_something = len(given) == 1 or len(set(given)) > 1
        if name != "error" and says_something and cells not in shown.values():
            shown[name] = cells
    headers = [_broken(name, max(map(len, cells))) for name, cells in shown.items()]
    look = {"box": box.SIMPLE_HEAD, "padding": 0, "show_edge": False}
    found = table(headers, zip(*shown.values(), strict=True), left=0, **look)
    for column in found.columns:
        column.no_wrap = True
    return found


def _broken(name: str, width: int) -> str:
    """A name on lines of about `width`, broken after underscores and dots only."""
    pieces = re.sub(r"(?<=[_.])", " ", name)
    return textwrap.fill(pieces, width, break_long_words=False).replace(" ", "")


def metrics_table(metrics: Mapping[str, float]) -> Table:
    """The metrics of one run for the screen."""
    return table(("metric", "value"), metrics.items())


def rows_table(rows: Sequence[Any]) -> Table:
    """Named tuples for the screen, one a row."""
    return table(rows[0]._fields, rows, left=len(rows[0]))


def info_table() -> Table:
    """What this installation runs on, for the screen and for bug reports."""
    from gdiff import __version__, memory
    from gdiff.config import config_dir
    from gdiff.dataset.tfds import default_data_dir
    from gdiff.parallel.mesh import all_devices
    from gdiff.store.cache import cache_dir

    packages = ("jax", "jaxlib", "numpy", "hydra-core", "omegaconf", "tensorflow-datasets")
    facts = {"gdiff": __version__, "python": platform.python_version()}
    facts |= {name: version_of(name) or "not installed" for name in packages}
    facts |= {"processors": processors(), "memory": memory.in_words(memory.of_host())}
    for device in all_devices():
        limit = (device.memory_stats() or {}).get("bytes_limit")
        size = f", {limit / 2**30:.1f} GiB" if limit else ""
        facts[str(device)] = f"{device.device_kind}{size}"
    facts |= {"configurations": config_dir(), "cache": cache_dir(), "data sets": default_data_dir()}
    return table(("what", "value"), facts.items(), left=2)


def show(table: Table) -> None:
    """Print a table: to the width of the terminal, or whole where there is none."""
    console = Console()
    if not console.is_terminal:
        console.width = _WIDE
    console.print(table)


def processors() -> int:
    """How many this process may use; not all systems tell, and then how many there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def version_of(package: str) -> str | None:
    """Of a package that is installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def cell(value: object, digits: int = 4) -> str:
    """A value in a table; nothing for None."""
    if value is None:
        return ""
    return f"{value:.{digits}g}" if isinstance(value, float) else str(value)
