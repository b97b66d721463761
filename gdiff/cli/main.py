"""The `gdiff` command: its verbs, and what Ctrl-C and other signals do."""

import logging
import os
import signal
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gdiff import __version__
from gdiff.cli import compare, data, past, train, verbs
from gdiff.cli.endings import SIGNALS, Commands, ending, signal_of
from gdiff.errors import interrupt_in

if TYPE_CHECKING:
    from types import FrameType

app = typer.Typer(
    cls=Commands,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for verb in (
    *(
        verbs.sample,
        train.train,
        verbs.evaluate,
        verbs.schedule,
        verbs.plan,
        verbs.info,
        verbs.bench,
        compare.compare,
    ),
    *(past.runs, past.report, past.plot),
):
    app.command()(verb)


def _show_version(asked: bool) -> None:
    if asked:
        print(f"gdiff {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version and stop.", is_eager=True, callback=_show_version
        ),
    ] = False,
) -> None:
    """Experiments in analytical diffusion: the score comes from the data set itself.

    Examples:

        gdiff sample dataset=moons sampler=ancestral

        gdiff sample -m sampler=ddim,ancestral schedule.steps=10,50

        gdiff runs --sort sliced_w2

    TAB completes groups, options and keys after gdiff --install-completion.
    """


app.add_typer(data.app, name="data")
app.add_typer(data.cache_app, name="cache")


def main() -> None:
    """Entry point of the `gdiff` command."""
    sys.unraisablehook = _on_lost_exception
    logging.raiseExceptions = False  # a log that cannot be written is no reason for tracebacks
    for number in SIGNALS:
        # Else it is to be ignored, as SIGHUP is under nohup.
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, _on_signal)
    try:
        app()
    except SystemExit as left:
        code = left.code
        if code not in {128 + number for number in SIGNALS}:
            raise
    except Exception as error:
        cause = interrupt_in(error)
        if cause is None:
            raise
        last, code = ending(cause)
        with suppress(OSError):
            print(last, file=sys.stderr)
    # Ending the usual way, with threads of JAX still at work, crashes now and then.
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):  # nobody reads it any more
            stream.flush()
    os._exit(code)


def _on_signal(number: int, frame: "FrameType | None") -> None:
    """Ctrl-C and its like, but not in an import: modules in C may abort the process then."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            _send_again(number)
            return
        frame = frame.f_back
    raise KeyboardInterrupt(number)


def _on_lost_exception(lost: Any) -> None:
    """Python drops what is raised in callbacks and destructors; Ctrl-C must not get lost there.

    JAX has such a callback of the garbage collector.
    """
    if lost.exc_type is KeyboardInterrupt:
        _send_again(signal_of(lost.exc_value))
    else:
        sys.__unraisablehook__(lost)


def _send_again(number: int) -> None:
    """The signal in a moment."""
    main_thread = threading.main_thread().ident
    again = threading.Timer(0.1, signal.pthread_kill, (main_thread, number))
    again.daemon = True
    again.start()
