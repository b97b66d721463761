"""Verbs about runs of the past: find them, compare them, draw them."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gdiff.cli.endings import shown
from gdiff.errors import UserError

if TYPE_CHECKING:
    from gdiff.runs import PastRun

OUTPUTS = Path("outputs")
_PAGE = Path("report.html")

Folders = Annotated[
    list[Path] | None,
    typer.Argument(
        metavar="FOLDER",
        help="Runs, sweeps, or folders of them; by default outputs/.",
        show_default=False,
    ),
]
Where = Annotated[
    list[str] | None,
    typer.Option(
        "--where",
        metavar="CONDITION",
        help="Only runs with sampler=ddim, schedule.steps>10, status!=failed, …; once for each.",
        show_default=False,
    ),
]
Last = Annotated[int | None, typer.Option("--last", min=1, help="Only so many, the newest.")]


class _NoneMeetsError(UserError):
    """There are runs, but none that is meant: for a list that is an answer."""


def runs(
    folders: Folders = None,
    sort: Annotated[
        str | None,
        typer.Option(help="A metric, a setting, or age, name, size, status.", show_default=False),
    ] = None,
    reverse: Annotated[bool, typer.Option("--reverse", help="The largest first.")] = False,
    where: Where = None,
    last: Last = None,
) -> None:
    """List past runs: what tells them apart, how they ended, their age, size and metrics.

    Examples:

        gdiff runs --sort sliced_w2 --where dataset=moons

        gdiff runs outputs/multirun --where 'schedule.steps>10' --last 20
    """
    from gdiff import report
    from gdiff.runs import ordered

    try:
        found, _ = _found(folders, where, last)
    except _NoneMeetsError as error:
        print(error, file=sys.stderr)
        return
    if sort is not None:
        found = ordered(found, sort)
    report.show(report.runs_table(found[::-1] if reverse else found, sort))


def report(
    folders: Folders = None,
    output: Annotated[
        Path, typer.Option("-o", metavar="FILE.html", help="Where to write it.")
    ] = _PAGE,
    where: Where = None,
    last: Last = None,
) -> None:
    """Compare runs on one HTML page that needs no network and no files beside it.

    Examples:

        gdiff report outputs/multirun/2026-01-31/12-00-00-000000

        gdiff report --last 4 -o last.html
    """
    from gdiff.report import page

    _require_file(output, (".html", ".htm"))
    found, damaged = _found(folders, where, last)
    title = ", ".join(folder.resolve().name for folder in folders or [OUTPUTS])
    page.write(output, found, damaged, title)
    print(shown(output))


def plot(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="FOLDER",
            help="Sweeps or runs, by default outputs/, or a scaling study.",
            show_default=False,
        ),
    ] = None,
    metric: Annotated[
        str,
        typer.Argument(
            metavar="METRIC",
            help="A name in metrics.json; of a scaling study rounds or errors.",
            show_default=False,
        ),
    ] = "",
    x: Annotated[
        str | None,
        typer.Option("--x", help="The setting along the axis; by default the one that suits."),
    ] = None,
    line: Annotated[
        list[str] | None,
        typer.Option(
            "--line",
            help="A setting that tells lines apart, once for each; by default all that differ.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", metavar="FILE", help="A .pdf, .svg or .png; by default METRIC.pdf."),
    ] = None,
    where: Where = None,
) -> None:
    """Draw a metric of a sweep against a setting; seeds become means with standard errors.

    Examples:

        gdiff plot outputs/multirun/2026-01-31/12-00-00-000000 sliced_w2

        gdiff plot SWEEP kl_total --x schedule.steps --line sampler -o kl.svg

        gdiff plot outputs/scaling_study rounds
    """
    from gdiff.figures.lines import lines_figure
    from gdiff.runs import series, tables
    from gdiff.store.files import replacing

    folders, metric = _with_metric(folders or [], metric)
    output = Path(f"{metric}.pdf") if output is None else output
    _require_file(output, (".pdf", ".svg", ".png"))
    kind = output.suffix.lower().removeprefix(".")
    if len(folders) == 1 and tables.has_scaling(folders[0], metric):
        with replacing(output) as file:
            file.write(_scaling(folders[0], metric, kind))
        print(shown(output))
        return
    found, _ = _found(folders, where, None)
    axes = series.axes(found, x, line)
    if axes.x is None:
        raise UserError("these runs differ in nothing but their seeds: name a setting with --x")
    lines = series.series(found, metric, axes)
    numbers = [number for each in lines for number in each.y]
    places = [place for each in lines for place in each.x]
    log = (not axes.names and series.is_wide(places, "x"), series.is_wide(numbers, "y"))
    look = {"legend": ", ".join(axes.lines), "names": axes.names, "log": log}
    with replacing(output) as file:
        file.write(lines_figure(lines, (axes.x, metric), kind=kind, **look))
    print(shown(output))


def _with_metric(folders: Sequence[Path], metric: str) -> tuple[list[Path], str]:
    """Folders, outputs/ if none is named, and the metric, which is the last word.

    Raises:
        UserError: the last word is a folder, or there is none.
    """
    *folders, metric = [*map(str, folders), *([metric] if metric else [])] or [""]
    if not metric or Path(metric).is_dir():
        where = metric or OUTPUTS
        raise UserError(f"name a metric after the folders, as in gdiff plot {where} sliced_w2")
    return [Path(folder) for folder in folders] or [OUTPUTS], metric


def _scaling(folder: Path, name: str, kind: str) -> bytes:
    """The figure of a table of the scaling study."""
    from gdiff import figures
    from gdiff.runs import tables

    rows = tables.scaling(folder, name)
    if name == "rounds":
        return figures.rounds_figure(rows, kind)
    has_images = tables.has_scaling(folder, "images")
    images = tables.scaling(folder, "images") if has_images else []
    return figures.errors_figure(tables.scaling(folder, "errors"), images, kind)


def _require_file(output: Path, suffixes: Sequence[str]) -> None:
    """Raise `UserError` unless a file of such a kind can be written there."""
    known = ", ".join(suffixes)
    if output.suffix.lower() not in suffixes:
        raise UserError(f"-o {output}: give a file whose name ends in one of {known}")
    parent = output.absolute().parent
    if not parent.is_dir():
        raise UserError(f"-o {output}: there is no folder {parent}")
    if output.is_dir():
        raise UserError(f"-o {output} is a folder: give a file in it")


def _found(
    folders: Sequence[Path] | None, where: Sequence[str] | None, last: int | None
) -> "tuple[list[PastRun], list[str]]":
    """The runs that are meant, one at least; what is damaged is also named on stderr."""
    from gdiff.report import printable
    from gdiff.runs import chosen, find, newest

    folders = folders if folders else [OUTPUTS]
    found, damaged = find(folders)
    for line in damaged:
        print(f"warning: left out: {printable(line)}", file=sys.stderr, flush=True)
    places = ", ".join(str(shown(folder)) for folder in folders)
    if not found:
        raise UserError(f"there are no runs in {places}: gdiff sample makes some")
    found = chosen(found, where or ())
    if not found:
        raise _NoneMeetsError(f"no run in {places} meets {' and '.join(where or ())}: ask for less")
    return found if last is None else newest(found, last), damaged
