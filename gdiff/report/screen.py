"""Tables for the screen."""

import os
import platform
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from gdiff import memory
from gdiff.report.words import NULL, spread_of, without_spreads
from gdiff.runs import PastRun, differing
from gdiff.runs.sweep import columns

_WIDE = 10_000  # columns, more than any table has


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
    for name in without_spreads(columns(rows)):
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


# Columns of numbers that a list of runs shows, as far as the runs have them.
_LISTED = ("sliced_w2", "frechet_pca", "copy_fraction", "kl_total", "seconds_per_sample")


def runs_table(runs: Sequence[PastRun], sort: str | None = None) -> Table:
    """Past runs for the screen, with what tells them apart, and `sort` among the metrics."""
    differences = differing(runs)
    metrics = dict.fromkeys(n for run in runs for n in run.metrics)
    listed = [name for name in (sort, *_LISTED) if name in metrics]
    look = {"box": box.SIMPLE_HEAD, "padding": 0, "show_edge": False}
    headers = ("run", "status", "age", "size", "differs in", *dict.fromkeys(listed))
    rows = []
    for place, run in enumerate(runs):
        words = [
            f"{d.key}={d.values[place]}"
            for d in differences
            if d.values[place] not in (None, "null")
        ]
        about = (printable(run.name), run.status, duration(run.age), memory.in_words(run.size))
        numbers = (cell(run.metrics.get(n), digits=3) for n in dict.fromkeys(listed))
        rows.append((*about, printable(" ".join(words)), *numbers))
    found = table((_broken(name, 9) for name in headers), rows, left=5, **look)
    for column in found.columns[:1]:
        column.overflow = "fold"
    return found


def printable(text: str) -> str:
    """A text of anyone's for a terminal, which takes some characters for orders."""
    return "".join(letter if letter.isprintable() else "�" for letter in text)


def duration(seconds: float) -> str:
    """A time in the past, in the unit that suits it."""
    for unit, length in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} seconds"


def _broken(name: str, width: int) -> str:
    """A name on lines of about `width`, broken after underscores and dots only."""
    pieces = re.sub(r"(?<=[_.])", " ", name)
    return textwrap.fill(pieces, width, break_long_words=False).replace(" ", "")


def metrics_table(metrics: Mapping[str, float]) -> Table:
    """The metrics of one run for the screen; those of data drawn again beside them, if any."""
    names = without_spreads(list(metrics))
    nulls = {name: name + NULL for name in names if name + NULL in metrics}
    rows = [
        (name, with_spread(name, metrics), with_spread(nulls.get(name), metrics))
        for name in names
        if name not in nulls.values()
    ]
    if not nulls:
        return table(("metric", "value"), [row[:2] for row in rows])
    return table(("metric", "value", "null"), rows, caption="null: as many data points, drawn")


def with_spread(name: str | None, metrics: Mapping[str, float]) -> str:
    """A metric as text with its ± where it has one; nothing for None."""
    if name is None:
        return ""
    spread = spread_of(name, metrics)
    text = cell(metrics[name])
    return text if spread is None else f"{text} ± {cell(metrics[spread], digits=2)}"


def rows_table(rows: Sequence[Any]) -> Table:
    """Named tuples for the screen, one a row."""
    return table(rows[0]._fields, rows, left=len(rows[0]))


def info_table() -> Table:
    """What this installation runs on, for the screen and for bug reports."""
    from gdiff import __version__
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
    console = Console(markup=False)  # [cat, dog] is a value
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
