"""Arrays on disk under a string key, kept between runs and safe to delete at any time.

The cache only ever saves time: an entry that is damaged is dropped and built again, and a folder
that cannot be written is done without. An entry is an .npy file with a checksum of its key, its
header and its content at the end.
"""

import errno
import hashlib
import logging
import os
import re
import secrets
import shutil
import tempfile
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import is_dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from platformdirs import user_cache_path

from gdiff.errors import UserError
from gdiff.parallel import processes
from gdiff.store.files import DamagedError, open_plain

log = logging.getLogger(__name__)

# Files that are still half-written after so long were left by a run that was killed.
STALE_SECONDS = 24 * 3600
_CHECKSUM_BYTES, _BLOCK_BYTES = 9, 1 << 22
# Entries that were found whole, by key and what the system says of their files.
_checked: set[tuple] = set()
_warned_of: set[Path] = set()


def cache_dir() -> Path:
    """Folder of the cache: $GDIFF_CACHE, else the system's, such as ~/.cache/gdiff on Linux."""
    if own := os.environ.get("GDIFF_CACHE"):
        return Path(os.path.expanduser(own))
    try:
        return user_cache_path("gdiff", appauthor=False)
    except RuntimeError:  # a container's user without a home
        return Path(tempfile.gettempdir()) / f"gdiff-{os.getuid()}"


def signature(root: Path, files: Iterable[Path]) -> str:
    """Hash of a folder's address and of its files' names, sizes and times of change."""
    digest = hashlib.blake2b(os.fsencode(root.resolve()), digest_size=16)
    for file in files:
        stat = os.stat(file)
        name = str(file).removeprefix(str(root))
        # Archives bring times of modification with them; the system alone sets that of a change.
        facts = (name, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
        digest.update(os.fsencode("".join(f"{fact}\0" for fact in facts)))
    return digest.hexdigest()


def key(kind: str, *parts: object) -> str | None:
    """A key: what kind of thing it is, and all that it follows from, by its text.

    What is computed from something else that is cached names that too, by its `digest`.

    Args:
        kind: lower-case words with hyphens.
        parts: versions, fingerprints, digests, options, specs.

    Returns:
        None, by which nothing is kept, if a spec among the parts is of a class of the user's own:
        that may be another by tomorrow.
    """
    specs = filter(is_dataclass, parts)
    if any(type(spec).__module__.partition(".")[0] != "gdiff" for spec in specs):
        return None
    return " ".join([kind, *map(str, parts)])


def digest(*arrays: np.ndarray) -> str:
    """Hash of the content, types and shapes of arrays."""
    found = hashlib.blake2b(digest_size=16)
    for array in map(np.ascontiguousarray, arrays):
        found.update(repr((array.dtype.str, array.shape)).encode())
        found.update(array.data)
    return found.hexdigest()


def load(key: str) -> np.ndarray | None:
    """The array stored under `key` as a read-only memory map, or None."""
    path = _path(key)
    try:
        _check(key, path)
        return np.lib.format.open_memmap(path, mode="r")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, SyntaxError, EOFError, DamagedError) as error:
        # NumPy parses the header as Python, so that a damaged one may be a SyntaxError.
        log.debug("dropping unreadable cache entry %s: %s", path, error)
        with suppress(OSError):
            path.unlink()
        return None
    except UserError as error:  # a link or a pipe, which is nobody's entry
        log.debug("no cache entry: %s", error)
        return None


def save(key: str, array: np.ndarray) -> None:
    """Store `array` under `key`, or warn that it cannot be stored."""
    with _temporary(key) as path:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                np.lib.format.write_array(file, np.asanyarray(array), allow_pickle=False)
            _seal(key, path)
            os.replace(path, _path(key))
        except OSError as error:
            _warn(error)


def cached(key: str | None, build: Callable[[], np.ndarray]) -> np.ndarray:
    """The array stored under `key`, or `build()`, which is then stored unless `key` is None.

    Of several processes, none builds or all do, since that may take the devices of all.
    """
    if key is None:
        return build()
    array = load(key)
    if not processes.all_processes(array is not None):
        array = build()
        save(key, array)
    return array


def fill(
    key: str,
    shape: tuple[int, ...],
    dtype: np.typing.DTypeLike,
    write: Callable[[np.ndarray], None],
) -> np.ndarray:
    """The array stored under `key`, or a new one that `write` fills in place.

    The new array lives in the cache's file from the start, so that it may be larger than memory;
    it is in memory where the cache cannot hold it.

    Returns:
        A read-only array of `shape` and `dtype`.
    """
    array = load(key)
    if array is not None and array.shape == shape and array.dtype == dtype:
        return array
    with _temporary(key) as path:
        try:
            array = _reserve(path, shape, dtype)
        except OSError as error:
            _warn(error)
            array = np.empty(shape, dtype)
        write(array)
        if isinstance(array, np.memmap):
            try:
                array.flush()
                _seal(key, path, array.offset + array.nbytes)
                os.replace(path, _path(key))
                # Under its final name, by which others open the file again.
                array = np.lib.format.open_memmap(_path(key), mode="r")
            except OSError as error:
                _warn(error)
    array.flags.writeable = False
    return array


def _path(key: str) -> Path:
    """An entry's file: its kind, the start of the key, for people to recognise it, and a hash."""
    kind, _, rest = key.partition(" ")
    readable = re.sub(r"[^A-Za-z0-9.-]+", "_", rest)[:40]
    mark = hashlib.blake2b(os.fsencode(key), digest_size=16).hexdigest()
    return cache_dir() / f"{kind}.{readable}-{mark}.npy"


def _seal(key: str, path: Path, size: int | None = None) -> None:
    """Write the checksum of a file's first `size` bytes, or of all, after them."""
    with path.open("r+b") as file:
        size = path.stat().st_size if size is None else size
        checksum = _checksum(key, file, size)
        file.seek(size)
        file.write(checksum)


def _check(key: str, path: Path) -> None:
    """Raise `DamagedError` unless a file is as it was sealed; looked at once while it stays."""
    with os.fdopen(open_plain(path), "rb") as file:
        facts = os.fstat(file.fileno())
        mark = (key, facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns)
        if mark in _checked:
            return
        size = facts.st_size - _CHECKSUM_BYTES
        if size < 0 or _checksum(key, file, size) != file.read(_CHECKSUM_BYTES):
            raise DamagedError("its checksum is another")
        _checked.add(mark)


def _checksum(key: str, file: BinaryIO, size: int) -> bytes:
    """Of a key and of the first `size` bytes of a file, which it leaves there.

    All of an entry is read once more than it is needed, so that the sum has to be a fast one.
    """
    found = zlib.crc32(os.fsencode(key))
    file.seek(0)
    while size > 0:
        block = file.read(min(size, _BLOCK_BYTES))
        if not block:
            raise DamagedError("it is cut off")
        found = zlib.crc32(block, found)
        size -= len(block)
    return b"crc32" + found.to_bytes(4, "big")


@contextmanager
def _temporary(key: str) -> Iterator[Path]:
    """Address of a file that may become the entry `key`, removed at the end if it has not."""
    final = _path(key)
    with suppress(OSError):
        for path in final.parent.glob("*.tmp"):  # left by runs that were killed
            if time.time() - path.stat().st_mtime > STALE_SECONDS:
                path.unlink()
    path = final.with_suffix(f".{secrets.token_hex(6)}.tmp")
    try:
        yield path
    finally:
        with suppress(OSError):
            path.unlink()


def _reserve(path: Path, shape: tuple[int, ...], dtype: np.typing.DTypeLike) -> np.memmap:
    """A new memory-mapped .npy file whose blocks exist; OSError if there is no room for it.

    Writing to a mapped file for which the disk has no room would kill the process.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    size = path.stat().st_size + _CHECKSUM_BYTES
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, size)
    elif shutil.disk_usage(path.parent).free < size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    return array


def _warn(error: OSError) -> None:
    folder = cache_dir()
    if folder not in _warned_of:
        log.warning("cache folder %s cannot be used (%s): going on without it", folder, error)
        _warned_of.add(folder)
