"""The run folder and its only writer: every file appears whole, by rename, or not at all."""

import csv
import errno
import io
import json
import logging
import os
import shlex
import shutil
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout

from gdiff.errors import UserError, require
from gdiff.parallel import processes

log = logging.getLogger(__name__)

CONFIG, SAMPLES, METRICS = "config.yaml", "samples.npz", "metrics.json"
RUN, LOG = "run.json", "gdiff.log"
_CHUNKS, _LOCK = "chunks", ".lock"
_TEMPORARY = ".partial"
_HYDRA = ".hydra"
# What a run leaves that is killed before its configuration is written.
_BEFORE_A_RUN = {_HYDRA, LOG, _LOCK, CONFIG + _TEMPORARY}
# What file systems say that have no locks.
_LOCKLESS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL)
# What NumPy and zipfile raise on damaged files.
_DAMAGED = (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile, zlib.error)


@contextmanager
def vacant(path: Path, key: str) -> Iterator[None]:
    """A folder without results, locked for the block; a block that fails early leaves no trace.

    A folder that holds no more than what a run leaves that was killed before it began is vacant
    too, but it is not cleaned up.

    Args:
        path: the folder.
        key: the configuration key that chooses it.

    Raises:
        UserError: the folder holds something, cannot be made, or another process is at work in it.
    """
    made = [folder for folder in (path, *path.parents) if not folder.exists()]
    # First without the lock, so that nothing is written to a folder of other things.
    _require_vacant(path, key)
    waste: list[Path] = []
    try:
        with _locked(path):
            _require_vacant(path, key)  # another process may have been faster
            was_empty = {p.name for p in path.iterdir()} == {_LOCK}
            try:
                yield
            except (UserError, KeyboardInterrupt) as error:
                if was_empty and not _is_worth_keeping(path, error):
                    _empty(path)
                    waste = made
                raise
    finally:
        with suppress(OSError):
            for folder in waste:
                folder.rmdir()


@contextmanager
def claimed(path: Path) -> Iterator[None]:
    """The folder of a sweep that goes on, locked for the block.

    Raises:
        UserError: another process is at work in it.
    """
    with _locked(path):
        yield


class RunFolder:
    """One run on disk: configuration, finished chunks, then samples, pictures and numbers.

    Use `create` for a new run and `open` for one to be resumed; both hold a lock that the
    operating system drops when the process ends, however it ends. Of several processes the first
    alone has the folder: the others use `of_first`, write nothing and are told what is in it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def of_first(cls) -> "RunFolder":
        """The folder of the first process, for another one."""
        return cls(Path(os.devnull))

    @classmethod
    @contextmanager
    def create(cls, path: Path, config: str, *, is_claimed: bool = False) -> Iterator["RunFolder"]:
        """Start a run in a folder that holds none; `config` becomes config.yaml.

        Args:
            path: the folder.
            config: the resolved configuration.
            is_claimed: whether `vacant` holds the folder's lock already.

        Raises:
            UserError: the folder holds a run already, or cannot be written.
        """
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot make the run folder {path}: {error.strerror}") from error
        with nullcontext() if is_claimed else _locked(path):
            run = cls(path)
            require(
                not (path / CONFIG).is_file(),
                f"{path} holds a run already: continue it with --resume, or choose a new folder",
            )
            run.write_text(CONFIG, config)
            yield run

    @classmethod
    @contextmanager
    def open(cls, path: Path) -> Iterator["RunFolder"]:
        """Continue the run in `path`; what a killed process left half-done is removed.

        Raises:
            UserError: `path` is not the folder of a run, or another process is at work in it.
        """
        require_run(path)
        with _locked(path):
            run = cls(path)
            for partial in path.rglob(f"*{_TEMPORARY}"):
                partial.unlink()
            if (path / SAMPLES).is_file():
                run._drop_chunks()
            yield run

    def has(self, name: str) -> bool:
        """Whether a file is there (and so complete)."""
        return processes.broadcast(lambda: (self.path / name).is_file())

    def write_text(self, name: str, text: str) -> None:
        """Write a small file."""
        self.write_bytes(name, text.encode())

    def write_bytes(self, name: str, content: bytes) -> None:
        """Write a file that fits in memory."""
        if processes.is_first():
            with _replacing(self.path / name) as file:
                file.write(content)

    def write_json(self, name: str, content: Mapping) -> None:
        """Write numbers and names; NaN is refused, since JSON has none."""
        self.write_text(name, json.dumps(content, indent=2, allow_nan=False) + "\n")

    def read_json(self, name: str) -> dict:
        """Read back what `write_json` wrote; {} where the file is missing."""
        return processes.broadcast(lambda: read_json(self.path / name))

    def chunk(self, number: int) -> Mapping[str, np.ndarray] | None:
        """Arrays of a finished chunk, or None; a damaged file is dropped."""
        return processes.broadcast(lambda: self._read_chunk(number))

    def _read_chunk(self, number: int) -> Mapping[str, np.ndarray] | None:
        path = self._chunk_path(number)
        if not path.is_file():
            return None
        try:
            with np.load(path, allow_pickle=False) as file:
                return dict(file)
        except _DAMAGED as error:
            log.warning("%s is damaged (%s) and will be made again", path, error)
            path.unlink()
            return None

    def write_chunk(self, number: int, **arrays: np.ndarray) -> None:
        """Save a finished chunk: at least `samples [k, *event]` and `index [k]`."""
        if processes.is_first():
            with _replacing(self._chunk_path(number)) as file:
                np.savez(file, **arrays)

    def gather_chunks(self, count: int) -> None:
        """Join all chunks into samples.npz, one in memory at a time, and remove them."""
        if not processes.is_first():
            return
        paths = [self._chunk_path(number) for number in range(count)]
        with _replacing(self.path / SAMPLES) as file, zipfile.ZipFile(file, "w") as archive:
            for name in ("samples", "index"):
                _join(archive, name, paths)
        self._drop_chunks()

    def samples(self) -> np.ndarray:
        """The samples of a finished run: [n, *event]."""
        return load_samples(self.path)

    def _chunk_path(self, number: int) -> Path:
        return self.path / _CHUNKS / f"{number:06d}.npz"

    def _drop_chunks(self) -> None:
        shutil.rmtree(self.path / _CHUNKS, ignore_errors=True)


def require_run(path: Path) -> None:
    """Raise `UserError` unless `path` is the folder of a run."""
    is_run = (path / CONFIG).is_file()
    require(is_run, f"{path} is not the folder of a run: it holds no {CONFIG}")


def load_samples(path: Path) -> np.ndarray:
    """The samples [n, *event] in a run folder.

    Raises:
        UserError: there are none, or the file is damaged.
    """
    missing = f"{path} holds no {SAMPLES}: finish the run with: {_resume(path)}"
    require((path / SAMPLES).is_file(), missing)
    try:
        with np.load(path / SAMPLES, allow_pickle=False) as archive:
            return archive["samples"]
    except _DAMAGED as error:
        raise UserError(
            f"{path / SAMPLES} is damaged ({error}): remove it, and make it again with: "
            f"{_resume(path)}"
        ) from error


def write_failure(path: Path, message: str) -> None:
    """Record in run.json that a run could not be done, and why."""
    record = read_json(path / RUN) | {"status": "failed", "error": message}
    with _replacing(path / RUN) as file:
        file.write(json.dumps(record, indent=2).encode())


def read_json(path: Path) -> dict:
    """A JSON object as a dict; {} where the file is missing.

    Raises:
        UserError: the file is damaged.
    """
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}): remove it") from error


def write_csv(path: Path, columns: Sequence[str], rows: Sequence[Mapping]) -> None:
    """A table as comma-separated values; cells that a row lacks stay empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    with _replacing(path) as file:
        file.write(text.getvalue().encode())


def _join(archive: zipfile.ZipFile, name: str, paths: Sequence[Path]) -> None:
    """Concatenate array `name` of all npz files into a member of `archive`, as numpy would."""

    def read(path: Path, name: str) -> np.ndarray:
        with np.load(path, allow_pickle=False) as chunk:
            return chunk[name]

    first = read(paths[0], name)
    header = {
        "descr": np.lib.format.dtype_to_descr(first.dtype),
        "fortran_order": False,
        "shape": (sum(len(read(path, "index")) for path in paths), *first.shape[1:]),
    }
    # Without a date of its own, so that the same samples are the same bytes.
    member = zipfile.ZipInfo(f"{name}.npy")
    member.external_attr = 0o644 << 16
    with archive.open(member, "w", force_zip64=True) as file:
        np.lib.format.write_array_header_1_0(file, header)
        for path in paths:
            file.write(np.ascontiguousarray(read(path, name)).tobytes())


@contextmanager
def _replacing(path: Path) -> Iterator[io.BufferedWriter]:
    """A file that takes the place of `path` when the block ends well."""
    partial = path.with_name(path.name + _TEMPORARY)
    try:
        path.parent.mkdir(exist_ok=True)
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException as error:
        with suppress(OSError):
            partial.unlink()
        if isinstance(error, OSError):
            raise UserError(f"cannot write {path}: {error.strerror or error}") from error
        raise


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the folder's lock, where the file system has locks."""
    lock = FileLock(path / _LOCK, timeout=0, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(f"another process is at work in {path}: wait for it") from None
    except OSError as error:
        if error.errno not in _LOCKLESS:
            hint = f": remove {lock.lock_file}" if Path(lock.lock_file).is_symlink() else ""
            raise UserError(
                f"cannot write to the run folder {path} ({error.strerror}){hint}"
            ) from error
        log.debug("no lock on %s: %s", path, error)
    try:
        yield
    finally:
        with suppress(OSError):
            Path(lock.lock_file).unlink()
        lock.release()


def _resume(path: Path) -> str:
    """The command that continues a run."""
    return f"gdiff sample --resume {shlex.quote(str(path))}"


def _require_vacant(path: Path, key: str) -> None:
    """Make the folder `path`, which may hold only what a run leaves before it begins."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        strangers = sorted({p.name for p in path.iterdir()} - _BEFORE_A_RUN)
    except OSError as error:
        reason = "it is not a folder" if path.is_file() else error.strerror
        raise UserError(f"cannot write to {path} ({reason}): set {key} to another folder") from None
    begun = {CONFIG, "multirun.yaml"}.intersection(strangers)
    hint = f", or continue with: {_resume(path)}" if begun else ""
    require(
        not strangers,
        f"{path} is not empty (it holds {', '.join(strangers[:3])}): set {key} to a new "
        f"folder{hint}",
    )


def _is_worth_keeping(path: Path, error: BaseException) -> bool:
    """Whether a block that failed has left samples or, if it was interrupted, a run."""
    if isinstance(error, UserError):
        return any(path.rglob("*.npz"))
    return any(p.parent.name != _HYDRA for p in path.rglob(CONFIG))


def _empty(path: Path) -> None:
    """Remove all but the lock from a folder."""
    for entry in path.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry, ignore_errors=True)
        elif entry.name != _LOCK:
            entry.unlink(missing_ok=True)
