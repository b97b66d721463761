"""Lines for a paper: a metric of many runs against a setting, with bars of one standard error."""

import math
from collections.abc import Sequence
from typing import Protocol

from gdiff.figures.axes import COLOURS, empty_figure, quieten
from gdiff.figures.encode import encoded

_MARKS = "os^Dv"
_ROOM = 40  # letters along the axis
_NEAR = 1.2  # factor between places that are one on a logarithmic axis
_LEGEND = 6  # lines beyond which it stands beside the axes


class Points(Protocol):
    """A line: `label`, and [n] numbers `x`, `y` and `error`, 0 where there is no bar."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    error: Sequence[float]


def lines_figure(
    lines: Sequence[Points],
    labels: tuple[str, str],
    *,
    legend: str,
    names: Sequence[str],
    log: tuple[bool, bool],
    kind: str,
) -> bytes:
    """The figure as bytes.

    Args:
        lines: at least one.
        labels: of the axes.
        legend: its title; there is none of a single line without label.
        names: of the places 0, 1, … along the axis, if they are not numbers; points are not joined.
        log: whether the axes are logarithmic.
        kind: pdf, svg or png.
    """
    is_long = len(lines) > _LEGEND
    figure = empty_figure(5.6 if is_long else 4.2, 3.1, dpi=200)
    axes = figure.subplots()
    axes.set_xscale("log" if log[0] else "linear")
    axes.set_yscale("log" if log[1] else "linear")
    for number, line in enumerate(lines):
        look = {"color": COLOURS[number % len(COLOURS)], "marker": _MARKS[number % len(_MARKS)]}
        look |= {"linestyle": "none" if names else "-", "linewidth": 1.5, "markersize": 4.5}
        error = line.error if any(line.error) else None
        axes.errorbar(line.x, line.y, error, label=line.label, capsize=2.5, elinewidth=1.1, **look)
    quieten(axes, "y" if names else "both")
    axes.set(xlabel=labels[0], ylabel=labels[1])
    if names:
        slant = {"rotation": 35, "ha": "right"} if sum(map(len, names)) > _ROOM else {}
        axes.set_xticks(range(len(names)), names, **slant)
        axes.set_xlim(-0.5, len(names) - 0.5)
    places = sorted({x for line in lines for x in line.x})
    if log[0]:  # of two numbers beside one another only the larger one is said
        follow = [*places[1:], math.inf]
        places = [here for here, after in zip(places, follow, strict=True) if after > _NEAR * here]
    if not names and len(places) <= 8:
        axes.set_xticks(places, [f"{place:g}" for place in places])
        axes.set_xticks([], minor=True)
    if len(lines) > 1 or lines[0].label:
        beside = {"loc": "center left", "bbox_to_anchor": (1.01, 0.5)} if is_long else {}
        axes.legend(title=legend, frameon=False, fontsize=8, title_fontsize=8, **beside)
    return encoded(figure, kind)
