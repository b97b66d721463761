"""The scaling study: rounds against the dimension, errors against evaluations."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gdiff.figures.axes import empty_figure, quieten
from gdiff.figures.encode import encoded

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

# A row of a table: names, and numbers by their columns.
Row = Mapping[str, Any]

_COLOURS = {"SDE, path": "#c2255c", "SDE, law": "#e8590c", "ODE": "#1971c2"}
_UNITS = {
    "SDE, path": "KL of paths ≤ {:g} nats",
    "SDE, law": "KL of the end ≤ {:g} nats",
    "ODE": "‖x - x*‖² ≤ {:g}",
}
# Methods with noise are warm and solid, those without cold and dashed; two evaluations a step have
# hollow marks.
_STYLES = {
    "ancestral": ("#f08c00", "o-"),
    "ddpm": ("#e03131", "s-"),
    "exponential_sde": ("#c2255c", "^-"),
    "accelerated_sde": ("#862e9c", "D-"),
    "srk": ("#845b2b", "v-"),
    "li_cai": ("#e03131", "P-"),
    "midpoint": ("#862e9c", "X-"),
    "ddim": ("#1971c2", "o--"),
    "exponential_ode": ("#0c8599", "^--"),
    "accelerated_ode": ("#2f9e44", "D--"),
    "dpmpp_2m": ("#364fc7", "s--"),
    "heun": ("#0c8599", "P--"),
}


def _new_figure(width: float, height: float, count: int = 1) -> "tuple[Figure, Sequence[Axes]]":
    """A figure and its axes, both logarithmic."""
    figure = empty_figure(width, height)
    axes = figure.subplots(1, count, squeeze=False)[0]
    for each in axes:
        each.set(xscale="log", yscale="log")
        quieten(each)
    return figure, axes


def _ticks(axis: "Axis", values: Sequence[float]) -> None:
    """These and no others."""
    axis.set_ticks(values, [f"{value:g}" for value in values])
    axis.set_ticks([], minor=True)


def rounds_figure(rows: Sequence[Row], kind: str = "png") -> bytes:
    """Rounds against the dimension, one by one and in parallel, as bytes.

    Args:
        rows: `measure` ("SDE, path", "SDE, law" or "ODE"), `dim`, `steps`, `rounds` and `budget`.
        kind: png, pdf or svg.
    """
    figure, (axes,) = _new_figure(8.6, 5.2)
    for measure, colour in _COLOURS.items():
        chosen = [row for row in rows if row["measure"] == measure]
        if not chosen:
            continue
        dim = [row["dim"] for row in chosen]
        power, log_power = exponents(chosen) if len(chosen) > 1 else (np.nan, np.nan)
        budget = _UNITS[measure].format(chosen[0]["budget"])
        lines = (
            ("steps", f"{measure[:3]} one by one: $d^{{{power:.2f}}}$\n{budget}", "-"),
            ("rounds", f"{measure[:3]} in parallel: $(\\log\\, d)^{{{log_power:.2f}}}$", "--"),
        )
        for key, label, dashes in lines:
            style = {"markerfacecolor": "white" if key == "rounds" else colour, "marker": "o"}
            values = [row[key] for row in chosen]
            axes.plot(dim, values, dashes, color=colour, label=label, markersize=5.5, **style)
    axes.set(xlabel="dimension d", ylabel="rounds: evaluations one after the other")
    _ticks(axes.xaxis, sorted({row["dim"] for row in rows}))
    axes.yaxis.set_major_formatter("{x:,.0f}")
    figure.legend(
        loc="outside right center", frameon=False, fontsize=9, labelspacing=0.7, handlelength=3
    )
    return encoded(figure, kind)


def errors_figure(rows: Sequence[Row], images: Sequence[Row] = (), kind: str = "png") -> bytes:
    """Errors against evaluations as bytes; the second panel only if there are images.

    Args:
        rows: `method`, `steps`, `evaluations` and `total_variation`.
        images: `method`, `steps`, `evaluations`, `sliced_w2` and `sliced_w2_null`.
        kind: png, pdf or svg.
    """
    panels = [(rows, "total_variation", "total variation, two Gaussians on the line")]
    if images:
        panels.append((images, "sliced_w2", "sliced W2 to the training data, MNIST"))
    figure, all_axes = _new_figure(6.8 if not images else 11.5, 5.2, len(panels))
    for axes, (table, key, label) in zip(all_axes, panels, strict=True):
        for method, (colour, style) in _STYLES.items():
            chosen = [row for row in table if row["method"] == method]
            if chosen:
                axes.plot(
                    [row["evaluations"] for row in chosen],
                    [row[key] for row in chosen],
                    style,
                    color=colour,
                    markerfacecolor="white" if _has_two_stages(chosen[0]) else colour,
                    label=method if axes is all_axes[0] else None,
                    markersize=6,
                    linewidth=1.4,
                )
        axes.set(xlabel="evaluations of the denoiser", ylabel=label)
        counts = {row["evaluations"] for row in table if not _has_two_stages(row)}
        _ticks(axes.xaxis, sorted(counts))
    if images:
        null = np.mean([row["sliced_w2_null"] for row in images])
        all_axes[1].yaxis.set_major_formatter("{x:g}")
        all_axes[1].yaxis.set_minor_formatter("{x:g}")
        all_axes[1].axhline(null, color="#343a40", linewidth=1, linestyle=":")
        place = all_axes[1].get_yaxis_transform()
        text = {"transform": place, "va": "bottom", "fontsize": 9}
        all_axes[1].text(0.01, null, "as many data points", **text)
    title = "solid: with noise\nhollow: two evaluations a step"
    figure.legend(
        loc="outside right center", frameon=False, fontsize=9, title=title, title_fontsize=9
    )
    return encoded(figure, kind)


def exponents(rows: Sequence[Row]) -> tuple[float, float]:
    """p of steps ~ d^p, and of rounds ~ (log d)^p, by least squares of the logarithms."""
    dim, steps, rounds = (
        np.array([row[key] for row in rows]) for key in ("dim", "steps", "rounds")
    )
    logs = np.log(dim)
    return np.polyfit(logs, np.log(steps), 1)[0], np.polyfit(np.log(logs), np.log(rounds), 1)[0]


def _has_two_stages(row: Row) -> bool:
    return row["evaluations"] > row["steps"]
