"""Overrides as text: their keys, and values that survive Hydra's grammar."""

import re
from collections.abc import Sequence

from omegaconf import Node


def key_of(override: str) -> str:
    """The key or the group that an override is about."""
    return override.partition("=")[0].lstrip("+~")


def shown(node: Node) -> str:
    """A value of a configuration in an override."""
    value = node._value()
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    is_plain = not isinstance(value, str) or re.fullmatch(r"[\w./-]+", value)
    return str(value) if is_plain else quoted(value)


def quoted(text: object) -> str:
    """A value for an override, whatever characters it has."""
    escaped = re.sub(r"(\\*)'", r"\1\1\\'", str(text))
    trailing = len(escaped) - len(escaped.rstrip("\\"))
    return f"'{escaped}{escaped[len(escaped) - trailing :]}'"


def with_home(overrides: Sequence[str]) -> list[str]:
    """Overrides with `key=~/path` quoted: Hydra's grammar has no bare ~ in values."""
    found = ((o, re.fullmatch(r"([^=]+=)(~/[^,'\"()\[\]{}]*)", o)) for o in overrides)
    return [f"{match[1]}{quoted(match[2])}" if match else o for o, match in found]
