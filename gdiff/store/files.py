"""Files of run folders: plain ones alone are opened, and appear whole, by rename, or not at all."""

import json
import math
import os
import stat
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from gdiff.errors import UserError

# Added to the name of a file that is being written.
PARTIAL = ".partial"
_KINDS = {
    stat.S_IFLNK: "a link",
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
}
_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
# Beyond what anything of a run is, and within what arithmetic takes.
_LARGEST = 1e300
# Bytes of a JSON file, far more than any of a run has.
_LONGEST = 2**28


class DamagedError(Exception):
    """A file does not hold what it must; says in a few words why."""


class Member(NamedTuple):
    """What an array of an npz file must be.

    Attributes:
        kind: a type of NumPy, or a class of them such as np.floating.
        shape: lengths of its axes, None for any; a name stands for any length, the same one in all
            arrays.
    """

    kind: type
    shape: tuple[int | str, ...] | None


def require_plain(path: Path, wanted: int = stat.S_IFREG) -> None:
    """Raise `UserError` if there is something at `path` that is no plain file, or no folder.

    Writing through a link would change a file elsewhere, and a named pipe would be waited for.

    Args:
        path: need not exist.
        wanted: what it may be, as in the module `stat`.
    """
    with suppress(FileNotFoundError, NotADirectoryError):
        _require(path, os.lstat(path).st_mode, wanted)


def _require(path: Path, mode: int, wanted: int = stat.S_IFREG) -> None:
    if stat.S_IFMT(mode) != wanted:
        kind = _KINDS.get(stat.S_IFMT(mode), "a device")
        right = "folder" if wanted == stat.S_IFDIR else "plain file"
        raise UserError(f"{path} is {kind} and not a {right}: remove it")


def open_plain(path: Path, flags: int = os.O_RDONLY) -> int:
    """The descriptor of a plain file: no link is followed, nothing is waited for or cut.

    Raises:
        UserError: it is something else.
        OSError: as `os.open`.
    """
    try:
        opened = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    except OSError:
        require_plain(path)
        raise
    try:
        _require(path, os.fstat(opened).st_mode)
    except UserError:
        os.close(opened)
        raise
    return opened


def read_bytes(path: Path, most: int | None = None) -> bytes:
    """All of a plain file; errors as of `open_plain`.

    Raises:
        UserError: also if it has more than `most` bytes, or is no plain file.
    """
    with os.fdopen(open_plain(path), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if most is not None and size > most:
            raise UserError(f"{path} has {size} bytes, more than any of its kind: remove it")
        return file.read()


def read_object(path: Path, problem: Callable[[dict], str | None] = lambda _: None) -> dict:
    """A JSON object as a dict; {} where the file is missing.

    Args:
        path: of the file.
        problem: what is wrong with the content, if anything.

    Raises:
        UserError: the file is damaged.
        OSError: it cannot be opened.
    """
    try:
        content = json.loads(read_bytes(path, _LONGEST), parse_constant=_refuse)
        if not isinstance(content, dict):
            raise DamagedError("it is not a JSON object")
        if reason := problem(content):
            raise DamagedError(reason)
    except FileNotFoundError:
        return {}
    except (ValueError, DamagedError) as error:
        raise UserError(f"{path} cannot be read ({error}): remove it") from error
    except RecursionError:
        raise UserError(f"{path} cannot be read (it is nested too deep): remove it") from None
    return content


def is_number(value: object) -> bool:
    """Whether a value of a JSON file is a number of ordinary size."""
    is_numeric = isinstance(value, int | float) and not isinstance(value, bool)
    return is_numeric and abs(value) < _LARGEST


def _refuse(constant: str) -> None:
    raise DamagedError(f"{constant} is not a number")


def read_arrays(path: Path, members: Mapping[str, Member]) -> dict[str, np.ndarray]:
    """Arrays of an npz file, each of which must be there and be what it must.

    Raises:
        DamagedError: the file is.
        UserError: it is not a plain file.
        OSError: it cannot be opened.
    """
    with os.fdopen(open_plain(path), "rb") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                _require_members(archive, members, os.fstat(file.fileno()).st_size)
                return {name: _array(archive, name) for name in members}
        except (DamagedError, MemoryError):
            raise
        except Exception as error:  # NumPy and zipfile raise many kinds on damaged files
            raise DamagedError(str(error) or type(error).__name__) from error


def read_first(path: Path, name: str, count: int, most: int = 2**26) -> np.ndarray:
    """The first rows of an array of floating point numbers in an npz file, and no more of it.

    Args:
        path: of the file.
        name: of the array.
        count: how many rows; fewer where there are no more.
        most: bytes that they may take.

    Raises:
        DamagedError: the file is damaged, or its rows are larger.
        UserError: it is not a plain file.
        OSError: it cannot be opened.
    """
    with os.fdopen(open_plain(path), "rb") as opened:
        try:
            with zipfile.ZipFile(opened) as archive, archive.open(f"{name}.npy") as file:
                shape, by_columns, dtype = _HEADERS[np.lib.format.read_magic(file)](file)
                is_of_rows = not by_columns and len(shape) > 0 and min(shape) >= 0
                if not (is_of_rows and np.issubdtype(dtype, np.floating)):
                    raise DamagedError(f"{name} has no rows of floating point numbers")
                shape = (min(count, shape[0]), *shape[1:])
                size = math.prod(shape) * dtype.itemsize
                if size > most:
                    raise DamagedError(f"the rows of {name} take {size} bytes")
                found = file.read(size)
                if len(found) < size:
                    raise DamagedError(f"{name} is cut off")
                return np.frombuffer(found, dtype).reshape(shape)
        except (DamagedError, MemoryError):
            raise
        except Exception as error:  # as in `read_arrays`
            raise DamagedError(str(error) or type(error).__name__) from error


def _require_members(archive: zipfile.ZipFile, members: Mapping[str, Member], size: int) -> None:
    """Compare the headers, before room is made for arrays of the sizes that they tell."""
    lengths: dict[str, int] = {}
    for name, member in members.items():
        if f"{name}.npy" not in archive.namelist():
            raise DamagedError(f"it has no array {name!r}")
        info = archive.getinfo(f"{name}.npy")
        with archive.open(info) as file:
            shape, _, dtype = _HEADERS[np.lib.format.read_magic(file)](file)
            told = file.tell() + math.prod(shape) * dtype.itemsize
        if not (np.issubdtype(dtype, member.kind) and _fits(shape, member.shape, lengths)):
            wanted = ", ".join(str(lengths.get(each, each)) for each in member.shape or ("…",))
            kind = member.kind.__name__
            raise DamagedError(f"{name} is {dtype} {list(shape)} and not {kind} [{wanted}]")
        if told != info.file_size or (info.compress_type == zipfile.ZIP_STORED and told > size):
            raise DamagedError(f"{name} is cut off")


def _fits(
    shape: tuple[int, ...], wanted: tuple[int | str, ...] | None, lengths: dict[str, int]
) -> bool:
    """Whether a shape is the one that is wanted; adds the lengths that names stand for."""
    if wanted is None:
        return True
    return len(shape) == len(wanted) and all(
        found == (lengths.setdefault(each, found) if isinstance(each, str) else each)
        for found, each in zip(shape, wanted, strict=True)
    )


def _array(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    with archive.open(f"{name}.npy") as file:
        return np.lib.format.read_array(file, allow_pickle=False)


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file that takes the place of `path` when the block ends well.

    Raises:
        UserError: it cannot be written.
    """
    partial = path.with_name(path.name + PARTIAL)
    try:
        path.parent.mkdir(exist_ok=True)
        partial.unlink(missing_ok=True)  # of a process that was killed
        with partial.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException as error:
        with suppress(OSError):
            partial.unlink()
        if isinstance(error, OSError):
            hint = f" (remove {partial})" if partial.is_dir() else ""
            raise UserError(f"cannot write {path}: {error.strerror or error}{hint}") from error
        raise
