import logging
import os
import time
from pathlib import Path

import numpy as np
import pytest

from gdiff.store import cache


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("GDIFF_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def unusable(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("GDIFF_CACHE", str(tmp_path / "file" / "cache"))


def entries(folder):
    return sorted(file.name for file in folder.iterdir())


def test_the_folder_is_the_users_choice_else_the_systems_cache(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    monkeypatch.setenv("GDIFF_CACHE", "~/mine")
    assert cache.cache_dir() == Path("/home/someone/mine")
    monkeypatch.delenv("GDIFF_CACHE")
    assert cache.cache_dir() == Path("/xdg/gdiff")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache.cache_dir() == Path("/home/someone/.cache/gdiff")


def test_a_stored_array_comes_back_as_a_read_only_memory_map(folder):
    assert cache.load("k") is None
    stored = np.arange(12.0).reshape(3, 4)
    cache.save("k", stored)
    loaded = cache.load("k")
    assert isinstance(loaded, np.memmap)
    assert not loaded.flags.writeable
    np.testing.assert_array_equal(loaded, stored)


@pytest.mark.parametrize("array", [np.zeros(0, np.int32), np.array(["a", "bc"]), np.float64(3)])
def test_empty_text_and_scalar_arrays_can_be_stored(folder, array):
    cache.save("k", array)
    np.testing.assert_array_equal(cache.load("k"), array)
    assert cache.load("k").dtype == np.asarray(array).dtype


def test_build_runs_once(folder):
    calls = []

    def build():
        calls.append(1)
        return np.ones(3)

    for _ in range(3):
        np.testing.assert_array_equal(cache.cached("k", build), np.ones(3))
    assert len(calls) == 1


def test_keys_that_look_alike_are_kept_apart(folder):
    cache.save("a b/c" * 20 + "1", np.array([1]))
    cache.save("a b/c" * 20 + "2", np.array([2]))
    assert cache.load("a b/c" * 20 + "1") == 1
    assert cache.load("a b/c" * 20 + "2") == 2


def truncate(file):
    os.truncate(file, 500)


def scramble(file):
    file.write_bytes(b"not an array at all")


def damage_the_header(file):
    content = file.read_bytes()
    file.write_bytes(content.replace(b"{'descr'", b"{'des(r'", 1))


def pickle_it(file):
    np.save(file, np.array([{}, None], object))


def scramble_the_end(file):
    content = file.read_bytes()
    file.write_bytes(content[:-200] + bytes(range(200)))


def put_another_there(file):
    np.save(file, np.arange(7.0))


def add_bytes(file):
    file.write_bytes(file.read_bytes() + b"0")


def swap_entries(file):
    cache.save("other", np.arange(2000))
    (other,) = set(file.parent.glob("*.npy")) - {file}
    os.replace(other, file)


def leave_nothing(file):
    file.write_bytes(b"")


@pytest.mark.parametrize(
    "damage",
    [
        *(truncate, scramble, damage_the_header, pickle_it, scramble_the_end),
        *(put_another_there, add_bytes, swap_entries, leave_nothing),
    ],
)
def test_a_damaged_entry_is_dropped_and_built_again(folder, damage):
    cache.save("k", np.arange(1000))
    damage(next(folder.glob("*.npy")))
    assert cache.load("k") is None
    assert entries(folder) == []
    np.testing.assert_array_equal(cache.cached("k", lambda: np.arange(1000)), np.arange(1000))
    np.testing.assert_array_equal(cache.load("k"), np.arange(1000))


def test_a_filled_entry_with_random_bytes_at_its_end_is_made_again(folder):
    cache.fill("k", (1000,), np.float32, lambda out: out.fill(1))
    scramble_the_end(next(folder.glob("*.npy")))
    again = cache.fill("k", (1000,), np.float32, lambda out: out.fill(1))
    np.testing.assert_array_equal(again, np.ones(1000))


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("thesis")])
def test_an_entry_that_is_no_plain_file_is_replaced(folder, make):
    folder.mkdir()
    (folder / "thesis").write_text("mine")
    cache.save("k", np.ones(3))
    (path,) = folder.glob("*.npy")
    path.unlink()
    make(path)
    assert cache.load("k") is None
    np.testing.assert_array_equal(cache.cached("k", lambda: np.ones(3)), np.ones(3))
    assert cache.load("k") is not None
    assert (folder / "thesis").read_text() == "mine"


def test_fill_writes_in_place_once_and_is_read_only(folder):
    calls = []

    def write(out):
        calls.append(out)
        out[:] = 7

    for _ in range(2):
        array = cache.fill("k", (2, 3), np.uint8, write)
        assert isinstance(array, np.memmap)
        assert not array.flags.writeable
        np.testing.assert_array_equal(array, np.full((2, 3), 7))
    assert len(calls) == 1
    assert len(entries(folder)) == 1


def test_fill_replaces_an_entry_of_another_shape_or_type(folder):
    cache.save("k", np.zeros((2, 3), np.uint8))
    for shape, dtype in (((2, 4), np.uint8), ((2, 4), np.float32)):
        array = cache.fill("k", shape, dtype, lambda out: out.fill(1))
        assert (array.shape, array.dtype) == (shape, dtype)
        assert array.sum() == 8


@pytest.mark.parametrize("error", [RuntimeError, OSError, KeyboardInterrupt])
def test_a_failed_write_leaves_nothing_and_is_not_blamed_on_the_cache(folder, error):
    def write(out):
        out[0] = 1
        raise error("mine")

    with pytest.raises(error, match="mine"):
        cache.fill("k", (5,), np.uint8, write)
    assert entries(folder) == []
    assert cache.load("k") is None


def test_a_folder_that_cannot_be_written_is_done_without(unusable, caplog):
    with caplog.at_level(logging.WARNING):
        np.testing.assert_array_equal(cache.cached("k", lambda: np.ones(3)), np.ones(3))
        filled = cache.fill("k", (3,), np.float32, lambda out: out.fill(2))
    np.testing.assert_array_equal(filled, np.full(3, 2))
    assert not filled.flags.writeable
    assert caplog.text.count("going on without it") == 1


def test_a_folder_that_cannot_even_be_looked_at_is_done_without(folder, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    for method in ("stat", "mkdir", "unlink", "glob"):
        monkeypatch.setattr(Path, method, refuse)
    np.testing.assert_array_equal(cache.cached("k", lambda: np.ones(3)), np.ones(3))
    filled = cache.fill("k", (3,), np.float32, lambda out: out.fill(2))
    np.testing.assert_array_equal(filled, np.full(3, 2))


def test_a_full_disk_is_done_without(folder, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    filled = cache.fill("k", (3,), np.float32, lambda out: out.fill(2))
    np.testing.assert_array_equal(filled, np.full(3, 2))
    assert not isinstance(filled, np.memmap)
    assert entries(folder) == []


def test_the_space_is_checked_where_it_cannot_be_reserved(folder, monkeypatch):
    monkeypatch.delattr(os, "posix_fallocate", raising=False)
    assert isinstance(cache.fill("k", (3,), np.float32, lambda out: out.fill(2)), np.memmap)
    monkeypatch.setattr("shutil.disk_usage", lambda _: NoSpace)
    assert not isinstance(cache.fill("l", (3,), np.float32, lambda out: out.fill(2)), np.memmap)


class NoSpace:
    free = 0


def test_what_killed_runs_left_is_removed_after_a_day(folder):
    folder.mkdir()
    old, new = folder / "old.tmp", folder / "new.tmp"
    for file in (old, new):
        file.write_text("half")
    os.utime(old, (time.time() - 1e6,) * 2)
    cache.save("k", np.ones(1))
    assert not old.exists()
    assert new.exists()


def test_the_signature_follows_names_sizes_times_and_the_folder(tmp_path):
    root = tmp_path / "a"
    root.mkdir()
    file = root / "x.png"
    file.write_bytes(b"12")
    os.utime(file, ns=(1, 1))
    seen = {cache.signature(root, [file])}
    assert cache.signature(root, [file]) in seen
    file.write_bytes(b"123")
    os.utime(file, ns=(1, 1))
    seen.add(cache.signature(root, [file]))
    time.sleep(0.02)  # the clock of a file system ticks slowly
    file.write_bytes(b"321")
    os.utime(file, ns=(1, 1))  # as an archive does that brings times of its own
    seen.add(cache.signature(root, [file]))
    os.utime(file, ns=(1, 2))
    seen.add(cache.signature(root, [file]))
    file = file.rename(root / "y.png")
    seen.add(cache.signature(root, [file]))
    other = root.rename(tmp_path / "b")
    seen.add(cache.signature(other, [other / "y.png"]))
    assert len(seen) == 6
