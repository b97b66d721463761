"""What a short diffusion costs: the divergence of each prior along the process's time."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from gdiff.figures.axes import COLOURS, empty_figure, quieten
from gdiff.figures.encode import figure_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MARKERS = "os^DPXph<>"
_INK, _QUIET = "#343a40", "#5c6770"


def horizon_figure(
    sigma: np.ndarray,
    time: np.ndarray,
    process: str,
    kl: Mapping[str, tuple[np.ndarray, np.ndarray]],
    tolerance: float,
    chosen: Mapping[str, float],
) -> bytes:
    """KL(p_T‖ν) against T for each prior ν, and its shortest T, as PNG bytes.

    The axis of nats is logarithmic and ends at a hundredth of the tolerance (of 0.1 nats if that
    is less). What lies below, zero or a negative estimate too, is drawn on that line as a hollow
    triangle. Bars show one standard error to either side.

    Args:
        sigma: [T], noise levels.
        time: [T], the process's times at them.
        process: its name, for the axis.
        kl: of each prior, nats [T] and standard errors [T]; NaN is left out.
        tolerance: in nats, > 0.
        chosen: of a prior, the shortest time whose divergence is below the tolerance; priors
            that have none are left out.
    """
    figure = empty_figure(7.4, 4.6)
    axes = figure.subplots()
    axes.set(yscale="log", ylabel="KL(p_T‖ν) (nats)")
    is_wide = time.min() > 0 and time.max() > 30 * time.min()
    axes.set(xscale="log" if is_wide else "linear", xlabel=f"time T of the process ({process})")
    floor = min(tolerance, 0.1) / 100
    clipped = False
    for i, (name, (nats, error)) in enumerate(kl.items()):
        style = {"color": COLOURS[i % len(COLOURS)], "marker": _MARKERS[i % len(_MARKERS)]}
        clipped |= _draw_prior(axes, time, nats, error, floor, style, name)
        if name in chosen:
            _mark(axes, chosen[name], tolerance, floor, style["color"])
    axes.axhline(tolerance, color="#343a40", linewidth=1.0, linestyle="--")
    place = axes.get_yaxis_transform()
    axes.text(
        1.015, tolerance, f"{tolerance:g} nats", transform=place, va="center", color="#343a40"
    )
    axes.set_ylim(bottom=floor)
    if clipped:
        axes.text(1.015, 0, f"▽ below {floor:g}", transform=axes.transAxes, color=_QUIET)
    quieten(axes)
    _name_lines(axes, chosen)
    _noise_levels(axes, time, sigma)
    return figure_png(figure)


def _draw_prior(
    axes: "Axes",
    time: np.ndarray,
    nats: np.ndarray,
    error: np.ndarray,
    floor: float,
    style: dict,
    name: str,
) -> bool:
    """One prior's line with its error bars; whether any of it lies below the axis."""
    nats = np.where(np.isfinite(nats), nats, np.nan)
    below = nats < floor
    shown = np.maximum(nats, floor)
    bars = [shown - np.maximum(nats - error, floor), np.maximum(nats + error, floor) - shown]
    axes.errorbar(
        time,
        shown,
        np.nan_to_num(bars),
        label=name,
        markevery=~below,
        markersize=4.5,
        linewidth=1.6,
        elinewidth=1.0,
        capsize=2.5,
        **style,
    )
    if not below.any():
        return False
    hollow = {"marker": "v", "markerfacecolor": "white", "markersize": 7, "clip_on": False}
    axes.plot(time[below], shown[below], linestyle="", zorder=3, **style | hollow)
    return True


def _mark(axes: "Axes", time: float, tolerance: float, floor: float, colour: str) -> None:
    """A star on the line of the tolerance, and a dotted line down to the axis."""
    axes.plot([time, time], [tolerance, floor], color=colour, linewidth=1.2, linestyle=":")
    star = {"marker": "*", "markersize": 15, "markeredgecolor": "white", "zorder": 4}
    axes.plot(time, tolerance, color=colour, **star)


def _name_lines(axes: "Axes", chosen: Mapping[str, float]) -> None:
    """The legend beside the axes, with the shortest time of each prior."""
    handles, names = axes.get_legend_handles_labels()
    labels = [f"{name}, ★ T = {chosen[name]:.3g}" if name in chosen else name for name in names]
    axes.legend(handles, labels, loc="upper left", bbox_to_anchor=(1, 1), frameon=False)


def _noise_levels(axes: "Axes", time: np.ndarray, sigma: np.ndarray) -> None:
    """The noise levels of some of the times, above the axes."""
    above = axes.secondary_xaxis("top")
    place = np.log(time) if axes.get_xscale() == "log" else time
    gap, rows = np.ptp(place) / 7, []
    for row in np.argsort(-place):
        if not rows or place[rows[-1]] - place[row] >= gap:
            rows.append(row)
    above.set_xticks(time[rows], [f"{level:.3g}" for level in sigma[rows]], color=_QUIET)
    above.set_xticks([], minor=True)
    above.set_xlabel("noise level σ", color=_QUIET)
    above.spines["top"].set_visible(False)
    above.tick_params(length=0)
