"""What lies on this machine: data sets, and what fits have left in the cache."""

import os
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from gdiff.cli.endings import Commands
from gdiff.cli.options import ConfigDir, Overrides, Plugins
from gdiff.errors import UserError

app = typer.Typer(cls=Commands, help="What data sets there are and what they need.")


@app.command("list")
def list_(
    data_dir: Annotated[Path | None, typer.Option(help="Folder of prepared data sets.")] = None,
) -> None:
    """Data sets known by name, and which are ready on this machine."""
    from gdiff.dataset import prepare as data
    from gdiff.report import rows_table, show

    if data_dir is not None and not Path(os.path.expanduser(data_dir)).is_dir():
        raise UserError(f"--data-dir {data_dir} is not a folder")
    show(rows_table(data.available(data_dir)))


@app.command("info")
def info(overrides: Overrides = None, config_dir: ConfigDir = None, plugin: Plugins = None) -> None:
    """Size, range and classes of a data set, for example: gdiff data info dataset=mnist."""
    from gdiff import config
    from gdiff.dataset import prepare as data
    from gdiff.report import metrics_table, rows_table, show

    with config.composer(config_dir, plugin or ()) as composer:
        experiment = composer.experiment(overrides or [])
    dataset = experiment.dataset.load()
    show(metrics_table(data.describe(dataset)))
    if classes := data.classes(dataset):
        show(rows_table(classes))


@app.command("prepare")
def prepare(
    name: Annotated[
        str,
        typer.Argument(help="A name of TensorFlow Datasets, or synthetic.", show_default=False),
    ],
    data_dir: Annotated[Path | None, typer.Option(help="Where to put it.")] = None,
    points: Annotated[int | None, typer.Option(help="synthetic: images.")] = None,
    resolution: Annotated[int | None, typer.Option(help="synthetic: pixels a side.")] = None,
    output: Annotated[Path | None, typer.Option("-o", help="synthetic: the .npy file.")] = None,
) -> None:
    """Download a data set and store it in the format that gdiff reads.

    `synthetic` is made here: a .npy file of the size of ImageNet-64, or of --points images of
    --resolution pixels, crops laid over each other of Tiny ImageNet or CIFAR-10, where it is there.
    """
    from gdiff.dataset import prepare as data

    options = {"output": output, "points": points, "resolution": resolution}
    given = {key: value for key, value in options.items() if value is not None}
    if name == "synthetic":
        print(data.prepare_synthetic(data_dir, **given))
        return
    if given:
        raise UserError(f"--{next(iter(given))} is for gdiff data prepare synthetic: leave it out")
    print(data.prepare(name, data_dir))


cache_app = typer.Typer(cls=Commands, help="What fits have left in the cache folder.")


@cache_app.command("list")
def cache_list() -> None:
    """What the cache holds, largest first."""
    from gdiff.memory import in_words
    from gdiff.report import duration, rows_table, show
    from gdiff.store import cache, entries

    found = entries.entries()
    if found:
        rows = [_CacheRow(e.kind, e.key, in_words(e.size), duration(e.age)) for e in found]
        show(rows_table(rows))
    print(f"{in_words(sum(entry.size for entry in found))} in {cache.cache_dir()}")


@cache_app.command("clear")
def cache_clear(
    kinds: Annotated[
        list[str] | None,
        typer.Argument(metavar="KIND...", help="As in cache list.", show_default=False),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Whatever kind it is.")] = False,
) -> None:
    """Remove what fits have left, by kind; what a run needs is made again."""
    from gdiff.memory import in_words
    from gdiff.store import cache, entries

    if bool(kinds) == every:
        raise UserError(
            "say what to remove: gdiff cache clear KIND (see gdiff cache list) or --all"
        )
    gone = entries.clear(None if every else kinds)
    size = in_words(sum(entry.size for entry in gone))
    print(f"removed {len(gone)} entries, {size}, from {cache.cache_dir()}")


class _CacheRow(NamedTuple):
    kind: str
    key: str
    size: str
    age: str
