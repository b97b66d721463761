"""Options that several verbs take."""

from pathlib import Path
from typing import Annotated

import typer

from gdiff.cli import complete

Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="OVERRIDES",
        help="Hydra overrides: group=option, key=value. The groups are dataset, process, score, "
        "schedule, prior, sampler, metrics, runtime and experiment; group=? lists the options.",
        show_default=False,
        autocompletion=complete.overrides,
    ),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print the resolved configuration and stop.")
]
Quiet = Annotated[
    bool,
    typer.Option("--quiet", "-q", help="Print only the folder; of progress, a line now and then."),
]
ConfigDir = Annotated[
    Path | None, typer.Option("--config-dir", help="A folder with groups and options of your own.")
]
Plugins = Annotated[
    list[str] | None,
    typer.Option(
        "--plugin",
        metavar="PACKAGE",
        help="A package of your own whose classes may be used; once for each.",
        show_default=False,
    ),
]
