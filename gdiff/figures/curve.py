"""The error of a score along the noise levels, and how the posterior concentrates."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from gdiff.figures.axes import INK, empty_figure, explain, positive, quieten
from gdiff.figures.encode import encoded
from gdiff.figures.points import DATA, SAMPLES

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_BOUND = {"color": "#1971c2", "marker": "."}
_HOLLOW = {"markerfacecolor": "white", "markeredgewidth": 1.4}
# Column of the curve, label, and style of its line.
_ERRORS = (
    ("error_bound_median", "median bound", {**_BOUND, "linestyle": "--"}),
    ("likely_bound_median", "median probable bound", {**_BOUND, "linestyle": ":"}),
    ("relative_error_max", "largest error", {"color": SAMPLES, "marker": "^", **_HOLLOW}),
    ("relative_error_median", "median error", {"color": SAMPLES, "marker": "o"}),
)
_ROWS = (
    ("subset_size", "weighed in full by the score", {"color": SAMPLES, "marker": "s", **_HOLLOW}),
    ("rows_99", "hold 99 % of the posterior", {"color": INK, "marker": "o", **_HOLLOW}),
    ("effective_sample_size", "effective sample size, 1/Σw²", {"color": DATA, "marker": "."}),
)


def score_error(
    curve: Sequence[Mapping[str, float]], points: int, title: str = "", kind: str = "png"
) -> bytes:
    """Relative error of the posterior mean, and size of the posterior, against σ, as bytes.

    All axes are logarithmic: errors of zero are not drawn, and nothing infinite. Where the score
    weighs no rows at all, the axis of rows goes down to zero.

    The curve has one row a noise level, and names as in `gdiff.metrics.score_error.CURVE`; of data
    points there are `points`; `title` says what it is about, `kind` is png, pdf or svg.
    """
    figure = empty_figure(6.4, 7.2)
    above, below = figure.subplots(2, sharex=True)
    above.set_yscale("log")
    _draw(above, curve, _ERRORS)
    above.set_ylabel("relative error of the posterior mean")

    weighs_none = any(row.get("subset_size") == 0 for row in curve)
    if weighs_none:
        below.set_yscale("symlog", linthresh=1, linscale=0.4)
    else:
        below.set_yscale("log")
    _draw(below, curve, _ROWS)
    below.set_ylim(-0.1 if weighs_none else 0.7, 2 * points)
    below.axhline(points, color=DATA, linewidth=0.8, linestyle=":")
    place = below.get_yaxis_transform()
    below.text(0.01, points, f"all {points:,}", transform=place, va="bottom", color=DATA)
    below.yaxis.set_major_formatter("{x:,.0f}")
    below.yaxis.set_minor_formatter("")
    below.set(ylabel="data points, median over queries", xlabel="noise level σ")
    figure.suptitle(title, fontsize=11)
    explain(
        figure,
        "error: ‖D̃ − D‖ / ‖D‖, D the mean of the exact posterior and D̃ the score's, at states of",
        "samples on their way;  w: weights of the data points in the exact posterior",
    )
    figure.align_ylabels()
    return encoded(figure, kind)


def _draw(
    axes: "Axes", curve: Sequence[Mapping[str, float]], lines: Sequence[tuple[str, str, dict]]
) -> None:
    """The lines that the curve has, with their legend."""
    axes.set_xscale("log")
    sigma, is_empty = [row["sigma"] for row in curve], True
    for name, label, style in lines:
        if name in curve[0]:
            values = np.array([row[name] for row in curve])
            if axes.get_yscale() == "log":
                values = positive(values)
            label += _exceeded(curve, name)
            axes.plot(sigma, values, label=label, markersize=4.5, linewidth=1.6, **style)
            is_empty &= not np.isfinite(values).any()
    if is_empty:
        axes.set_ylim(1e-8, 1)
        axes.text(0.5, 0.5, "nothing above zero", transform=axes.transAxes, ha="center")
    quieten(axes)
    # Above the axes, where it hides nothing.
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False, fontsize=9)


def _exceeded(curve: Sequence[Mapping[str, float]], name: str) -> str:
    """How many queries exceed a bound: its median says nothing of one query."""
    violations = name.replace("_median", "_violations")
    if "bound" not in name or violations not in curve[0]:
        return ""
    count = int(sum(row[violations] for row in curve))
    return f" ({count} {'query' if count == 1 else 'queries'} above)"
