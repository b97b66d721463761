"""The `gdiff` command: its verbs, and what Ctrl-C does."""

import os
import signal
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import typer

from gdiff.cli import data, verbs
from gdiff.cli.endings import INTERRUPTED, Commands, ending
from gdiff.errors import interrupt_in

if TYPE_CHECKING:
    from types import FrameType

app = typer.Typer(
    cls=Commands,
    help="Experiments in analytical diffusion: the score comes from the data set itself.",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for verb in (verbs.sample, verbs.evaluate, verbs.schedule, verbs.plan, verbs.info, verbs.bench):
    app.command()(verb)
app.add_typer(data.app, name="data")
app.add_typer(data.cache_app, name="cache")


def main() -> None:
    """Entry point of the `gdiff` command."""
    sys.unraisablehook = _on_lost_exception
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it is to be ignored
        signal.signal(signal.SIGINT, _on_interrupt)
    try:
        app()
    except SystemExit as left:
        if left.code != INTERRUPTED:
            raise
    except Exception as error:
        cause = interrupt_in(error)
        if cause is None:
            raise
        print(ending(cause)[0], file=sys.stderr)
    # Ending the usual way, with threads of JAX still at work, crashes now and then.
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):  # nobody reads it any more
            stream.flush()
    os._exit(INTERRUPTED)


def _on_interrupt(_: int, frame: "FrameType | None") -> None:
    """Ctrl-C, but not in an import: modules in C may abort the process if interrupted."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            _interrupt_again()
            return
        frame = frame.f_back
    raise KeyboardInterrupt


def _on_lost_exception(lost: Any) -> None:
    """Python drops what is raised in callbacks and destructors; Ctrl-C must not get lost there.

    JAX has such a callback of the garbage collector.
    """
    if lost.exc_type is KeyboardInterrupt:
        _interrupt_again()
    else:
        sys.__unraisablehook__(lost)


def _interrupt_again() -> None:
    """Ctrl-C in a moment."""
    main_thread = threading.main_thread().ident
    again = threading.Timer(0.1, signal.pthread_kill, (main_thread, signal.SIGINT))
    again.daemon = True
    again.start()
