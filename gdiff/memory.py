"""Memory of this process and its devices: what there is, what is asked for, and the peaks."""

import ctypes
import os
import re
import resource
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import jax

from gdiff.errors import UserError, require

# What makes a part of a run smaller, by its phase.
_REMEDIES = {
    "dataset": "lower dataset.resolution or dataset.num_points, or give a smaller file",
    "fit": "lower dataset.subset, or set score.rows=host where the score has it",
    "fit exact score": "lower dataset.subset, or set score.rows=host",
    "fit prior": "lower dataset.subset or the sizes of the prior",
    "fit first guess": "lower dataset.subset, or set sampler.start=constant",
    "horizon": "lower dataset.subset, or give schedule.horizon a number",
    "losses": "lower schedule.loss_samples or dataset.subset",
    "prior": "lower batch_size",
    "compile": "lower batch_size or schedule.steps",
    "sampling": "lower batch_size",
    "trajectory": "lower picture_samples, or set trajectory=false",
    "picture": "lower picture_samples or num_samples",
    "metrics": "lower metrics.data_points or num_samples",
    "score error": "lower metrics.score_queries",
    "budget": "set metrics.budget=false",
    "benchmark": "lower --queries or dataset.subset",
}
# How JAX says that memory ran out.
_EXHAUSTED = re.compile("RESOURCE_EXHAUSTED|out of memory|allocat", re.IGNORECASE)
_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def is_known() -> bool:
    """Whether the system tells."""
    return _STATUS.exists()


def forget_peak() -> None:
    """The highest mark, VmHWM, starts again from here.

    Raises:
        OSError: the system has none.
    """
    _RESET.write_text("5")


def in_bytes(name: str) -> int:
    """A line of /proc/self/status: VmRSS now, VmHWM at most, RssAnon without copies of files."""
    return 1024 * int(re.search(rf"{name}:\s*(\d+) kB", _STATUS.read_text())[1])


def of_host() -> int:
    """Bytes of memory of this machine, or of the container that this process is in."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        return min(total, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):  # not there, or without a limit
        return total


def of_device() -> int:
    """Bytes of memory of a device; a CPU has the host's."""
    limit = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")
    return of_host() if limit is None else limit


def of_disk(path: Path) -> int:
    """Bytes that are free where a file or folder is, or will be made."""
    there = next(each for each in (path, *path.absolute().parents) if each.exists())
    return shutil.disk_usage(there).free


def of_program(compiled: Any) -> int:
    """Bytes of a device that a compiled program of JAX takes at most; 0 where it does not tell."""
    found = compiled.memory_analysis()
    parts = ("temp", "argument", "output")
    whole = sum(getattr(found, f"{part}_size_in_bytes", 0) for part in parts)
    return whole - getattr(found, "alias_size_in_bytes", 0)


def in_words(size: float) -> str:
    """A number of bytes for people: 23.4 GiB."""
    power = next((k for k in range(6, 0, -1) if size >= 1024**k), 0)
    units = ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
    return f"{size / 1024**power:.3g} {units[power]}"


def require_room(need: float, key: str, room: int | None = None, kind: str = "memory") -> None:
    """Raise `UserError` if more bytes are asked for than there are.

    Args:
        need: the bytes, as far as they can be told.
        key: with its value, what asks for them: `steps=10`.
        room: the bytes that there are; by default the host's.
        kind: of what.
    """
    room = of_host() if room is None else room
    require(
        need <= room,
        f"{key} needs {in_words(need)} of {kind}, and there are {in_words(room)}: lower it",
    )


@contextmanager
def remedied(phase: str) -> Iterator[None]:
    """A phase of a run; where memory runs out in it, `UserError` says what to lower."""
    try:
        yield
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        if not (isinstance(error, MemoryError) or _EXHAUSTED.search(str(error))):
            raise
        why = " ".join(str(error).split())[:200]
        remedy = _REMEDIES.get(phase, "lower num_samples, batch_size or dataset.subset")
        raise UserError(f"memory ran out in {phase}, {why}: {remedy}") from error


class Peaks:
    """The largest memory from now on, in bytes: of this process, `host`, and of each device.

    A count that goes on from what was before, as those of devices do, is told if it grows: until
    then nobody knows.
    """

    def __init__(self) -> None:
        with suppress(OSError, AttributeError):
            # What glibc's malloc has kept of memory that was freed would be counted as in use.
            ctypes.CDLL("libc.so.6").malloc_trim(0)
        self._before = _peaks()
        with suppress(OSError):
            forget_peak()
            self._before["host"] = 0

    def read(self) -> dict[str, int]:
        """Those that are known, by name."""
        return {name: peak for name, peak in _peaks().items() if peak > self._before.get(name, 0)}


def _peaks() -> dict[str, int]:
    unit = 1 if sys.platform == "darwin" else 1024
    usage = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    found = {"host": in_bytes("VmHWM") if is_known() else usage}
    for device in jax.local_devices():
        stats = device.memory_stats() or {}
        if "peak_bytes_in_use" in stats:
            found[str(device)] = stats["peak_bytes_in_use"]
    return found
