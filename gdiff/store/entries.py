"""What the cache holds, by kind, and how to get rid of it."""

import re
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from gdiff.errors import UserError
from gdiff.store.cache import STALE_SECONDS, cache_dir

# What compiled programs and half-written files are listed as, and entries of older versions.
_PROGRAMS, _UNFINISHED, _OLDER = "programs", "unfinished", "older"
_HASH = r"-[0-9a-f]{32}"
_ENTRY = re.compile(rf"(?:(?P<kind>[a-z-]+)\.)?(?P<key>.*){_HASH}\.npy")
_TEMPORARY = re.compile(rf".*{_HASH}\.[0-9a-f]{{12}}\.tmp")
_PROGRAM = re.compile(r".+-[0-9a-f]{64}-(cache|atime)")


class Entry(NamedTuple):
    """A file of the cache, or the compiled programs of a machine.

    Attributes:
        kind: what it is, as in the key's first word.
        key: what it belongs to: the start of the key, or the machine.
        size: bytes.
        age: seconds since it was written, or the newest part of it.
        files: all of it.
    """

    kind: str
    key: str
    size: int
    age: float
    files: tuple[Path, ...]


def entries() -> list[Entry]:
    """All that gdiff has left in the cache, largest first; files that are not its own are not."""
    found = [entry for path in _files(cache_dir()) if (entry := _entry(path))]
    folder = cache_dir() / _PROGRAMS
    for machine in sorted(folder.iterdir()) if folder.is_dir() else ():
        programs = [path for path in _files(machine) if _PROGRAM.fullmatch(path.name)]
        if programs:
            found.append(_of(_PROGRAMS, machine.name, programs))
    return sorted(found, key=lambda entry: -entry.size)


def clear(kinds: Iterable[str] | None) -> list[Entry]:
    """Remove entries of these kinds, or all; returns those that are gone.

    Raises:
        UserError: there are none of a kind, or one cannot be removed.
    """
    found = entries()
    known = sorted({entry.kind for entry in found})
    for kind in kinds or ():
        if kind not in known:
            there = f"there are: {', '.join(known)}" if known else "it is empty"
            raise UserError(f"the cache holds nothing of the kind {kind!r}: {there}")
    gone = [entry for entry in found if kinds is None or entry.kind in kinds]
    for path in (path for entry in gone for path in entry.files):
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise UserError(f"cannot remove {path}: {error.strerror}") from error
    return gone


def _files(folder: Path) -> Iterator[Path]:
    """Plain files of a folder, links not among them."""
    with suppress(OSError):
        for path in sorted(folder.iterdir()):
            if path.is_file() and not path.is_symlink():
                yield path


def _entry(path: Path) -> Entry | None:
    if found := _ENTRY.fullmatch(path.name):
        return _of(found["kind"] or _OLDER, found["key"], [path])
    if _TEMPORARY.fullmatch(path.name):
        entry = _of(_UNFINISHED, "", [path])
        # Another process may be at work on a younger one.
        return entry if entry.age > STALE_SECONDS else None
    return None


def _of(kind: str, key: str, files: list[Path]) -> Entry:
    facts = [path.stat() for path in files]
    age = time.time() - max(fact.st_mtime for fact in facts)
    return Entry(kind, key, sum(fact.st_size for fact in facts), age, tuple(files))
