"""How a command ends: one line for a mistake or a signal, and an exit code."""

import errno
import os
import shlex
import signal
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperGroup

from gdiff.errors import UserError
from gdiff.store.places import TRAINING

# Signals that end a command, and what its last line says then.
SIGNALS = {
    signal.SIGINT: "interrupted",
    signal.SIGTERM: "terminated",
    signal.SIGHUP: "hung up",
}
# What helps where the system refuses.
_REMEDIES = {
    errno.EACCES: "change its permissions, or choose another path",
    errno.EDQUOT: "make room there, or choose another path",
    errno.EFBIG: "raise the limit of file sizes (ulimit -f)",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ENOENT: "choose a path that is there",
    errno.ENOSPC: "make room there, or choose another path",
    errno.EPERM: "change its permissions, or choose another path",
    errno.EROFS: "choose another path",
}

# Typer does not export it by name: a command line that cannot be read.
_UsageError = typer.BadParameter.__mro__[1]


class Interrupted(KeyboardInterrupt):
    """A signal, such as Ctrl-C, during the run or the sweep in a folder."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder


class Commands(TyperGroup):
    """What the user can put right is one line and exit code 2; a signal is 128 and its number."""

    def main(
        self, args: Sequence[str] | None = None, standalone_mode: bool = True, **extra: Any
    ) -> Any:
        """Run the command line, with usage errors as one line too."""
        try:
            code = super().main(args, standalone_mode=False, **extra)
        except _UsageError as error:
            command = error.ctx.command_path if error.ctx else "gdiff"
            print(error_line(f"{error.format_message()} (see {command} --help)"), file=sys.stderr)
            code = 2
        if standalone_mode:
            sys.exit(code)
        return code

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:
        """Without arguments, show the help."""
        return super().parse_args(ctx, args or ["--help"])

    def invoke(self, ctx: typer.Context) -> Any:
        """Run a verb and print its error."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # as of `gdiff data list | head`: Typer ends quietly
            raise
        except (UserError, OSError, KeyboardInterrupt) as error:
            last, code = ending(error)
            with suppress(OSError):  # the terminal may be gone
                print(last, file=sys.stderr, flush=True)
            raise typer.Exit(code) from None


def ending(error: UserError | OSError | KeyboardInterrupt) -> tuple[str, int]:
    """The last line of a command that was not done, and its exit code."""
    if not isinstance(error, KeyboardInterrupt):
        if os.environ.get("GDIFF_DEBUG") == "1":
            traceback.print_exc()
        return error_line(error), error.code if isinstance(error, UserError) else 2
    hint = ""
    begun = ("config.yaml", "multirun.yaml")
    if isinstance(error, Interrupted) and any((error.folder / name).is_file() for name in begun):
        folder = shlex.quote(str(shown(error.folder)))
        verb = "train" if (error.folder / TRAINING).is_file() else "sample"
        hint = f"; continue with: gdiff {verb} --resume {folder}"
    number = signal_of(error)
    return f"{SIGNALS[number]}{hint}", 128 + number


def signal_of(error: BaseException | None) -> signal.Signals:
    """What was received: the first argument of an interrupt, or of the one that it came from."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt) and error.args and error.args[0] in SIGNALS:
            return signal.Signals(error.args[0])
        error = error.__cause__ or error.__context__
    return signal.SIGINT


def error_line(error: object, where: str = "") -> str:
    """What the user can put right as one line."""
    return " ".join(f"error: {where}{in_words(error)}".split())


def in_words(error: object) -> str:
    """What an error says; of one of the system's, also the file and what to do."""
    if not isinstance(error, OSError) or error.strerror is None:
        return str(error)
    where = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
    remedy = _REMEDIES.get(error.errno, "GDIFF_DEBUG=1 shows where")
    return f"{where}{error.strerror}: {remedy}"


def shown(path: Path) -> Path:
    """A path as people like to read it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
