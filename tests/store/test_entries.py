"""What the cache holds, and what of it is removed."""

import os
import time
from pathlib import Path

import numpy as np
import pytest
from commands import gdiff

from gdiff.store import cache, entries

OLD = time.time() - 3 * 86_400


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("GDIFF_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def fill(folder):
    """Entries of four kinds, and things that are none; the latter."""
    cache.save(cache.key("images", "mnist", "train"), np.zeros(2048, np.uint8))
    cache.save(cache.key("statistics", 1, "abc"), np.zeros(3))
    cache.save(cache.key("golden-index", 5, "abc"), np.zeros(9))
    (path,) = folder.glob("golden-index.*")
    os.utime(path, (OLD, OLD))
    # As an earlier version named them.
    (folder / f"losses-2_{'f' * 32}-{'0' * 32}.npy").write_bytes(b"old")
    programs = folder / "programs" / "host"
    programs.mkdir(parents=True)
    for name in ("cache", "atime"):
        (programs / f"jit_f-{'a' * 64}-{name}").write_bytes(b"code")
    unfinished = folder / f"images.mnist-{'0' * 32}.{'a' * 12}.tmp"
    unfinished.write_bytes(b"half")
    strangers = [
        folder / "thesis.npy",
        folder / f"notes-{'0' * 32}.txt",
        folder / "programs" / "notes",
        programs / "mine",
        folder / "deeper" / f"images.mnist-{'0' * 32}.npy",
        unfinished,
    ]
    for path in strangers:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    link = folder / f"images.link-{'0' * 32}.npy"
    link.symlink_to(folder / "thesis.npy")
    return [*strangers, link]


def test_every_entry_is_listed_with_kind_key_size_and_age(folder):
    fill(folder)
    found = {(entry.kind, entry.key): entry for entry in entries.entries()}
    assert set(found) == {
        ("images", "mnist_train"),
        ("statistics", "1_abc"),
        ("golden-index", "5_abc"),
        ("older", f"losses-2_{'f' * 32}"),
        ("programs", "host"),
    }
    assert next(iter(found)) == ("images", "mnist_train"), "the largest comes first"
    assert found["images", "mnist_train"].size == 2048 + 128 + 9, "with header and checksum"
    assert found["programs", "host"].size == 8
    assert 2.9 * 86_400 < found["golden-index", "5_abc"].age < 3.1 * 86_400
    result = gdiff("cache", "list")
    assert result.code == 0, result.err
    assert "3 days" in result.out
    assert f"in {folder}" in result.out.splitlines()[-1]


def test_kinds_are_removed_and_nothing_else(folder):
    strangers = fill(folder)
    result = gdiff("cache", "clear", "golden-index", "programs")
    assert result.code == 0, result.err
    assert result.out.startswith("removed 2 entries, ")
    assert {entry.kind for entry in entries.entries()} == {"images", "statistics", "older"}
    assert cache.load(cache.key("statistics", 1, "abc")) is not None
    assert gdiff("cache", "clear", "--all").code == 0
    assert entries.entries() == []
    assert all(os.path.lexists(path) for path in strangers)
    assert {path for path in folder.rglob("*") if path.is_file()} == set(strangers)


def test_what_killed_runs_left_is_removed_after_a_day(folder):
    *_, unfinished, _ = fill(folder)
    os.utime(unfinished, (OLD, OLD))
    assert gdiff("cache", "clear", "unfinished").code == 0
    assert not unfinished.exists()


def test_an_empty_cache_is_no_mistake(folder):
    assert gdiff("cache", "list").out == f"0 bytes in {folder}\n"
    assert gdiff("cache", "clear", "--all").code == 0


@pytest.mark.parametrize(
    "words, message",
    [
        ((), "say what to remove"),
        (("images", "--all"), "say what to remove"),
        (("imgaes",), "nothing of the kind 'imgaes': there are: golden-index, images"),
    ],
)
def test_what_cannot_be_removed_is_said_in_one_line(folder, words, message):
    fill(folder)
    before = set(folder.rglob("*"))
    result = gdiff("cache", "clear", *words)
    assert (result.code, result.out) == (2, "")
    assert message in result.err
    assert set(folder.rglob("*")) == before


def test_what_may_not_be_removed_is_said_in_one_line(folder, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    fill(folder)
    monkeypatch.setattr(Path, "unlink", refuse)
    result = gdiff("cache", "clear", "images")
    assert (result.code, result.out) == (2, "")
    assert "Permission denied" in result.err
