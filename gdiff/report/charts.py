"""Charts of a page as SVG: light or dark, and readable small, as the page's style says.

matplotlib's plots have colours of their own and no names for the lines under the mouse; of it the
ticks are used.
"""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from markupsafe import Markup

from gdiff.runs.series import is_wide

COLOURS = 10  # that the page's style has
_DASHES = ("none", "7 3", "2 3", "9 3 2 3")
_WIDTH, _HEIGHT = 440, 264
# Letters that there is room for along the axis, and pixels for those that do not stand upright.
_ROOM, _SLANTED = 48, 64
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 14, 10, 44


class Curve(NamedTuple):
    """A line of a chart.

    Attributes:
        label: what it shows, for whoever points at it.
        x, y: [n] its points; those that are not finite are left out.
        error: [n] standard errors, or empty.
        colour: number of its colour, from 0; beyond the last one they are dashed.
        dash: number of its dashes; 0 draws it through.
        runs: numbers of the runs that it stands for.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    error: Sequence[float] = ()
    colour: int = 0
    dash: int = 0
    runs: Sequence[int] = ()


class _Axis(NamedTuple):
    """Where numbers stand along a line of pixels."""

    low: float
    high: float
    start: float
    end: float
    is_log: bool
    ticks: list[tuple[float, str]]

    def place(self, value: float) -> float:
        low, high = self._scaled(self.low), self._scaled(self.high)
        share = (self._scaled(value) - low) / (high - low)
        return self.start + min(1.0, max(0.0, share)) * (self.end - self.start)

    def _scaled(self, value: float) -> float:
        return math.log10(max(value, 1e-300)) if self.is_log else value


def line_chart(
    curves: Sequence[Curve], title: str, x_label: str, names: Sequence[str] = ()
) -> Markup:
    """Lines with marks and bars of one standard error; axes are logarithmic where that suits.

    Args:
        curves: with at least one point that is finite.
        title: of the chart.
        x_label: what is along the axis.
        names: of the places 0, 1, … on the axis, where it is none of numbers; marks are not joined.
    """
    points = [(x, y) for curve in curves for x, y in _finite(curve.x, curve.y)]
    xs, ys = [x for x, _ in points], [y for _, y in points]
    ends = [y + s * e for c in curves for y, e in zip(c.y, c.error, strict=False) for s in (-1, 1)]
    is_log = is_wide(ys, "y")
    is_crowded = sum(map(len, names)) > _ROOM
    height = _HEIGHT + (_SLANTED if is_crowded else 0)
    ys += [end for end in ends if math.isfinite(end) and (end > 0 or not is_log)]
    if names:
        ticks = [(float(place), name) for place, name in enumerate(names)]
        across = _Axis(-0.5, len(names) - 0.5, _LEFT, _WIDTH - _RIGHT, False, ticks)
    else:
        across = _axis(xs, (_LEFT, _WIDTH - _RIGHT), is_log=is_wide(xs, "x"), padding=0.04)
    up = _axis(ys, (_HEIGHT - _BOTTOM, _TOP), is_log=is_log, padding=0.08)
    frame = _frame(across, up, x_label, height, is_crowded=is_crowded)
    parts = [*frame, *(_curve(c, across, up, bool(names)) for c in curves)]
    return _svg(title, _WIDTH, height, parts)


def bar_chart(
    rows: Sequence[tuple[str, int, Sequence[tuple[str, float]]]], unit: str, title: str
) -> Markup:
    """Bars of parts that add up, on a linear axis.

    Args:
        rows: label, number of the run, and the parts: name and size, not below zero.
        unit: of the sizes.
        title: of the chart.
    """
    names = list(dict.fromkeys(name for _, _, parts in rows for name, _ in parts))
    totals = [sum(size for _, size in parts) for _, _, parts in rows]
    left, step, width = 190, 24, 760
    axis = _axis([0.0, *totals], (left, width - 70), is_log=False, padding=0.0)
    height = _TOP + step * len(rows) + _BOTTOM
    foot = height - _BOTTOM
    found = [
        _tick(axis.place(value), foot, axis.place(value), _TOP, text, "x")
        for value, text in axis.ticks
    ]
    found.append(_text((left + width - 70) / 2, height - 6, unit, "label", "middle"))
    for row, (label, run, parts) in enumerate(rows):
        y, at, bars = _TOP + step * row + 4, 0.0, []
        for name, size in parts:
            x, end = axis.place(at), axis.place(at + size)
            tip = f"{label}: {name} {size:.4g} {unit}"
            bars.append(
                Markup('<rect class="part p{}" x="{}" y="{}" width="{}" height="{}">{}</rect>')
                .format(names.index(name), _n(x), y, _n(max(end - x, 0.6)), step - 8, _tip(tip))
            )  # fmt: skip
            at += size
        bars.append(_text(left - 8, y + 12, _short(label, 28), "tick", "end"))
        bars.append(_text(axis.place(at) + 6, y + 12, f"{at:.3g}", "tick", "start"))
        found.append(Markup('<g data-runs="{}">{}</g>').format(run, Markup("").join(bars)))
    return _svg(title, width, height, found)


def dash_of(number: int) -> str:
    """The dashes of a line, as SVG takes them."""
    return _DASHES[number % len(_DASHES)]


def _curve(curve: Curve, across: _Axis, up: _Axis, is_of_names: bool) -> Markup:
    pairs = _finite(curve.x, curve.y)
    places = [(across.place(x), up.place(y)) for x, y in pairs]
    parts = []
    if len(places) > 1 and not is_of_names:
        steps = " ".join(f"{_n(x)},{_n(y)}" for x, y in places)
        dash = dash_of(curve.dash or curve.colour // COLOURS)
        parts.append(Markup('<polyline points="{}" stroke-dasharray="{}"/>').format(steps, dash))
    errors = [*curve.error, *[0.0] * (len(curve.x) - len(curve.error))]
    bars = dict(zip(zip(curve.x, curve.y, strict=True), errors, strict=True))
    for (x, y), (left, top) in zip(pairs, places, strict=True):
        error = bars[x, y]
        spread = f" ± {error:.2g}" if error else ""
        if error:
            ends = (left, up.place(y - error), left, up.place(y + error))
            parts.append(Markup('<line x1="{}" y1="{}" x2="{}" y2="{}"/>').format(*map(_n, ends)))
        where = "" if is_of_names else f" at {x:.4g}"
        tip = f"{curve.label}{': ' if curve.label else ''}{y:.4g}{spread}{where}"
        parts.append(
            Markup('<circle cx="{}" cy="{}" r="3.4">{}</circle>')
            .format(_n(left), _n(top), _tip(tip))
        )  # fmt: skip
    runs = " ".join(map(str, curve.runs))
    colour = curve.colour % COLOURS
    return Markup('<g class="curve c{}" data-runs="{}">{}</g>').format(
        colour, runs, Markup("").join(parts)
    )


def _frame(
    across: _Axis, up: _Axis, x_label: str, height: float, *, is_crowded: bool
) -> list[Markup]:
    foot, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    parts = [
        _tick(across.place(v), foot, across.place(v), _TOP, text, "slanted" if is_crowded else "x")
        for v, text in across.ticks
    ]
    parts += [_tick(_LEFT, up.place(v), right, up.place(v), text, "y") for v, text in up.ticks]
    return [*parts, _text((_LEFT + right) / 2, height - 8, x_label, "label", "middle")]


def _tick(x1: float, y1: float, x2: float, y2: float, text: str, axis: str) -> Markup:
    line = Markup('<line class="grid" x1="{}" y1="{}" x2="{}" y2="{}"/>').format(
        *map(_n, (x1, y1, x2, y2))
    )
    if axis == "slanted":
        turned = Markup('<g transform="translate({} {}) rotate(-40)">{}</g>')
        return line + turned.format(
            _n(x1 + 3), _n(y1 + 13), _text(0, 0, _short(text, 18), "tick", "end")
        )
    if axis == "x":
        return line + _text(x1, y1 + 17, text, "tick", "middle")
    return line + _text(x1 - 7, y1 + 4, text, "tick", "end")


def _axis(
    values: Iterable[float], ends: tuple[float, float], *, is_log: bool, padding: float
) -> _Axis:
    """An axis that holds all values, with ticks inside."""
    from matplotlib.ticker import LogLocator, MaxNLocator

    values = list(values)
    low, high = min(values), max(values)
    if is_log:
        room = (high / low) ** padding
        low, high = low / room, high * room
        decades = math.log10(high / low)
        locator = LogLocator(subs=(1.0, 2.0, 5.0) if decades < 2 else (1.0,), numticks=7)
    else:
        spread = (high - low) or abs(high) or 1.0
        is_from_zero = low >= 0 and low - padding * spread < 0
        low = 0.0 if is_from_zero or (low == 0) else low - padding * spread
        high += padding * spread
        locator = MaxNLocator(5, steps=[1, 2, 2.5, 5, 10])
    ticks = [float(t) for t in locator.tick_values(low, high) if low <= t <= high]
    return _Axis(low, high, *ends, is_log, [(t, _number(t)) for t in ticks])


def _number(value: float) -> str:
    if value and not 1e-3 <= abs(value) < 1e5:
        mantissa, _, power = f"{value:.1e}".partition("e")
        mantissa = mantissa.removesuffix(".0")
        return f"{'' if mantissa == '1' else mantissa + '·'}10{_raised(int(power))}"
    return f"{round(value, 12):,.6g}"


def _raised(power: int) -> str:
    return str(power).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def _finite(x: Sequence[float], y: Sequence[float]) -> list[tuple[float, float]]:
    return [(a, b) for a, b in zip(x, y, strict=True) if math.isfinite(a) and math.isfinite(b)]


def _svg(title: str, width: float, height: float, parts: Iterable[Markup]) -> Markup:
    return Markup(
        '<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>'
    ).format(width, height, title, Markup("").join(parts))


def _text(x: float, y: float, text: str, kind: str, anchor: str) -> Markup:
    return Markup('<text class="{}" x="{}" y="{}" text-anchor="{}">{}</text>').format(
        kind, _n(x), _n(y), anchor, text
    )


def _tip(text: str) -> Markup:
    return Markup("<title>{}</title>").format(text)


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _n(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
