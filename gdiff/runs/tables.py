"""Tables of studies as they are found: plain data, of which nothing is run."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from gdiff.errors import UserError, require
from gdiff.store.outputs import read_csv

_LONGEST = 2**24  # bytes
# Columns of the scaling study's tables that are no numbers.
_NAMES = ("measure", "method")
# What its figures need, by the name of the table.
SCALING: Mapping[str, Sequence[str]] = {
    "rounds": ("measure", "dim", "steps", "rounds", "budget"),
    "errors": ("method", "steps", "evaluations", "total_variation"),
    "images": ("method", "steps", "evaluations", "sliced_w2", "sliced_w2_null"),
}


def has_scaling(folder: Path, name: str) -> bool:
    """Whether a folder holds a table of the scaling study under a name."""
    return name in SCALING and (folder / f"{name}.csv").is_file()


def scaling(folder: Path, name: str) -> list[dict[str, str | float]]:
    """The rows of such a table.

    Raises:
        UserError: it is damaged, or empty.
    """
    path = folder / f"{name}.csv"
    remedy = "make it again with scripts/scaling_study.py"
    try:
        found = [
            {key: row[key] if key in _NAMES else float(row[key]) for key in SCALING[name]}
            for row in read_csv(path, _LONGEST)
        ]
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise UserError(f"{path} is not a table of the scaling study: {remedy}") from error
    require(bool(found), f"{path} has no rows: {remedy}")
    return found
