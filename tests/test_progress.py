"""Progress: silent at first, bars on a terminal, plain lines elsewhere."""

import os
import pty
import re
import subprocess
import sys
import threading
import time

import pytest

from gdiff import progress

# Three tasks of 0.3 s each, two of them nested; what is long begins after 0.1 s here.
SCRIPT = """
import sys, time
from gdiff import progress
progress._SHOW_AFTER_SECONDS = 0.1
progress.configure(**eval(sys.argv[1]))
with progress.track("outer"), progress.track("counting", 30, "sheep") as bar:
    for i in range(30):
        time.sleep(0.01)
        bar.advance()
with progress.track("short"):
    pass
print("the end")
"""


@pytest.fixture(autouse=True)
def _restored():
    yield
    progress.configure()


def script(**options):
    return [sys.executable, "-c", SCRIPT, repr(options)]


def on_a_terminal(**options):
    """What a terminal receives."""
    leader, follower = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "100"}
    process = subprocess.Popen(script(**options), stdout=follower, stderr=follower, env=environment)
    os.close(follower)
    received = b""
    while True:
        try:
            block = os.read(leader, 65536)
        except OSError:  # how Linux says that the other side is closed
            break
        if not block:
            break
        received += block
    os.close(leader)
    assert process.wait() == 0
    return received.decode()


def elsewhere(**options):
    return subprocess.run(script(**options), capture_output=True, text=True, check=True)


def test_a_terminal_shows_nested_bars_with_rate_and_time_left_and_clears_them():
    text = on_a_terminal(label="run 3:")
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text)
    assert re.search(r"run 3: counting *━+.*\d+/30 sheep, [\d.]+/s, \d+ s left", plain)
    assert "run 3: outer" in plain
    assert "short" not in plain
    assert plain.splitlines()[-1].strip() == "the end"
    assert "\x1b[?25h" in text, "the cursor comes back"


def test_plain_lines_where_there_is_no_terminal():
    lines = elsewhere().stderr.splitlines()
    assert all(re.match(r"(outer|counting): ", line) for line in lines)
    assert any(re.match(r"counting: 30/30 sheep in \d+ s$", line) for line in lines)
    assert len(lines) < 10


def counted(monkeypatch, capsys, seconds, shown_after):
    """Lines of work at a unit a second, where timers fire after so many."""

    class Timer(threading.Timer):
        def start(self):
            timers.append(self)

    now, timers = 100.0, []
    monkeypatch.setattr(time, "monotonic", lambda: now)
    monkeypatch.setattr(threading, "Timer", Timer)
    with progress.track("outer"), progress.track("counting", seconds, "sheep") as bar:
        for second in range(1, seconds + 1):
            now += 1
            bar.advance()
            if second == shown_after:
                for timer in timers:
                    timer.function()
    return capsys.readouterr().err.splitlines()


def test_plain_lines_come_at_growing_distances(monkeypatch, capsys):
    assert counted(monkeypatch, capsys, 30, 3) == [
        "outer: …",
        "counting: 3/30 sheep, 1/s, 27 s left",
        "counting: 8/30 sheep, 1/s, 22 s left",
        "counting: 17/30 sheep, 1/s, 13 s left",
        "counting: 30/30 sheep in 30 s",
        "outer: 30 s",
    ]


def test_a_terminal_may_be_asked_for_plain_lines():
    text = on_a_terminal(live=False)
    assert "\x1b" not in text
    assert "counting: 30/30 sheep" in text


@pytest.mark.parametrize("option", ["quiet", "silent"])
def test_quiet_says_nothing_of_what_is_short(option):
    assert elsewhere(**{option: True}).stderr == ""
    assert on_a_terminal(**{option: True}) == "the end\r\n"


def test_quiet_says_that_long_work_goes_on_and_silent_does_not(monkeypatch, capsys):
    progress.configure(quiet=True)
    lines = counted(monkeypatch, capsys, 400, 30)
    assert lines[:2] == ["outer: …", "counting: 30/400 sheep, 1/s, 6 min 10 s left"]
    assert [line.partition("/")[0] for line in lines[2:-1]] == [
        *("counting: 91", "counting: 212", "counting: 400"),
    ]
    progress.configure(silent=True)
    assert counted(monkeypatch, capsys, 400, 0) == []


def test_nothing_shows_before_two_seconds(capsys):
    begin = time.monotonic()
    with progress.track("counting", 10, "sheep") as bar:
        for _ in range(10):
            bar.advance()
    assert time.monotonic() - begin < 2
    assert capsys.readouterr().err == ""


def test_no_threads_stay(monkeypatch):
    monkeypatch.setattr(progress, "_SHOW_AFTER_SECONDS", 3600.0)
    before = threading.active_count()
    with pytest.raises(ZeroDivisionError), progress.track("work"):
        _ = 1 / 0
    for thread in threading.enumerate():
        if isinstance(thread, threading.Timer):
            thread.join()
    assert threading.active_count() <= before


def test_the_rate_leaves_out_what_was_skipped(monkeypatch):
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with progress.track("sampling", 100, "steps") as bar:
        now += 50  # compilation
        bar.reach(40, skipped=True)
        assert bar.state() == "40/100 steps"
        now += 5
        bar.reach(50)
        assert bar.state() == "50/100 steps, 2/s, 25 s left"
        bar.reach(100)
        assert bar.state() == "100/100 steps, 12/s"


@pytest.mark.parametrize(
    "seconds, text", [(0.4, "0 s"), (59.4, "59 s"), (125, "2 min 5 s"), (12000, "3 h 20 min")]
)
def test_times_are_for_people(seconds, text):
    assert progress._duration(seconds) == text
