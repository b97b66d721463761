"""YAML files of run folders: plain data, which no few bytes may blow up."""

from pathlib import Path
from typing import Any

import yaml

from gdiff.errors import UserError
from gdiff.store.files import read_bytes

_DEEPEST = 20  # of the parts in a configuration, more than any has
_LARGEST = 2**24  # bytes, far more than any has
# The one in C, where PyYAML was built with it, is ten times faster.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def require_plain_yaml(path: Path) -> None:
    """Refuse parts that stand for others, and very deep ones.

    Raises:
        UserError: the file has such parts, or is no plain file.
        OSError: it cannot be opened.
        ValueError: it is no text.
        yaml.YAMLError: it is no YAML.
    """
    _require_plain(path, _text(path))


def read_yaml(path: Path) -> Any:
    """The content of a file, of dicts, lists and plain values; None where it is missing.

    Raises:
        UserError: the file is damaged, or not what a run leaves.
        OSError: it cannot be opened.
    """
    try:
        text = _text(path)
        _require_plain(path, text)
        return yaml.load(text, Loader=_LOADER)
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path} cannot be read ({reason}): remove it") from None


def first_comment(path: Path) -> str:
    """What the first comment of a file of options says of it; empty where it has none."""
    try:
        lines = _text(path).splitlines()
    except (OSError, ValueError, UserError):
        return ""
    notes = (line[1:].strip() for line in lines if line.startswith("#"))
    return next((note for note in notes if not note.startswith("@")), "")


def _text(path: Path) -> str:
    return read_bytes(path, _LARGEST).decode("utf-8")


def _require_plain(path: Path, text: str) -> None:
    depth = 0
    for event in yaml.parse(text, Loader=_LOADER):
        if isinstance(event, yaml.AliasEvent):
            raise UserError(f"{path} has parts that stand for others (*name): write them out")
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth >= _DEEPEST:
            raise UserError(f"{path} is not a configuration: it is nested too deep")
