"""What the scripts that make a table out of runs have in common."""

import argparse
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from gdiff.errors import UserError, require
from gdiff.runs import sweep
from gdiff.store.outputs import SWEEP, write_csv


def parser(description):
    """The arguments that all tables take."""
    found = argparse.ArgumentParser(
        description=description, epilog="The top of the file says what the columns are."
    )
    found.add_argument("overrides", nargs="*", help="Hydra overrides of all runs")
    found.add_argument("--folder", type=Path, help="of the runs: a new one, or to go on there")
    found.add_argument("--csv", type=Path, metavar="FILE", help="also write the table there")
    return found


def folder_of(options, name):
    """Where the user wants what is made, or a new folder."""
    return options.folder or Path("outputs", name, time.strftime("%Y-%m-%d-%H-%M-%S"))


def write(rows, options):
    """Write named tuples, one a row, to the file of --csv."""
    if options.csv is not None:
        write_csv(options.csv, rows[0]._fields, [row._asdict() for row in rows])


def words(overrides, ours, defaults):
    """The overrides of a sweep: the user's, those that the table sets, and defaults for others.

    Raises:
        UserError: the user sets what the table sets.
    """
    given = {each.partition("=")[0].lstrip("+") for each in overrides}
    taken = given & {each.partition("=")[0] for each in ours}
    require(not taken, f"{', '.join(sorted(taken))} is set by the table: leave it out")
    defaults = [each for each in defaults if each.partition("=")[0] not in given]
    return [*defaults, *ours, *overrides]


def rows(overrides, folder):
    """Run a sweep in `folder`, or what is left of it: the row of every run."""
    if (folder / SWEEP).is_file():
        words = ["--resume", str(folder), *overrides]
    else:
        quoted = str(folder.absolute()).replace("'", "\\'")
        words = ["-m", *overrides, f"hydra.sweep.dir='{quoted}'"]
    command = [sys.executable, "-m", "gdiff", "sample", *words]
    code = subprocess.run(command, stdout=subprocess.DEVNULL).returncode
    require(code == 0, f"not all runs in {folder} went well: see above")
    return sweep.rows(folder)


def mean_and_error(values):
    """Mean of numbers, and its standard error if there are several."""
    count = len(values)
    error = float(np.std(values, ddof=1) / np.sqrt(count)) if count > 1 else None
    return float(np.mean(values)), error


def end(main):
    """Run a script to its end; a mistake of the user's is one line."""
    try:
        sys.exit(main())
    except UserError as error:
        sys.exit(f"error: {error}")
