import numpy as np
import pytest

from gdiff.dataset.pages import release


def resident(path):
    """Kilobytes of a mapped file that are in this process's memory."""
    with open("/proc/self/smaps") as file:
        lines = iter(file.read().splitlines())
    return sum(
        int(next(line for line in lines if line.startswith("Rss:")).split()[1])
        for line in lines
        if line.endswith(str(path))
    )


def test_pages_that_were_read_are_given_back_and_can_be_read_again(tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, np.arange(2**20))
    x = np.load(path, mmap_mode="r")
    try:
        before = resident(path)
    except FileNotFoundError:
        pytest.skip("this system does not tell")
    total = x.sum()
    assert resident(path) > before + 4000
    release(x.reshape(16, -1)[3:])
    assert resident(path) < 100
    assert x.sum() == total


@pytest.mark.parametrize("mode", ["r+", "c"])
def test_what_was_written_stays(tmp_path, mode):
    path = tmp_path / "x.npy"
    np.save(path, np.zeros(10_000))
    x = np.load(path, mmap_mode=mode)
    x[:] = 1
    release(x)
    assert x.sum() == 10_000


def test_other_arrays_are_left_alone():
    x = np.ones(3)
    release(x)
    assert x.sum() == 3
