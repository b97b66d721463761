"""Where schedules put their steps, and what the steps cost in nats."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from gdiff.figures.axes import COLOURS, INK, empty_figure, explain, positive, quieten
from gdiff.figures.encode import encoded

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_DECADES = 8  # drawn below the largest loss; scores that memorise have losses of 1e-300
_LEAST_NATS = 1e-4  # that a grid may cost and be drawn: less is nothing
_TICKS = {"linewidth": 0.4, "markersize": 8, "markeredgewidth": 1.0}
_HEAVY_TICKS = {"linewidth": 1.2, "markersize": 11, "markeredgewidth": 2.0}
_COLUMNS = 4  # of the legend
_DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)))


def schedule_figure(
    sigma: np.ndarray,
    loss: np.ndarray,
    standard_error: np.ndarray | None,
    grids: Mapping[str, np.ndarray],
    curves: Mapping[str, tuple[np.ndarray, np.ndarray]],
    bound: tuple[np.ndarray, np.ndarray] | None,
    chosen: str,
    title: str = "",
    kind: str = "png",
) -> bytes:
    """The loss against σ, the steps of each grid, and KL_disc against K, as bytes.

    All axes are logarithmic: a last level of 0, losses of zero (or 1e-8 of the largest), and
    divergences of zero are not drawn. A band shows one standard error to either side.

    Args:
        sigma, loss, standard_error: [L] noise levels, E‖x_0 − D‖² at them, and the error of that,
            None if unknown.
        grids: noise levels [K + 1] of each grid.
        curves: of each grid, numbers of steps [n] and KL_disc [n] in nats.
        bound: numbers of steps [n] and H²/K [n], H the entropy of the data; None leaves it out.
        chosen: name of the run's grid, which is drawn heavier.
        title: what it is about.
        kind: png, pdf or svg.
    """
    figure = empty_figure(7.2, 7.5 + 0.19 * len(grids))
    above, middle, below = figure.subplots(3, height_ratios=(2.2, 0.35 + 0.19 * len(grids), 3.2))
    names = dict.fromkeys([*grids, *curves])
    styles = {
        name: {"color": COLOURS[i % len(COLOURS)], "linestyle": _DASHES[i % len(_DASHES)]}
        for i, name in enumerate(names)
    }
    _draw_loss(above, sigma, loss, standard_error)
    _draw_grids(middle, grids, styles, chosen)
    middle.sharex(above)
    above.tick_params(labelbottom=False)
    _draw_divergences(below, curves, styles, bound, chosen)
    figure.suptitle(title, fontsize=11)
    explain(
        figure,
        "x₀: data;  D: the score's mean of x₀ given x₀ + σε;  ticks: the noise levels of each grid",
        "KL_disc: cost of K ancestral steps, by the loss;  H: log of the number of points",
    )
    figure.align_ylabels([above, below])
    return encoded(figure, kind)


def _draw_loss(
    axes: "Axes", sigma: np.ndarray, loss: np.ndarray, standard_error: np.ndarray | None
) -> None:
    """The loss curve and its band."""
    axes.set(xscale="log", yscale="log", ylabel="loss  E‖x₀ − D‖²")
    drawn = positive(loss, _DECADES)
    axes.plot(sigma, drawn, color=INK, linewidth=1.8)
    if standard_error is not None:
        # A band that reaches zero ends where the axis does.
        lower = np.maximum(drawn - standard_error, np.nanmin(drawn, initial=np.inf) / 2)
        band = {"color": INK, "alpha": 0.22, "linewidth": 0}
        axes.fill_between(sigma, lower, drawn + standard_error, **band)
    missing = int(np.isnan(drawn).sum())
    if missing:
        note = f"{missing} of {len(drawn)} losses are zero, or nearly"
        axes.text(0.99, 0.05, note, transform=axes.transAxes, ha="right", color="#7b8794")
    quieten(axes)


def _draw_grids(
    axes: "Axes", grids: Mapping[str, np.ndarray], styles: Mapping[str, dict], chosen: str
) -> None:
    """One row of ticks a grid, the first on top."""
    for row, (name, levels) in enumerate(grids.items()):
        levels = levels[levels > 0]
        look = _HEAVY_TICKS if name == chosen else _TICKS
        axes.plot(levels, np.full(len(levels), row), "|-", color=styles[name]["color"], **look)
    axes.set_yticks(range(len(grids)), list(grids))
    for label, name in zip(axes.get_yticklabels(), grids, strict=True):
        label.set(color=styles[name]["color"], weight="bold" if name == chosen else "normal")
    axes.set(xscale="log", ylim=(len(grids) - 0.4, -0.6), xlabel="noise level σ")
    axes.tick_params(axis="y", length=0)
    quieten(axes, "x")


def _draw_divergences(
    axes: "Axes",
    curves: Mapping[str, tuple[np.ndarray, np.ndarray]],
    styles: Mapping[str, dict],
    bound: tuple[np.ndarray, np.ndarray] | None,
    chosen: str,
) -> None:
    """KL_disc of each grid, and the bound."""
    axes.set(xscale="log", yscale="log", xlabel="steps K", ylabel="KL_disc (nats)")
    for place, (name, (steps, nats)) in enumerate(curves.items()):
        # The thinner the later, so that lines that lie on one another are all seen.
        heavy = {"linewidth": 3.6 if name == chosen else 0.8 + 0.9 * 0.7**place}
        heavy |= {"zorder": 3} if name == chosen else {}
        shown = np.where(np.asarray(nats) >= _LEAST_NATS, nats, np.nan)
        axes.plot(steps, positive(shown), label=name, **styles[name], **heavy)
    if bound is not None:
        dashed = {"color": INK, "linestyle": (0, (4, 3)), "linewidth": 1.1}
        axes.plot(*bound, label="order by entropy, H²/K", **dashed)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    quieten(axes)
    # Below the axes, where it hides nothing.
    look = {"ncols": _COLUMNS, "frameon": False, "handlelength": 3, "fontsize": 9}
    legend = axes.legend(loc="upper center", bbox_to_anchor=(0.46, -0.2), **look)
    for text in legend.get_texts():
        text.set_weight("bold" if text.get_text() == chosen else "normal")
