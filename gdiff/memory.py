"""Memory of this process and its devices, as they count it themselves."""

import ctypes
import re
import resource
import sys
from contextlib import suppress
from pathlib import Path

import jax

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
