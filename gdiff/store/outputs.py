"""The run folder and its only writer."""

import csv
import errno
import io
import json
import logging
import os
import shlex
import shutil
import stat
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

import numpy as np

from gdiff.errors import UserError, require
from gdiff.parallel import processes
from gdiff.store import record
from gdiff.store.files import (
    PARTIAL,
    DamagedError,
    Member,
    read_arrays,
    read_bytes,
    read_object,
    replacing,
    require_plain,
)
from gdiff.store.lock import LOCK, locked
from gdiff.store.places import TRAINING

log = logging.getLogger(__name__)

CONFIG, SAMPLES, METRICS = "config.yaml", "samples.npz", "metrics.json"
RUN, LOG = "run.json", "gdiff.log"
# What Hydra writes into the folder of a sweep before the first run.
SWEEP = "multirun.yaml"
# Arrays of samples.npz; labels where samples are of classes.
PER_SAMPLE = ("samples", "index", "labels")
_CHUNKS, _HYDRA = "chunks", ".hydra"
# What a run leaves that is killed before its configuration is written.
_BEFORE_A_RUN = {_HYDRA, LOG, LOCK, CONFIG + PARTIAL}
_PROBLEMS = {RUN: record.problem, METRICS: record.problem_of_metrics}


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
    made: list[Path] = []
    try:
        with _refusing(path, key):
            made += [folder for folder in (path, *path.parents) if not folder.exists()]
            # First without the lock, so that nothing is written to a folder of other things.
            _require_vacant(path, key)
        with locked(path):
            _require_vacant(path, key)  # another process may have been faster
            was_empty = {p.name for p in path.iterdir()} == {LOCK}
            try:
                yield
            except (UserError, OSError, KeyboardInterrupt) as error:
                if was_empty and not _is_worth_keeping(path, error):
                    _empty(path)
                raise
    except BaseException as error:
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)  # a full disk does not say where
        with suppress(OSError):  # those that hold something stay
            for folder in made:
                folder.rmdir()
        raise


def require_sweep(path: Path) -> None:
    """Raise `UserError` if what a sweep that goes on may write to is a link or no file."""
    require_plain(path / SWEEP)
    for root, names, _ in os.walk(path):
        for name in names:
            require_plain(Path(root, name), stat.S_IFDIR)
        _require_own_files(Path(root))


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
            OSError: it cannot be made.
        """
        path.mkdir(parents=True, exist_ok=True)
        with nullcontext() if is_claimed else locked(path):
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
        with locked(path):
            run = cls(path)
            for folder in (path, path / _CHUNKS):
                for partial in folder.glob(f"*{PARTIAL}"):
                    if partial.is_file() or partial.is_symlink():
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

    def write_plot(self, name: str, draw: Callable[..., bytes], kinds: Sequence[str]) -> None:
        """Write a plot in each of some formats.

        Args:
            name: of the .png.
            draw: gives the bytes for a `kind`.
            kinds: png, and others.
        """
        for kind in kinds:
            self.write_bytes(f"{name.removesuffix('.png')}.{kind}", draw(kind=kind))

    def write_bytes(self, name: str, content: bytes) -> None:
        """Write a file that fits in memory."""
        if processes.is_first():
            with replacing(self.path / name) as file:
                file.write(content)

    def write_json(self, name: str, content: Mapping) -> None:
        """Write numbers and names; NaN is refused, since JSON has none."""
        self.write_text(name, json.dumps(content, indent=2, allow_nan=False) + "\n")

    def read_json(self, name: str) -> dict:
        """Read back what `write_json` wrote; {} where the file is missing."""
        return processes.broadcast(lambda: read_json(self.path / name))

    def chunk(self, number: int, members: Mapping[str, Member]) -> dict[str, np.ndarray] | None:
        """Arrays of a finished chunk, or None; a damaged file is dropped.

        Args:
            number: of the chunk.
            members: what it must hold.
        """
        return processes.broadcast(lambda: self._read_chunk(number, members))

    def _read_chunk(
        self, number: int, members: Mapping[str, Member]
    ) -> dict[str, np.ndarray] | None:
        path = self._chunk_path(number)
        try:
            return read_arrays(path, members)
        except FileNotFoundError:
            return None
        except DamagedError as error:
            log.warning("%s is damaged (%s) and will be made again", path, error)
            path.unlink()
            return None

    def write_chunk(self, number: int, **arrays: np.ndarray) -> None:
        """Save a finished chunk: at least `samples [k, *event]` and `index [k]`.

        Of what else there is `labels [k]` alone come into samples.npz.
        """
        if processes.is_first():
            with replacing(self._chunk_path(number)) as file:
                np.savez(file, **arrays)

    def gather_chunks(self, count: int) -> None:
        """Join all chunks into samples.npz, one in memory at a time, and remove them."""
        if not processes.is_first():
            return
        paths = [self._chunk_path(number) for number in range(count)]
        with replacing(self.path / SAMPLES) as file, zipfile.ZipFile(file, "w") as archive:
            with np.load(paths[0], allow_pickle=False) as first:
                held = [name for name in PER_SAMPLE if name in first]
            for name in held:
                _join(archive, name, paths)
        self._drop_chunks()

    def require_samples(self) -> None:
        """Raise `UserError` where the run has no samples yet."""
        missing = f"{self.path} holds no {SAMPLES}: finish the run with: {_resume(self.path)}"
        require((self.path / SAMPLES).is_file(), missing)

    def samples(self, shape: Sequence[int] | None = None) -> np.ndarray:
        """The samples of a finished run: [n, *event], which is `shape` if that is known.

        Raises:
            UserError: there are none, or the file is damaged.
        """
        self.require_samples()
        file = self.path / SAMPLES
        try:
            member = Member(np.floating, None if shape is None else tuple(shape))
            return read_arrays(file, {"samples": member})["samples"]
        except DamagedError as error:
            raise UserError(
                f"{file} is damaged ({error}): remove it, and make it again with: "
                f"{_resume(self.path)}"
            ) from error

    def _chunk_path(self, number: int) -> Path:
        return self.path / _CHUNKS / f"{number:06d}.npz"

    def _drop_chunks(self) -> None:
        shutil.rmtree(self.path / _CHUNKS, ignore_errors=True)


def require_run(path: Path) -> None:
    """Raise `UserError` unless `path` is the folder of a run, whose files are no links."""
    _require_own_files(path)
    is_run = (path / CONFIG).is_file()
    is_sweep = not is_run and (path / SWEEP).is_file()
    require(not is_sweep, f"{path} is the folder of a sweep: give that of one of its runs")
    require(is_run, f"{path} is not the folder of a run: it holds no {CONFIG}")


def write_failure(path: Path, message: str) -> None:
    """Record in run.json that a run could not be done, and why."""
    known = read_json(path / RUN)
    RunFolder(path).write_json(RUN, known | {"status": "failed", "error": message})


def read_json(path: Path) -> dict:
    """The content of run.json, metrics.json or another JSON object; {} where it is missing.

    Raises:
        UserError: the file is damaged.
    """
    return read_object(path, _PROBLEMS.get(path.name, lambda _: None))


def write_csv(path: Path, columns: Sequence[str], rows: Sequence[Mapping]) -> None:
    """A table as comma-separated values; cells that a row lacks stay empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    with replacing(path) as file:
        file.write(text.getvalue().encode())


def read_csv(path: Path, longest: int) -> list[dict[str, str]]:
    """The rows of such a table, of so many bytes at most.

    Raises:
        OSError, ValueError, UserError or csv.Error: it cannot be read, or it is damaged.
    """
    text = read_bytes(path, longest).decode("utf-8")
    return list(csv.DictReader(io.StringIO(text), strict=True))


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


def _resume(path: Path) -> str:
    """The command that continues a run."""
    return f"gdiff {verb_of(path)} --resume {shlex.quote(str(path))}"


def verb_of(path: Path) -> str:
    """What the run in a folder was begun with."""
    return "train" if (path / TRAINING).is_file() else "sample"


@contextmanager
def _refusing(path: Path, key: str) -> Iterator[None]:
    """Say of a folder that cannot be made or read which key chooses another."""
    try:
        yield
    except OSError as error:
        reason = "it is not a folder" if error.errno == errno.EEXIST else error.strerror
        raise UserError(f"cannot write to {path} ({reason}): set {key} to another folder") from None


def _require_vacant(path: Path, key: str) -> None:
    """Make the folder `path`, which may hold only what a run leaves before it begins."""
    path.mkdir(parents=True, exist_ok=True)
    strangers = sorted({p.name for p in path.iterdir()} - _BEFORE_A_RUN)
    begun = {CONFIG, SWEEP}.intersection(strangers)
    hint = f", or continue with: {_resume(path)}" if begun else ""
    require(
        not strangers,
        f"{path} is not empty (it holds {', '.join(strangers[:3])}): set {key} to a new "
        f"folder{hint}",
    )
    _require_own_files(path)


def _require_own_files(path: Path) -> None:
    """Raise `UserError` if a file that gdiff or Hydra opens in a run folder is a link or no file.

    What is only ever replaced, such as pictures, need not be looked at.
    """
    for name in (_CHUNKS, _HYDRA):
        require_plain(path / name, stat.S_IFDIR)
        for file in sorted((path / name).glob("*")):
            require_plain(file)
    for name in (CONFIG, SAMPLES, METRICS, RUN, LOG, LOCK):
        require_plain(path / name)


def _is_worth_keeping(path: Path, error: BaseException) -> bool:
    """Whether a block that failed has left samples or, if it was interrupted, a run."""
    if isinstance(error, KeyboardInterrupt):
        return any(p.parent.name != _HYDRA for p in path.rglob(CONFIG))
    return any(path.rglob("*.npz"))


def _empty(path: Path) -> None:
    """Remove all but the lock from a folder."""
    for entry in path.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry, ignore_errors=True)
        elif entry.name != LOCK:
            entry.unlink(missing_ok=True)
