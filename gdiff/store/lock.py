"""The lock on a run folder, which the operating system drops when its process ends."""

import errno
import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gdiff.errors import UserError
from gdiff.store.files import open_plain

log = logging.getLogger(__name__)

LOCK = ".lock"
# What file systems say that have no locks.
_LOCKLESS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, where the file system has locks.

    Raises:
        UserError: another process holds it, or its file is a link or cannot be written.
    """
    path = folder / LOCK
    held = _acquired(path)
    try:
        yield
    finally:
        with suppress(OSError):
            path.unlink()
        os.close(held)


def _acquired(path: Path) -> int:
    """The descriptor of the lock's file; what it may hold is left as it is."""
    while True:
        try:
            held = open_plain(path, os.O_RDWR | os.O_CREAT)
        except OSError as error:
            raise UserError(
                f"cannot write to the run folder {path.parent} ({error.strerror})"
            ) from error
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(held)
            raise UserError(f"another process is at work in {path.parent}: wait for it") from None
        except OSError as error:
            if error.errno not in _LOCKLESS:
                os.close(held)
                raise
            log.debug("no lock on %s: %s", path.parent, error)
        if os.fstat(held).st_nlink:
            return held
        os.close(held)  # the one who held it has removed the file since


def is_locked(folder: Path) -> bool:
    """Whether a process of this machine is at work in the folder, as far as can be told."""
    try:
        held = open_plain(folder / LOCK)
    except (OSError, UserError):
        return False
    try:
        fcntl.flock(held, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(held)
    return False
