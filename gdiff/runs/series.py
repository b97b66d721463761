"""Lines of a plot of runs: a metric against a setting, a line for all else that differs."""

from collections.abc import Sequence
from typing import NamedTuple

from gdiff.errors import UserError
from gdiff.runs.choose import require_known, value_of
from gdiff.runs.differ import Difference, differing, number_of
from gdiff.runs.groups import SEED, mean
from gdiff.runs.past import PastRun

# By which most sweeps are read, if runs differ in it.
_STEPS = "schedule.steps"
# Beyond these ratios of the largest to the smallest, an axis is logarithmic.
_WIDE = {"x": 4.9, "y": 19.9}


class Line(NamedTuple):
    """One line of a plot.

    Attributes:
        label: the settings that it stands for; empty if it is the only one.
        x: [n] where its points stand: numbers, or places of the names of `Axes.names`.
        y: [n] means over seeds.
        error: [n] their standard errors; 0 of a single run.
    """

    label: str
    x: list[float]
    y: list[float]
    error: list[float]


class Axes(NamedTuple):
    """What is plotted against what.

    Attributes:
        x: the setting along the axis, or None where nothing but seeds differs.
        lines: the settings that tell lines apart.
        names: of the places on the axis, if its values are no numbers.
    """

    x: str | None
    lines: list[str]
    names: list[str]


def axes(runs: Sequence[PastRun], x: str | None = None, lines: Sequence[str] | None = None) -> Axes:
    """The axis and the lines that suit runs, unless they are given.

    The axis is `schedule.steps` or else the number of most values that differs, or the first
    setting that does; lines are told apart by what else differs, but for the seed.

    Raises:
        UserError: a setting that is given is none of the runs'.
    """
    for key, option in ((x, "--x"), *((line, "--line") for line in lines or ())):
        if key is not None:
            require_known(runs, key, option)
    others = [d for d in differing(runs) if d.key != SEED]
    if x is None:
        x = _suiting(others)
    values = dict.fromkeys(v for v in (_text(run, x) for run in runs) if v is not None)
    names = [] if all(number_of(value) is not None for value in values) else list(values)
    if lines is None:
        lines = [d.key for d in others if d.key != x]
    return Axes(x, list(lines), names)


def line_of(run: PastRun, chosen: Axes) -> str:
    """The label of the line that a run belongs to."""
    pairs = [(key, _text(run, key)) for key in chosen.lines]
    if len(pairs) == 1:
        return str(pairs[0][1])
    told = ((key, value) for key, value in pairs if value not in (None, "null"))
    return ", ".join(f"{key.rpartition('.')[2]}={value}" for key, value in told)


def series(runs: Sequence[PastRun], metric: str, chosen: Axes) -> list[Line]:
    """Lines of a metric, in the order of the runs; runs that do not have it are left out.

    Raises:
        UserError: no run has the metric.
    """
    require_known(runs, metric, "gdiff plot")
    found: dict[str, dict[float, list[float]]] = {}
    for run in runs:
        label, place = line_of(run, chosen), _place(run, chosen)
        points = found.setdefault(label, {})
        if place is None or metric not in run.metrics or not run.is_done:
            continue
        points.setdefault(place, []).append(run.metrics[metric])
    lines = []
    for label, points in found.items():
        means = [(place, mean(values)) for place, values in sorted(points.items())]
        known = [(place, m) for place, m in means if m is not None]
        columns = [[p for p, _ in known], [m.value for _, m in known]]
        lines.append(Line(label, *columns, [m.error or 0.0 for _, m in known]))
    if not any(line.x for line in lines):
        raise UserError(f"no complete run has the metric {metric}: gdiff runs shows what they have")
    return lines


def is_wide(values: Sequence[float], axis: str) -> bool:
    """Whether numbers are positive and of such a range that a logarithmic axis suits them."""
    return bool(values) and min(values) > 0 and max(values) / min(values) > _WIDE[axis]


def _suiting(others: Sequence[Difference]) -> str | None:
    counts = {
        d.key: len({v for v in d.values if v is not None})
        for d in others
        if all(number_of(value) is not None for value in d.values if value is not None)
    }
    if _STEPS in counts:
        return _STEPS
    first = others[0].key if others else None
    return max(counts, key=counts.__getitem__) if counts else first


def _text(run: PastRun, key: str | None) -> str | None:
    value = None if key is None else value_of(run, key)
    return None if value is None else str(value)


def _place(run: PastRun, chosen: Axes) -> float | None:
    value = _text(run, chosen.x)
    if chosen.x is None or value is None:
        return 0.0 if chosen.x is None else None
    return float(chosen.names.index(value)) if chosen.names else number_of(value)
