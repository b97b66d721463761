"""What the plots of lines and bars share: an empty figure, quiet axes, colours."""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Ten colours told apart on white, the strong ones first.
COLOURS = (
    *("#d9480f", "#1971c2", "#2f9e44", "#9c36b5", "#e6a700"),
    *("#0c8599", "#e64980", "#7a4a1e", "#343a40", "#8c96a0"),
)
INK, QUIET = "#343a40", "#5c6770"  # of what is no line


def empty_figure(
    width: float, height: float, layout: str | None = "constrained", dpi: int = 150
) -> "Figure":
    """A figure of so many inches, without pyplot; layout None leaves axes where they are put."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=dpi, layout=layout)
    FigureCanvasAgg(figure)
    return figure


def quieten(axes: "Axes", grid: str = "both") -> None:
    """A light grid of `x`, `y` or `both` behind the lines, and no frame above or to the right."""
    axes.grid(axis=grid, which="major", color="#e9ecef", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def explain(figure: "Figure", *lines: str) -> None:
    """Small lines below the axes that say what the symbols of a figure mean."""
    figure.supxlabel("\n".join(lines), x=0.02, ha="left", fontsize=8, color=QUIET)


def positive(values: np.ndarray, decades: float = np.inf) -> np.ndarray:
    """The same values for a logarithmic axis, float64 with NaN where there is no place.

    Zeros, negative and infinite values have none, nor has what lies more than `decades` below
    the largest value.
    """
    values = np.asarray(values, np.float64)
    usable = np.isfinite(values) & (values > 0)
    lowest = values[usable].max(initial=0.0) * 10.0**-decades
    return np.where(usable & (values >= lowest), values, np.nan)
