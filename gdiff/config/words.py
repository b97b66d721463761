"""Overrides as text: their keys, and values that survive Hydra's grammar."""

import re
from collections.abc import Callable, Iterator

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import Node

# What Hydra reads as something else than text.
_NO_TEXT = re.compile(r"[+-]?([\d_.]+(e[+-]?[\d_]+)?|inf|nan)|true|false", re.IGNORECASE)
# What it reads, and prints again, as it was typed.
_PLAIN = re.compile(r"-?(0|[1-9]\d*)")
_FRACTION = re.compile(r"[+-]?\d*\.\d*")
# Values that say themselves what they are: quoted, interpolated, or a sweep by a function.
_FUNCTIONS = "choice|range|interval|glob|sort|shuffle|tag|int|float|str|bool|json_str|extend_list"
_EXPLICIT = re.compile(rf"""['"].*['"]|.*\$\{{.*|({_FUNCTIONS})\(.*\)|null|\?\?\?|""", re.DOTALL)


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


def as_typed(override: str, kind_of: Callable[[str], str]) -> str:
    """An override in which a text is one, as it was typed: dataset.path=2024_01 is no number.

    Hydra's grammar has numbers, no bare ~ at the start of a value, and few other characters.

    Args:
        override: of the user's.
        kind_of: what the value of a key is: "text", "names" for a list of names and numbers, or
            anything else, for which the override stays as it is.
    """
    start, equals, value = override.partition("=")
    if not equals or not (value.startswith("~/") or any(map(_is_at_risk, _pieces(value)))):
        return override
    kind = kind_of(key_of(override))
    if kind == "names":
        return f"{start}={','.join(map(_names, _pieces(value)))}"
    if kind == "text" or value.startswith("~/"):
        return f"{start}={','.join(map(_text, _pieces(value)))}"
    return override


def _is_at_risk(piece: str) -> bool:
    """Whether Hydra would not give a text back as it was typed."""
    if piece.startswith("[") and piece.endswith("]"):
        return any(map(_is_at_risk, _pieces(piece[1:-1]))) or not _can_be_read(piece)
    if _EXPLICIT.fullmatch(piece) or _PLAIN.fullmatch(piece):
        return False
    return _NO_TEXT.fullmatch(piece) is not None or not _can_be_read(piece)


def _can_be_read(piece: str) -> bool:
    try:
        OverridesParser.create().parse_override(f"key={piece}")
    except HydraException:
        return False
    return True


def _text(piece: str) -> str:
    return quoted(piece) if _is_at_risk(piece) else piece


def _names(piece: str) -> str:
    if not (piece.startswith("[") and piece.endswith("]")):
        return piece
    # Names may look like numbers, but there are no numbers with a fraction among them.
    parts = (p if _FRACTION.fullmatch(p) else _text(p) for p in _pieces(piece[1:-1]))
    return f"[{','.join(parts)}]"


def _pieces(value: str) -> Iterator[str]:
    """Parts of a value between commas, but not between those in brackets or quotes."""
    depth, quote, start = 0, "", 0
    for place, letter in enumerate(value):
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        elif letter in "([{":
            depth += 1
        elif letter in ")]}":
            depth -= 1
        elif letter == "," and depth == 0:
            yield value[start:place].strip()
            start = place + 1
    yield value[start:].strip()
