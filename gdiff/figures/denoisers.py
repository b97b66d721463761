"""Denoisers along the noise levels: how far from the exact one, and what they remember."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from gdiff.figures.axes import COLOURS, INK, empty_figure, explain, positive, quieten
from gdiff.figures.encode import figure_png

_STYLES = {"train": "-", "held_out": "--"}
_WORDS = {"train": "training points", "held_out": "held-out points"}


class Compared(Protocol):
    """A score against another one: `sigma`, `points`, `score`, `reference`, `distance`, `loss`."""

    sigma: float
    points: str
    score: str
    reference: str
    distance: float
    loss: float


def denoisers_figure(rows: Sequence[Compared], exact: str, name: str) -> bytes:
    """Distances from the exact score, and losses, against σ, as PNG bytes.

    Args:
        rows: of all scores, levels and kinds of points.
        exact: name of the reference that is the exact score.
        name: of the data.
    """
    figure = empty_figure(10.0, 4.5)
    axes = figure.subplots(1, 2)
    scores = list(dict.fromkeys(row.score for row in rows))
    kinds = list(dict.fromkeys(row.points for row in rows))
    for panel, what in zip(axes, ("distance", "loss"), strict=True):
        for k, score in enumerate(scores):
            for kind in kinds:
                own = [r for r in rows if (r.score, r.points, r.reference) == (score, kind, exact)]
                look = {"color": COLOURS[k % len(COLOURS)], "linestyle": _STYLES[kind]}
                values = positive(np.array([getattr(row, what) for row in own]), decades=8)
                sigma = [row.sigma for row in own]
                label = score if kind == kinds[0] else None
                panel.plot(sigma, values, label=label, marker=".", linewidth=1.4, **look)
        panel.set(xscale="log", yscale="log", xlabel="noise level σ")
        quieten(panel)
    axes[0].set_ylabel("relative distance from the exact score")
    axes[1].set_ylabel("‖D − x₀‖² per coordinate")
    for kind in kinds[1:] and kinds:
        axes[1].plot([], [], color=INK, linestyle=_STYLES[kind], label=_WORDS[kind])
    axes[1].legend(frameon=False, fontsize=8)
    figure.suptitle(f"denoisers on {name}", fontsize=10)
    explain(
        figure,
        "x₀: clean points;  D: what a score makes of x₀ + σε, with the same noise ε for all",
    )
    return figure_png(figure)
