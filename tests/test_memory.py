import numpy as np
import pytest

from gdiff import memory
from gdiff.memory import Peaks

MIB = 2**20


def held(mib):
    """Fill so much memory for a moment."""
    np.ones(mib * MIB, np.uint8)


@pytest.mark.skipif(not memory.is_known(), reason="the system does not tell")
def test_the_peak_is_that_from_now_on():
    held(400)
    first = Peaks()
    held(200)
    high = first.read()["host"]
    second = Peaks()
    held(20)
    assert high - second.read()["host"] > 100 * MIB


def test_a_count_that_cannot_begin_anew_is_told_once_it_grows(monkeypatch):
    marks = {"host": 5, "cuda:0": 7}

    def refuse():
        raise PermissionError

    monkeypatch.setattr(memory, "_peaks", lambda: dict(marks))
    monkeypatch.setattr(memory, "forget_peak", refuse)
    peaks = Peaks()
    assert peaks.read() == {}
    marks["cuda:0"] = 9
    assert peaks.read() == {"cuda:0": 9}
