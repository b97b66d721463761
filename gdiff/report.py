"""Tables made from run folders."""

import os
import platform
import re
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

import yaml
from rich import box
from rich.console import Console
from rich.table import Table

from gdiff.store.outputs import METRICS, RUN, read_json

SWEEP = "sweep.csv"
_WIDE = 10_000  # columns, more than any table has
_OVERRIDES = Path(".hydra") / "overrides.yaml"


def sweep_rows(folder: Path) -> list[dict[str, object]]:
    """One row a run of a sweep, in the order of job numbers.

    Columns: run (its folder within the sweep's), status, the overrides, the metrics, and the
    error where there is one. A run that was killed counts as failed.
    """
    files = [*folder.rglob(RUN), *folder.rglob(_OVERRIDES.name)]
    runs = {file.parent if file.name == RUN else file.parent.parent for file in files}
    by_number = sorted(runs, key=lambda p: [(len(s), s) for s in p.relative_to(folder).parts])
    return [_row(run, folder) for run in by_number]


def _row(run: Path, folder: Path) -> dict[str, object]:
    overrides = []
    if (run / _OVERRIDES).is_file():
        overrides = yaml.safe_load((run / _OVERRIDES).read_text()) or []
    record = read_json(run / RUN)
    is_complete = record.get("status") == "complete"
    row: dict[str, object] = {
        "run": str(run.relative_to(folder)),
        "status": "complete" if is_complete else "failed",
    }
    row |= dict(override.lstrip("+").partition("=")[::2] for override in overrides)
    return row | (read_json(run / METRICS) if is_complete else {"error": record.get("error", "")})


def columns(rows: Sequence[Mapping]) -> list[str]:
    """Names of all columns of a table, in order of appearance, "error" last."""
    names = dict.fromkeys(name for row in rows for name in row)
    return sorted(names, key=lambda name: name == "error")


def sweep_table(rows: Sequence[Mapping]) -> Table:
    """The runs of a sweep for the screen, without errors, and without what tells no runs apart."""
    shown: dict[str, list[str]] = {}
    for name in columns(rows):
        cells = [cell(row.get(name), digits=3) for row in rows]
        given = [text for text in cells if text]
        says_something = len(given) == 1 or len(set(given)) > 1
        if name != "error" and says_something and cells not in shown.values():
            shown[name] = cells
    table = Table(box=box.SIMPLE_HEAD, padding=0, show_edge=False)
    for name, cells in shown.items():
        width = max(map(len, cells))
        table.add_column(_broken(name, width), justify="right", no_wrap=True)
    for cells in zip(*shown.values(), strict=True):
        table.add_row(*cells)
    return table


def _broken(name: str, width: int) -> str:
    """A name on lines of about `width`, broken after underscores and dots only."""
    pieces = re.findall(r"[^_.]*[_.]|[^_.]+", name)
    width = max(width, *map(len, pieces))
    lines = [""]
    for piece in pieces:
        if len(lines[-1] + piece) > width:
            lines.append("")
        lines[-1] += piece
    return "\n".join(lines)


def metrics_table(metrics: Mapping[str, float]) -> Table:
    """The metrics of one run for the screen."""
    table = Table("metric", "value")
    table.columns[1].justify = "right"
    for name, value in metrics.items():
        table.add_row(name, cell(value))
    return table


def rows_table(rows: Sequence[NamedTuple]) -> Table:
    """Named tuples for the screen, one a row."""
    table = Table(*rows[0]._fields)
    for row in rows:
        table.add_row(*map(cell, row))
    return table


def info_table() -> Table:
    """What this installation runs on, for the screen and for bug reports."""
    import jax

    from gdiff import __version__
    from gdiff.config import config_dir
    from gdiff.dataset.tfds import default_data_dir
    from gdiff.store.cache import cache_dir

    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    packages = ("jax", "jaxlib", "numpy", "hydra-core", "omegaconf", "tensorflow-datasets")
    facts = {"gdiff": __version__, "python": platform.python_version()}
    for name in packages:
        try:
            facts[name] = version(name)
        except PackageNotFoundError:
            facts[name] = "not installed"
    facts["processors"] = _processors()
    facts["memory"] = f"{memory / 2**30:.1f} GiB"
    for device in jax.devices():
        limit = (device.memory_stats() or {}).get("bytes_limit")
        size = f", {limit / 2**30:.1f} GiB" if limit else ""
        facts[str(device)] = f"{device.device_kind}{size}"
    facts["configurations"] = config_dir()
    facts["cache"] = cache_dir()
    facts["data sets"] = default_data_dir()
    table = Table("what", "value")
    for name, value in facts.items():
        table.add_row(name, str(value))
    return table


def show(table: Table) -> None:
    """Print a table: to the width of the terminal, or whole where there is none."""
    console = Console()
    if not console.is_terminal:
        console.width = _WIDE
    console.print(table)


def _processors() -> int:
    """How many this process may use; not all systems tell, and then how many there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cell(value: object, digits: int = 4) -> str:
    """A value in a table; nothing for None."""
    if value is None:
        return ""
    return f"{value:.{digits}g}" if isinstance(value, float) else str(value)
