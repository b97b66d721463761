import time

import pytest

from gdiff.clock import Clock


@pytest.fixture
def at(monkeypatch):
    """Sets what the time is."""
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    return lambda seconds: now.__setitem__(0, float(seconds))


def test_a_phase_within_another_is_not_counted_twice(at):
    clock = Clock({"fit": 100.0})
    with clock.phase("budget", shown=False) as budget:
        at(1)
        with clock.phase("fit", shown=False):
            at(3)
            with clock.phase("dataset", shown=False) as dataset:
                at(7)
        at(8)
        with clock.phase("fit", shown=False):
            at(9)
    assert clock.seconds == {"dataset": 4.0, "fit": 100.0 + 2 + 1, "budget": 2.0}
    assert (budget.seconds, dataset.seconds) == (9.0, 4.0)
    assert sum(clock.seconds.values()) == 109


def test_a_phase_that_fails_counts_too(at):
    clock = Clock()

    def fail():
        with clock.phase("fit", shown=False):
            at(2)
            raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011
        fail()
    with clock.phase("fit", shown=False):
        at(3)
    assert clock.seconds == {"fit": 3.0}
