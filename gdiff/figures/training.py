"""What a training run has come to: the loss along the noise levels, and along the steps."""

from collections.abc import Mapping, Sequence

import numpy as np

from gdiff.figures.axes import empty_figure, positive, quieten
from gdiff.figures.encode import figure_png
from gdiff.figures.points import DATA, SAMPLES

_LINES = (
    ("train", "points trained on", {"color": DATA, "marker": "s", "markersize": 4}),
    ("held_out", "points held out", {"color": SAMPLES, "marker": "o", "markersize": 4}),
)


def training_figure(
    losses: Sequence[Mapping[str, float]],
    history: Sequence[Mapping[str, float]],
    dim: int,
    std: float,
) -> bytes:
    """Both losses as PNG bytes, weighted so that an untrained network has 1 at every level.

    Args:
        losses: rows of loss.csv: `sigma`, and squared errors `train` and `held_out`.
        history: `step`, and weighted losses by the same names.
        dim: coordinates of a point.
        std: of a coordinate.
    """
    figure = empty_figure(9.2, 3.8)
    left, right = figure.subplots(1, 2)
    left.set(xscale="log", yscale="log", xlabel="noise level σ", ylabel="loss, weighted as in EDM")
    right.set(xlabel="step", ylabel="its mean over noise levels")
    sigma = np.array([row["sigma"] for row in losses])
    weight = (1 / sigma**2 + 1 / std**2) / dim
    for name, label, style in _LINES:
        if name in losses[0]:
            values = positive(weight * [row[name] for row in losses])
            left.plot(sigma, values, label=label, **style)
        if history and name in history[0]:
            steps = [entry["step"] for entry in history]
            right.plot(steps, [entry[name] for entry in history], label=label, **style)
    for axes in (left, right):
        quieten(axes)
    left.legend(frameon=False, fontsize=9)
    return figure_png(figure)
