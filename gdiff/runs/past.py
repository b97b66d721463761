"""Run folders as they are found, on this machine or copied from another; nothing of them is run.

Their files are plain data: they are bounded in size, no link is followed, no class that a
configuration names is imported.
"""

import csv
import os
import re
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from gdiff.errors import Failures, UserError
from gdiff.store.files import DamagedError, is_number, read_bytes, read_first
from gdiff.store.lock import is_locked
from gdiff.store.outputs import CONFIG, METRICS, RUN, SAMPLES, TRAINING, read_csv, read_json
from gdiff.store.yamls import read_yaml

COMPLETE, PARTIAL, RUNNING = "complete", "partial", "running"
INTERRUPTED, FAILED = "interrupted", "failed"
HYDRA = Path(".hydra")
TARGET = "_target_"
_LONGEST = 2**26  # bytes of a table or a picture
_DEEPEST = 12  # folders between the one that is searched and a run
_PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True, eq=False)
class PastRun:
    """What a run folder tells.

    Attributes:
        folder: of the run.
        name: by which people know it: the path below the folder that was searched.
        status: complete; partial, where something of it could not be made; running; interrupted,
            where no process is at work on it any more; failed.
        problem: why it is not complete, in a line; may be empty.
        settings: dotted key → value of config.yaml, and group → the option that was chosen.
        typed: the overrides of its command; None where they are lost.
        metrics: name → number, of metrics.json.
        record: run.json.
        changed: when it was last written to, in seconds since 1970.
    """

    folder: Path
    name: str
    status: str
    problem: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    typed: Sequence[str] | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    record: Mapping[str, Any] = field(default_factory=dict)
    changed: float = 0.0

    @property
    def is_done(self) -> bool:
        """Whether it has come to its end, with its metrics."""
        return self.status in (COMPLETE, PARTIAL)

    @property
    def age(self) -> float:
        """Seconds since it was last written to."""
        return max(0.0, time.time() - self.changed)

    @cached_property
    def size(self) -> int:
        """Bytes of all its files."""
        return sum(_sizes(self.folder))

    @property
    def given(self) -> set[str]:
        """Keys and groups that its command named."""
        return {word.partition("=")[0].lstrip("+~") for word in self.typed or ()}

    @property
    def command(self) -> str | None:
        """By which it can be repeated; None where its overrides are lost."""
        if self.typed is None:
            return None
        options = [word for name in self.plugins for word in ("--plugin", name)]
        return shlex.join(["gdiff", "sample", *options, *self.typed])

    @cached_property
    def plugins(self) -> list[str]:
        """Packages other than gdiff whose classes its configuration names."""
        named = (str(v) for key, v in self.settings.items() if key.endswith(TARGET))
        packages = (name.partition(".")[0] for name in named)
        return sorted({p for p in packages if p != "gdiff" and p.isidentifier()})

    def samples(self, count: int) -> np.ndarray | None:
        """The first samples, [≤ count, *event]; None where there are none that can be read."""
        try:
            return read_first(self.folder / SAMPLES, "samples", count)
        except (OSError, UserError, DamagedError):
            return None

    def picture(self, name: str) -> bytes | None:
        """A PNG file of the run; None where there is none."""
        try:
            content = read_bytes(self.folder / name, _LONGEST)
        except (OSError, UserError):
            return None
        return content if content.startswith(_PNG) else None

    def curve(self, name: str) -> dict[str, list[float]]:
        """Columns of a CSV file of numbers, cells that are none left out as NaN; {} if damaged."""
        try:
            rows = read_csv(self.folder / name, _LONGEST)
        except (OSError, UserError, ValueError, csv.Error):
            return {}
        names = [name for name in (rows[0] if rows else ()) if isinstance(name, str)]
        return {name: [_number(row[name]) for row in rows] for name in names}

    def json(self, name: str) -> dict[str, Any]:
        """A JSON file of the run; {} where it is missing or damaged."""
        try:
            return read_json(self.folder / name)
        except (OSError, UserError):
            return {}


def is_run(folder: Path) -> bool:
    """Whether a folder is that of a run, whatever has become of it; a training is none."""
    if (folder / TRAINING).is_file():
        return False
    return any((folder / name).is_file() for name in (RUN, HYDRA / "overrides.yaml"))


def find(folders: Sequence[Path]) -> tuple[list[PastRun], list[str]]:
    """All runs in folders, which are of one run, of sweeps, or hold any number of them.

    Returns:
        The runs, in the order of the folders and of their names; and for what is damaged, a line
        each.

    Raises:
        UserError: a folder is not there.
    """
    found, damaged = {}, []
    for above in folders:
        if not above.is_dir():
            raise UserError(f"there is no folder {above}: give one that holds runs")
        for folder in _runs_below(above):
            if folder.absolute() in found:
                continue
            try:
                found[folder.absolute()] = read(folder, _name(folder, above, len(folders) > 1))
            except (UserError, OSError) as error:
                damaged.append(str(error))
    return list(found.values()), damaged


def read(folder: Path, name: str | None = None) -> PastRun:
    """The run in a folder, as `name`.

    Raises:
        UserError: it is damaged, or there is no run.
    """
    if not is_run(folder):
        raise UserError(f"{folder} is not the folder of a run: it holds no {RUN}")
    record, metrics = read_json(folder / RUN), read_json(folder / METRICS)
    config = read_yaml(folder / CONFIG)
    if not isinstance(config, dict | None):
        raise UserError(f"{folder / CONFIG} is not a configuration: remove it")
    settings = flatten(config or {})
    settings = {**_choices(folder, settings), **settings}
    status, problem = _status(folder, record)
    newest = max((_changed(folder / name) for name in (CONFIG, METRICS, RUN)), default=0.0)
    name = name or folder.name
    changed = newest or _changed(folder)
    return PastRun(
        *(folder, name, status, problem, settings, typed(folder), metrics, record, changed)
    )


def flatten(config: Mapping, prefix: str = "") -> dict[str, Any]:
    """Leaves of a configuration by their dotted keys; lists are leaves."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def typed(folder: Path) -> list[str] | None:
    """What Hydra wrote of a run's overrides; None where that is lost or damaged."""
    try:
        found = read_yaml(folder / HYDRA / "overrides.yaml")
    except (OSError, UserError):
        return None
    is_list = isinstance(found, list)
    return [word for word in found if isinstance(word, str)] if is_list else None


def _choices(folder: Path, settings: Mapping[str, Any]) -> dict[str, str]:
    """Group → option, as Hydra wrote it; else the class that the group's part is of."""
    groups = {key.removesuffix(f".{TARGET}"): value for key, value in settings.items()}
    found = {
        group: str(value).rpartition(".")[2].lower()
        for group, value in groups.items()
        if f"{group}.{TARGET}" in settings and "." not in group
    }
    try:
        hydra = read_yaml(folder / HYDRA / "hydra.yaml")
        chosen = hydra["hydra"]["runtime"]["choices"]
        found |= {group: chosen[group] for group in found if isinstance(chosen[group], str)}
    except (OSError, UserError, TypeError, LookupError):
        pass
    return found


def _status(folder: Path, record: Mapping[str, Any]) -> tuple[str, str]:
    """What has become of a run, and why."""
    status, missing = record.get("status"), Failures.of(record).line()
    if status == COMPLETE:
        return (PARTIAL, missing) if missing else (COMPLETE, "")
    if status == FAILED:
        return FAILED, str(record.get("error", ""))
    return (RUNNING if is_locked(folder) else INTERRUPTED), missing


def _runs_below(folder: Path, depth: int = 0) -> Iterator[Path]:
    """Folders of runs in a folder, or itself, by name; numbers in names count as numbers."""
    if is_run(folder):
        yield folder
        return
    if depth == _DEEPEST:
        return
    try:
        inner = [entry for entry in os.scandir(folder) if entry.is_dir(follow_symlinks=False)]
    except OSError:  # not to be read by this user
        return
    for entry in sorted(inner, key=lambda entry: natural(entry.name)):
        if not entry.name.startswith("."):
            yield from _runs_below(Path(entry.path), depth + 1)


def natural(name: str) -> list[tuple[bool, int, str]]:
    """By which names sort as people expect: run 9 before run 10."""
    pieces = [(piece, piece.isdecimal()) for piece in re.findall(r"\d+|\D+", name)]
    return [(not is_n, len(p.lstrip("0")) if is_n else 0, p) for p, is_n in pieces]


def _name(folder: Path, above: Path, is_one_of_many: bool) -> str:
    if folder == above:
        return folder.name or str(folder)
    inside = str(folder.relative_to(above))
    return f"{above.name}/{inside}" if is_one_of_many else inside


def _changed(path: Path) -> float:
    try:
        return path.lstat().st_mtime
    except OSError:
        return 0.0


def _sizes(folder: Path) -> Iterator[int]:
    try:
        entries = list(os.scandir(folder))
    except OSError:
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield from _sizes(Path(entry.path))
        else:
            yield entry.stat(follow_symlinks=False).st_size


def _number(cell: str | None) -> float:
    try:
        value = float(cell or "nan")
    except ValueError:
        return float("nan")
    return value if is_number(value) else float("nan")
