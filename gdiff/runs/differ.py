"""What tells runs apart: the settings in which they differ, without those that follow."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from gdiff.runs.past import TARGET, PastRun


class Difference(NamedTuple):
    """A setting that is not the same in all runs.

    Attributes:
        key: dotted, or the name of a group.
        values: as text, one a run; None where a run has no such setting.
    """

    key: str
    values: list[str | None]


def differing(runs: Sequence[PastRun], *, whole: bool = False) -> list[Difference]:
    """Settings in which runs differ: groups first, then keys, in the order of configurations.

    A key that only some runs have differs if those that have it do. One that follows from the
    option of its group (`sampler.eta` from `sampler`) is left out, unless some run was given it.

    Args:
        runs: to compare.
        whole: leave nothing out.
    """
    shown = [_shown_settings(run) for run in runs]
    given = {key for run in runs for key in run.given}
    keys = dict.fromkeys(key for settings in shown for key in settings)
    found = []
    for key in sorted(keys, key=lambda key: "." in key or f"{key}.{TARGET}" not in _all(runs)):
        values = [settings.get(key) for settings in shown]
        if len({value for value in values if whole or value is not None}) < 2:
            continue
        group = key.partition(".")[0]
        options = [settings.get(group) for settings in shown]
        if whole or key in given or key == group or not _follows(values, options):
            found.append(Difference(key, values))
    return found


def common(runs: Sequence[PastRun]) -> dict[str, str]:
    """Settings that all runs share: options of groups, and keys that were given to some run."""
    shown = [_shown_settings(run) for run in runs]
    given = {key for run in runs for key in run.given}
    groups = {key.removesuffix(f".{TARGET}") for key in _all(runs) if key.endswith(TARGET)}
    first = shown[0] if shown else {}
    return {
        key: value
        for key, value in first.items()
        if (key in given or ("." not in key and key in groups))
        and all(settings.get(key) == value for settings in shown)
    }


def as_text(value: Any) -> str:
    """A setting as it would be typed."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, float):
        return f"{value:.12g}"
    if isinstance(value, list):
        return f"[{', '.join(map(as_text, value))}]"
    return str(value)


def number_of(text: str | None) -> float | None:
    """The number that a setting is, or None."""
    try:
        return None if text is None else float(text)
    except ValueError:
        return None


def _shown_settings(run: PastRun) -> dict[str, str]:
    return {k: as_text(v) for k, v in run.settings.items() if not k.endswith(TARGET)}


def _all(runs: Iterable[PastRun]) -> Mapping[str, None]:
    return dict.fromkeys(key for run in runs for key in run.settings)


def _follows(values: Sequence[str | None], options: Sequence[str | None]) -> bool:
    """Whether a value is told by the option: the same wherever the option is."""
    by_option: dict[str | None, set[str]] = {}
    for value, option in zip(values, options, strict=True):
        by_option.setdefault(option, set()).update([] if value is None else [value])
    return None not in by_option and all(len(found) < 2 for found in by_option.values())
