"""How a command ends: one line for a mistake or an interrupt, and an exit code."""

import os
import shlex
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperGroup

from gdiff.errors import UserError

# Exit code of shells for Ctrl-C.
INTERRUPTED = 130

# Typer does not export it by name: a command line that cannot be read.
_UsageError = typer.BadParameter.__mro__[1]


class Interrupted(KeyboardInterrupt):
    """Ctrl-C during the run or the sweep in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder


class Commands(TyperGroup):
    """A user's mistake is one line and exit code 2; an interrupt is exit code 130."""

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
        except (UserError, KeyboardInterrupt) as error:
            last, code = ending(error)
            print(last, file=sys.stderr)
            raise typer.Exit(code) from None


def ending(error: UserError | KeyboardInterrupt) -> tuple[str, int]:
    """The last line of a command that was not done, and its exit code."""
    if isinstance(error, UserError):
        if os.environ.get("GDIFF_DEBUG") == "1":
            traceback.print_exc()
        return error_line(error), 2
    hint = ""
    begun = ("config.yaml", "multirun.yaml")
    if isinstance(error, Interrupted) and any((error.folder / name).is_file() for name in begun):
        folder = shlex.quote(str(shown(error.folder)))
        hint = f"; continue with: gdiff sample --resume {folder}"
    return f"interrupted{hint}", INTERRUPTED


def error_line(error: object, where: str = "") -> str:
    """A user's mistake as one line."""
    return " ".join(f"error: {where}{error}".split())


def interrupt_in(error: BaseException | None) -> KeyboardInterrupt | None:
    """The interrupt that an error came from: interrupted libraries may fail in cleaning up."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error


def shown(path: Path) -> Path:
    """A path as people like to read it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
