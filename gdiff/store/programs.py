"""Compiled programs that JAX keeps: damaged ones, and too many.

Of damaged ones on disk JAX itself warns in every run, and neither replaces nor removes them.
"""

import gc
import logging
import re
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import jax

log = logging.getLogger(__name__)

_COMPLAINT = re.compile(
    r"Error (?P<what>reading|writing) persistent compilation cache entry for '(?P<name>.*?)': "
    r"(?P<why>.*)"
)
# What this process has mapped into memory, line by line, and how much Linux lets it map.
_MAPPED, _MOST_MAPPED = Path("/proc/self/maps"), Path("/proc/sys/vm/max_map_count")
_others: Callable[..., None] = warnings.showwarning
_warned_of: set[str] = set()


def mend() -> None:
    """Have what JAX warns of its programs mended or, once for each folder, be a line of the log."""
    global _others
    if warnings.showwarning is not _show:
        _others, warnings.showwarning = warnings.showwarning, _show


def forget_if_many() -> None:
    """Let go of all programs in memory, if half of what the system allows is mapped.

    On CPU each is some twenty mappings, and beyond the limit, 65 530 by default, the compiler
    crashes: so would a long sweep in one process.
    """
    with suppress(OSError, ValueError):  # not Linux
        if 2 * _MAPPED.read_bytes().count(b"\n") > int(_MOST_MAPPED.read_text()):
            jax.clear_caches()
            gc.collect()


def _show(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
    """What Python calls to show a warning."""
    found = _COMPLAINT.match(str(message))
    folder = jax.config.jax_compilation_cache_dir
    if found is None or folder is None:
        _others(message, category, *place, **more)
        return
    if found["what"] == "reading" and _dropped(Path(folder), found["name"]):
        log.debug("dropped damaged programs of %s (%s)", found["name"], found["why"])
    elif folder not in _warned_of:
        _warned_of.add(folder)
        log.warning("compiled programs cannot be kept in %s (%s)", folder, found["why"])


def _dropped(folder: Path, name: str) -> bool:
    """Remove the programs of a name; whether there were any."""
    pattern = re.compile(rf"{re.escape(name)}-[0-9a-f]{{64}}-cache")
    with suppress(OSError):
        paths = [path for path in folder.iterdir() if pattern.fullmatch(path.name)]
        for path in paths:
            path.unlink()
        return bool(paths)
    return False
