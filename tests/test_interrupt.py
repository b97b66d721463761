"""Ctrl-C and its like, also at an unlucky moment."""

import logging
import os
import signal
import subprocess
import sys
import time

import pytest
from commands import SMALL

from gdiff import cli
from gdiff.cli.endings import SIGNALS, Interrupted

# The signal arrives while a callback of the garbage collector runs, after the first batch; the
# other batches take a minute.
SCRIPT = """
import gc, signal
from gdiff.cli import main
from gdiff.store.outputs import RunFolder

def callback(phase, info):
    gc.callbacks.remove(callback)
    signal.raise_signal(signal.SIGINT)

def write_chunk(self, number, **arrays):
    whole(self, number, **arrays)
    if number == 0:
        gc.callbacks.append(callback)
        gc.collect()

whole, RunFolder.write_chunk = RunFolder.write_chunk, write_chunk
main()
"""
LONG = ("dataset=moons", *SMALL, "metrics=none", "batch_size=1", "num_samples=20000")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_in_a_callback_of_the_garbage_collector_is_not_lost(tmp_path, number):
    script = SCRIPT.replace("SIGINT", number.name)
    process = subprocess.run(
        [sys.executable, "-c", script, "sample", "-q", *LONG, "hydra.run.dir=run"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert process.returncode == 128 + number, process.stderr
    assert process.stderr == f"{SIGNALS[number]}; continue with: gdiff sample --resume run\n"
    assert len(list((tmp_path / "run" / "chunks").iterdir())) < 20000


@pytest.fixture
def _hooks(monkeypatch):
    """What main() changes in this process is undone."""
    monkeypatch.setattr(logging, "raiseExceptions", logging.raiseExceptions)
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    monkeypatch.setattr(os, "_exit", sys.exit)
    # A signal that is ignored from the start, as under nohup, stays ignored.
    handlers = {number: signal.signal(number, signal.SIG_DFL) for number in SIGNALS}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


def ending(app, monkeypatch, capsys):
    """Exit code and stderr of the command."""
    monkeypatch.setitem(cli.main.__globals__, "app", app)
    with pytest.raises(SystemExit) as caught:
        cli.main()
    return caught.value.code, capsys.readouterr().err


@pytest.mark.usefixtures("_hooks")
def test_an_interrupt_after_which_a_library_cannot_clean_up_is_still_one(monkeypatch, capsys):
    def fail():
        try:
            raise KeyboardInterrupt
        finally:
            raise AttributeError("half of an object")

    assert ending(fail, monkeypatch, capsys) == (130, "interrupted\n")


@pytest.mark.usefixtures("_hooks")
@pytest.mark.parametrize("number", SIGNALS)
def test_signals_that_end_a_run_say_how_to_continue(number, tmp_path, monkeypatch, capsys):
    (tmp_path / "config.yaml").write_text("")
    monkeypatch.chdir(tmp_path.parent)

    def run():
        try:
            signal.raise_signal(number)
            time.sleep(60)
        except KeyboardInterrupt:
            raise Interrupted(tmp_path) from None

    monkeypatch.setattr("gdiff.cli.verbs.launch.run", lambda *_, **__: run())
    hint = f"continue with: gdiff sample --resume {tmp_path.name}"
    monkeypatch.setattr(sys, "argv", ["gdiff", "sample"])
    assert ending(cli.app, monkeypatch, capsys) == (128 + number, f"{SIGNALS[number]}; {hint}\n")


@pytest.mark.usefixtures("_hooks")
def test_a_terminal_that_is_gone_is_no_error(monkeypatch, capsys):
    def run(*_, **__):
        monkeypatch.setattr(sys, "stderr", Gone())
        signal.raise_signal(signal.SIGHUP)

    monkeypatch.setattr("gdiff.cli.verbs.launch.run", run)
    monkeypatch.setattr(sys, "argv", ["gdiff", "sample"])
    assert ending(cli.app, monkeypatch, capsys) == (129, "")


class Gone:
    """A stream to a terminal that was closed."""

    def write(self, _):
        raise OSError(5, "Input/output error")

    def flush(self):
        self.write("")


@pytest.mark.usefixtures("_hooks")
def test_an_import_is_not_interrupted_but_what_follows(tmp_path, monkeypatch, capsys):
    module = tmp_path / "interrupted_import.py"
    module.write_text("import signal\nsignal.raise_signal(signal.SIGINT)\nis_whole = True\n")
    monkeypatch.syspath_prepend(tmp_path)

    def run():
        try:
            import interrupted_import

            assert interrupted_import.is_whole
            time.sleep(60)
        except KeyboardInterrupt:
            raise SystemExit(130) from None

    assert ending(run, monkeypatch, capsys) == (130, "")


@pytest.mark.usefixtures("_hooks")
@pytest.mark.parametrize("number", SIGNALS)
def test_interrupts_that_are_to_be_ignored_stay_ignored(number, monkeypatch, capsys):
    signal.signal(number, signal.SIG_IGN)

    def run():
        signal.raise_signal(number)
        raise SystemExit(0)

    assert ending(run, monkeypatch, capsys) == (0, "")
