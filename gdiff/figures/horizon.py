"""What a short diffusion costs: the divergence of each prior along the process's time."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from gdiff.figures.axes import COLOURS, INK, QUIET, empty_figure, explain, quieten
from gdiff.figures.encode import encoded

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MARKERS = "os^DPXph<>"
_DASHES = ("-", (0, (4, 2)), (0, (1.5, 1.5)), (0, (6, 1.5, 1.5, 1.5)))
_LINE = {"elinewidth": 1.0, "capsize": 2.5}
_STAR = {"marker": "*", "markeredgecolor": "none", "zorder": 4}
_HOLLOW = {"marker": "v", "markerfacecolor": "white", "markersize": 7, "clip_on": False}
_HOLLOW |= {"linestyle": "", "zorder": 3, "label": None}


def horizon_figure(
    sigma: np.ndarray,
    time: np.ndarray,
    process: str,
    kl: Mapping[str, tuple[np.ndarray, np.ndarray]],
    tolerance: float,
    chosen: Mapping[str, float],
    title: str = "",
    kind: str = "png",
) -> bytes:
    """KL(p_T‖ν) against T for each prior ν, and its shortest T, as bytes.

    The axis of nats is logarithmic and ends at a hundredth of the tolerance (of 0.1 nats if that
    is less). What lies below, zero or a negative estimate too, is drawn on that line as a hollow
    triangle. Bars show one standard error to either side. Lines are the thinner the later they
    come, so that those that lie on one another are all seen.

    Args:
        sigma, time: [T] noise levels, and the process's times at them.
        process: its name, for the axis.
        kl: of each prior, nats [T] and standard errors [T]; NaN is left out.
        tolerance: in nats, > 0.
        chosen: of a prior, the shortest time whose divergence is below the tolerance; priors
            that have none are left out.
        title: what it is about.
        kind: png, pdf or svg.
    """
    figure = empty_figure(7.4, 4.8)
    axes = figure.subplots()
    axes.set(yscale="log", ylabel="KL(p_T‖ν) (nats)")
    is_wide = time.min() > 0 and time.max() > 30 * time.min()
    axes.set(xscale="log" if is_wide else "linear", xlabel=f"time T of the process ({process})")
    floor = min(tolerance, 0.1) / 100
    clipped = False
    for i, (name, (nats, error)) in enumerate(kl.items()):
        style = {"color": COLOURS[i % len(COLOURS)], "marker": _MARKERS[i % len(_MARKERS)]}
        thin = 0.75**i
        style |= {"linestyle": _DASHES[i % len(_DASHES)], "linewidth": 1 + 3 * thin}
        style |= {"markersize": 3 + 5 * thin}
        label = f"{name}, ★ T = {chosen[name]:.3g}" if name in chosen else name
        clipped |= _draw_prior(axes, time, nats, error, floor, style | {"label": label})
        if name in chosen:
            # A star on the line of the tolerance, and a dotted line down to the axis.
            down = {"color": style["color"], "linewidth": 1.2, "linestyle": ":"}
            axes.plot([chosen[name]] * 2, [tolerance, floor], **down)
            size = {"markersize": 6 + 18 * thin}
            axes.plot(chosen[name], tolerance, color=style["color"], **size, **_STAR)
    axes.axhline(tolerance, color=INK, linewidth=1.0, linestyle="--")
    beside = {"transform": axes.get_yaxis_transform(), "va": "center", "color": INK}
    axes.text(1.015, tolerance, f"{tolerance:g} nats", **beside)
    axes.set_ylim(bottom=floor)
    if clipped:
        axes.text(1.015, 0, f"▽ below {floor:g}", transform=axes.transAxes, color=QUIET)
    quieten(axes)
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    _noise_levels(axes, time, sigma)
    figure.suptitle(title, fontsize=11)
    explain(figure, "p_T: data noised to time T;  ν: the prior that sampling starts from at T")
    return encoded(figure, kind)


def _draw_prior(
    axes: "Axes", time: np.ndarray, nats: np.ndarray, error: np.ndarray, floor: float, style: dict
) -> bool:
    """One prior's line with its error bars; whether any of it lies below the axis."""
    nats = np.where(np.isfinite(nats), nats, np.nan)
    below = nats < floor
    shown = np.maximum(nats, floor)
    bars = [shown - np.maximum(nats - error, floor), np.maximum(nats + error, floor) - shown]
    axes.errorbar(time, shown, np.nan_to_num(bars), markevery=~below, **_LINE, **style)
    if not below.any():
        return False
    axes.plot(time[below], shown[below], **style | _HOLLOW)
    return True


def _noise_levels(axes: "Axes", time: np.ndarray, sigma: np.ndarray) -> None:
    """The noise levels of some of the times, above the axes."""
    above = axes.secondary_xaxis("top")
    place = np.log(time) if axes.get_xscale() == "log" else time
    gap, rows = np.ptp(place) / 7, []
    for row in np.argsort(-place):
        if not rows or place[rows[-1]] - place[row] >= gap:
            rows.append(row)
    above.set_xticks(time[rows], [f"{level:.3g}" for level in sigma[rows]], color=QUIET)
    above.set_xticks([], minor=True)
    above.set_xlabel("noise level σ", color=QUIET)
    above.spines["top"].set_visible(False)
    above.tick_params(length=0)
