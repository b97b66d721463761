"""What samples on each kind of grid are worth, by the number of steps."""

from collections.abc import Mapping

import numpy as np

from gdiff.figures.axes import COLOURS, empty_figure, positive, quieten
from gdiff.figures.encode import figure_png

_DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)))
# A line and its error: numbers of steps, values, and standard errors of these or None.
Curve = tuple[np.ndarray, np.ndarray, np.ndarray | None]


def grids_figure(panels: Mapping[str, Mapping[str, Curve]], title: str, heavy: str) -> bytes:
    """A panel a metric, side by side, and in it a line a grid with its standard errors: PNG bytes.

    All axes are logarithmic; what is not above zero is not drawn.

    Args:
        panels: by the name of the metric, curves by the name of the grid.
        title: above all.
        heavy: the grid that is drawn heavier.
    """
    figure = empty_figure(1.5 + 3.6 * len(panels), 4.0)
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    names = list(dict.fromkeys(name for curves in panels.values() for name in curves))
    for place, (metric, curves) in zip(axes, panels.items(), strict=True):
        place.set(xscale="log", yscale="log", xlabel="steps K", ylabel=metric)
        for name, (steps, values, errors) in curves.items():
            number = names.index(name)
            line = {
                "color": COLOURS[number % len(COLOURS)],
                "linestyle": _DASHES[number % len(_DASHES)],
                "linewidth": 2.8 if name == heavy else 1.4,
                "marker": "o",
                "markersize": 4 if name == heavy else 2.5,
                "zorder": 3 if name == heavy else 2,
                "label": name,
            }
            place.errorbar(steps, positive(values), errors, capsize=2, elinewidth=0.8, **line)
            place.set_xticks(steps, [f"{step:g}" for step in steps])
        place.minorticks_off()
        quieten(place)
    lines, labels = axes[0].get_legend_handles_labels()
    figure.legend(lines, labels, loc="outside right center", frameon=False, handlelength=3)
    figure.suptitle(title)
    return figure_png(figure)
