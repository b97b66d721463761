"""Progress of anything that takes more than a moment, for people and for logs."""

import logging
import math
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich import progress

log = logging.getLogger(__name__)

_SHOW_AFTER_SECONDS = 2.0
_LONGEST_SILENCE_SECONDS = 60.0
# Of work that is to be quiet, before a line says that it goes on; then twice as long, and so on.
_QUIET_SECONDS = 30.0

_lock = threading.RLock()
_is_quiet = _is_silent = False
_is_live = True
_label = ""
_display: "progress.Progress | None" = None


def configure(
    *, quiet: bool = False, silent: bool = False, live: bool = True, label: str = ""
) -> None:
    """How this process shows progress.

    Args:
        quiet: not for half a minute, and then by a line after twice as long each time.
        silent: not at all, as where another process shows it.
        live: by bars where stderr is a terminal, else always by plain lines.
        label: goes before every description.
    """
    global _is_quiet, _is_silent, _is_live, _label
    _is_quiet, _is_silent, _is_live, _label = quiet or silent, silent, live, label


def notice(message: str) -> None:
    """Tell the user something in one line, and the log: on stderr unless all is to be quiet."""
    log.info("%s", message)
    if _is_quiet:
        return
    line = f"{_label} note: {message}".strip()
    with _lock:
        if _display is None:
            print(line, file=sys.stderr, flush=True)
        else:  # above the bars
            _display.console.print(line, markup=False, highlight=False, soft_wrap=True)


class Progress:
    """Counts units of work: a bar on a terminal, a plain line now and then elsewhere.

    Nothing shows before two seconds have passed; half a minute where all is to be quiet.

    Args:
        description: what is being done.
        total: number of units; None where they cannot be counted.
        unit: what they are called.
    """

    def __init__(self, description: str, total: int | None, unit: str) -> None:
        self.description = f"{_label} {description}".strip()
        self.total, self.unit = total, unit
        self.done, self.note = 0, ""
        self._begin = time.monotonic()
        self._base: tuple[float, int] | None = None
        self._task = None
        self._interval = _QUIET_SECONDS if _is_quiet else _SHOW_AFTER_SECONDS
        self._next_line = self._interval
        self._is_shown = self._is_closed = False
        if not _is_silent:
            self._timer = threading.Timer(self._interval, self._show)
            self._timer.daemon = True
            self._timer.start()

    def advance(self, count: int = 1) -> None:
        """`count` more units are done."""
        self.reach(self.done + count)

    def reach(self, done: int, note: str = "", *, skipped: bool = False) -> None:
        """`done` units are done in all; those `skipped` do not count for the rate.

        The note stands after the state until there is another one.
        """
        with _lock:
            self.done, self.note = done, note
            if self._base is None or skipped:
                self._base = (time.monotonic(), done)
            if self._task is not None:
                _display.update(self._task, completed=done, state=self.state())
            elif self._is_shown and self.elapsed > self._next_line:
                self._print_line()

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._begin

    def state(self) -> str:
        """How far it is, how fast, and the time left, as far as they are known."""
        if self.total is None:
            return ""
        state = f"{self.done}/{self.total} {self.unit}" + (f", {self.note}" if self.note else "")
        seconds, done = self._base or (0.0, 0)
        spent = time.monotonic() - seconds
        if self._base is None or self.done == done or spent <= 0:
            return state
        rate = (self.done - done) / spent
        state += f", {rate:.0f}/s" if rate >= 100 else f", {rate:.3g}/s"
        if self.done < self.total:
            state += f", {_duration((self.total - self.done) / rate)} left"
        return state

    def close(self) -> None:
        """Take the bar away, or print the last line."""
        global _display
        with _lock:
            self._is_closed = True
            if not _is_silent:
                self._timer.cancel()
            if self._task is not None:
                _display.remove_task(self._task)
                self._task = None
                if not _display.tasks:
                    _display.stop()
                    _display = None
            elif self._is_shown:
                counts = "" if self.total is None else f"{self.done}/{self.total} {self.unit} in "
                self._print(f"{self.description}: {counts}{_duration(self.elapsed)}")

    def _show(self) -> None:
        """Become visible; runs in the timer's thread."""
        with _lock:
            if self._is_closed:
                return
            self._is_shown = True
            is_bar = _is_live and not _is_quiet
            if is_bar and sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
                display = _open_display()
                self._task = display.add_task(
                    self.description, total=self.total, completed=self.done, state=self.state()
                )
                display.tasks[-1].start_time -= self.elapsed
            else:
                self._print_line()

    def _print_line(self) -> None:
        """Print the state, at growing distances."""
        longest = math.inf if _is_quiet else _LONGEST_SILENCE_SECONDS
        self._interval = min(2 * self._interval, longest)
        self._next_line = self.elapsed + self._interval
        self._print(f"{self.description}: {self.state() or '…'}")

    def _print(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)


@contextmanager
def track(description: str, total: int | None = None, unit: str = "") -> Iterator[Progress]:
    """A `Progress` that disappears at the end of the block, also after an error."""
    progress = Progress(description, total, unit)
    try:
        yield progress
    finally:
        progress.close()


def _open_display() -> "progress.Progress":
    """The one set of bars of this process, a line for everything under way."""
    global _display
    if _display is None:
        from rich import progress
        from rich.console import Console

        _display = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(bar_width=24),
            progress.TimeElapsedColumn(),
            progress.TextColumn("{task.fields[state]}"),
            console=Console(stderr=True),
            transient=True,
        )
        _display.start()
    return _display


def _duration(seconds: float) -> str:
    """A time for people: 7 s, 2 min 5 s, 3 h 20 min."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if minutes else f"{rest} s"
    return f"{minutes // 60} h {minutes % 60} min"
