"""The account of a run's error: one mark a term, in nats."""

import math
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from gdiff.figures.axes import INK, QUIET, empty_figure, explain, positive, quieten
from gdiff.figures.encode import encoded
from gdiff.figures.points import SAMPLES

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MARK = "#1971c2"
_COLUMNS = (1.03, 1.30)  # of the numbers, in widths of the axes


def budget_figure(
    terms: Sequence[tuple[str, float | None, float | None, str]],
    dim: int,
    title: str = "",
    kind: str = "png",
) -> bytes:
    """The terms of a divergence as marks, with their numbers beside them, as bytes.

    The axis is logarithmic, for terms of 1e-6 and of 1e3 nats on one page, so there are no bars,
    whose lengths would look like shares of the sum. A term that is zero or negative has no mark;
    its statement stands in place of it. Bars of errors show one standard error.

    Args:
        terms: name, nats (None where the term does not apply), standard error in nats (None
            where there is none) and statement of each, the total last.
        dim: numbers in a data point, for nats per dimension.
        title: what it is about.
        kind: png, pdf or svg.
    """
    width, height, above, below = 9.4, 0.5 * len(terms), 0.75 if title else 0.45, 1.05
    figure = empty_figure(width, above + height + below, layout=None)
    edges = np.array([1.25, below, 5.4, height])
    axes = figure.add_axes(edges / np.tile(figure.get_size_inches(), 2))
    nats = positive([math.nan if term[1] is None else term[1] for term in terms])
    decades = np.log10([np.nanmin(nats, initial=1.0) / 2, 2 * np.nanmax(nats, initial=1e-3)])
    axes.set(xscale="log", xlabel="nats", ylim=(len(terms) - 0.4, -0.6))
    axes.set_xlim(10 ** np.floor(decades[0]), 10 ** np.ceil(decades[1]))
    axes.tick_params(axis="x", which="minor", labelbottom=False)
    lowest = axes.get_xlim()[0]
    for row, (_, value, error, statement) in enumerate(terms):
        is_total = row == len(terms) - 1
        colour = SAMPLES if is_total else _MARK
        if np.isnan(nats[row]):
            # Two lines of it; the whole stands in the table of the same run.
            lines = textwrap.fill(statement or "not above zero", 70, max_lines=2, placeholder=" …")
            _write(axes, 0.01, row, lines, color=QUIET, fontsize=9)
        else:
            error = error or 0.0
            reach = [[nats[row] - max(nats[row] - error, lowest)], [error]]
            look = {"fmt": "D" if is_total else "o", "markersize": 7.5, "zorder": 3}
            axes.errorbar(nats[row], row, xerr=reach, color=colour, capsize=3.5, **look)
        weight = "bold" if is_total else "normal"
        for x, text in zip(_COLUMNS, _numbers(value, error, dim), strict=True):
            _write(axes, x, row, text, color=INK, weight=weight)
    for x, text in zip(_COLUMNS, ("nats", "per dimension"), strict=True):
        _write(axes, x, -0.75, text, color=QUIET, fontsize=9)
    axes.set_yticks(range(len(terms)), [name for name, *_ in terms])
    axes.get_yticklabels()[-1].set_weight("bold")
    axes.tick_params(axis="y", length=0)
    axes.set_title(title, loc="left", fontsize=11, pad=24)
    quieten(axes, "x")
    explain(
        figure,
        "initialization: KL(p_T ‖ prior), p_T the data noised to the first level;  discretization: "
        "of the steps, by the loss of the exact mean D;",
        "score: ½ Σ Δγ E‖D̃ − D‖², γ = 1/σ²;  picard: of parallel steps that ended early;  "
        "total: bounds KL(data at the last level ‖ samples)",
    )
    return encoded(figure, kind)


def _numbers(nats: float | None, error: float | None, dim: int) -> tuple[str, str]:
    """A term in nats, with its error, and per dimension."""
    if nats is None:
        return "–", "–"
    spread = f" ± {_number(error, 2)}" if error else ""
    return _number(nats) + spread, _number(nats / dim)


def _number(value: float, digits: int = 3) -> str:
    """So many digits; thousands are not written with an exponent."""
    return f"{value:,.0f}" if 100 <= abs(value) < 1e7 else f"{value:.{digits}g}"


def _write(axes: "Axes", x: float, row: float, text: str, **style) -> None:
    """Text at a row, `x` in widths of the axes."""
    axes.text(x, row, text, transform=axes.get_yaxis_transform(), va="center_baseline", **style)
