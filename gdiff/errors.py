"""What goes wrong in ways that are told in one line."""

import logging
import os
import traceback
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import ClassVar

log = logging.getLogger(__name__)


class UserError(Exception):
    """Something the user can put right: one line that says what is wrong and what to do.

    The command line prints it on stderr and exits with its code; everything else is a bug and
    keeps its traceback.
    """

    code: ClassVar[int] = 2


class PartError(UserError):
    """Parts of a result could not be made; all else is there."""

    code = 1


class Failures(dict[str, str]):
    """Parts of a result that could not be made: why, by name, each in a line."""

    @classmethod
    def of(cls, record: Mapping[str, object]) -> "Failures":
        """Those that a record names as `failed`, if it does."""
        found = record.get("failed")
        return cls({k: str(v) for k, v in found.items()} if isinstance(found, Mapping) else {})

    @contextmanager
    def spare(self, name: str) -> Iterator[None]:
        """A block for a part of a result; its error is kept here, and does not cost the rest."""
        try:
            yield
        except Exception as error:
            if interrupt_in(error):
                raise
            log.info("%s could not be made", name, exc_info=True)
            if os.environ.get("GDIFF_DEBUG") == "1":
                traceback.print_exc()
            kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
            self[name] = f"{kind}{' '.join(str(error).split())[:300]}".removesuffix(": ")

    def line(self) -> str:
        """All of them."""
        return "; ".join(f"{name} could not be made ({why})" for name, why in self.items())


def interrupt_in(error: BaseException | None) -> KeyboardInterrupt | None:
    """The interrupt that an error came from: interrupted libraries may fail in cleaning up."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error


def require(condition: bool, message: str) -> None:
    """Raise `UserError(message)` unless `condition` holds."""
    if not condition:
        raise UserError(message)


def require_one_of(name: str, value: str, allowed: Iterable[str]) -> None:
    """Raise `UserError` unless `value` is one of `allowed`, listing them."""
    allowed = tuple(allowed)
    require(value in allowed, f"{name}={value!r} is not one of: {', '.join(allowed)}")
