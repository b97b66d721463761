"""Compiled programs that are damaged, or cannot be kept."""

import logging
import os
import warnings

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from gdiff.store import programs


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where JAX keeps its programs during a test."""
    before = jax.config.jax_compilation_cache_dir
    monkeypatch.setattr(programs, "_warned_of", set())
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        programs.mend()
        yield use(tmp_path / "programs")
        assert not shown
    use(before)


def use(folder):
    compilation_cache.reset_cache()
    jax.config.update("jax_compilation_cache_dir", str(folder))
    return folder


def compile_one():
    def a_program_of_its_own(x):
        return 3 * x + 1

    assert jax.jit(a_program_of_its_own)(np.float32(2)) == 7


def kept(folder):
    return {path.name: path.read_bytes() for path in folder.glob("jit_a_program*-cache")}


@pytest.mark.parametrize("damage", [lambda b: b"", lambda b: b[: len(b) // 2], lambda b: b"x" * 99])
def test_a_damaged_program_is_made_again(folder, damage, caplog):
    compile_one()
    ((name, content),) = kept(folder).items()
    (folder / name).write_bytes(damage(content))
    with caplog.at_level(logging.INFO):
        compile_one()
    assert len(kept(folder)[name]) > 99
    assert not caplog.records


def test_a_folder_that_cannot_be_used_is_one_line(folder, caplog):
    folder.write_text("a file")
    for _ in range(3):
        compile_one()
    (record,) = caplog.records
    assert record.getMessage().startswith(f"compiled programs cannot be kept in {folder} (")
    assert len(record.getMessage().splitlines()) == 1


def test_a_disk_that_is_full_is_one_line(folder, monkeypatch, caplog):
    def full(*_):
        raise OSError(28, os.strerror(28))

    compile_one()
    monkeypatch.setattr("jax._src.lru_cache.LRUCache.put", full)
    for path in folder.iterdir():
        path.unlink()
    for _ in range(2):
        compile_one()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "No space left" in caplog.text


def test_other_warnings_are_shown(folder):
    shown = []
    programs._others, before = lambda *words, **_: shown.append(words[0]), programs._others
    try:
        warnings.warn("something else", stacklevel=1)
    finally:
        programs._others = before
    assert [str(each) for each in shown] == ["something else"]


def test_programs_are_forgotten_before_the_system_maps_no_more(tmp_path, monkeypatch):
    forgotten = []
    monkeypatch.setattr(jax, "clear_caches", lambda: forgotten.append(True))
    limit, mapped = tmp_path / "limit", tmp_path / "mapped"
    monkeypatch.setattr(programs, "_MOST_MAPPED", limit)
    monkeypatch.setattr(programs, "_MAPPED", mapped)
    programs.forget_if_many()  # a system that does not say
    limit.write_text("10\n")
    mapped.write_text("a mapping\n" * 5)
    programs.forget_if_many()
    assert not forgotten
    mapped.write_text("a mapping\n" * 6)
    programs.forget_if_many()
    assert forgotten
