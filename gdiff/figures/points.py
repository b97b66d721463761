"""Points of a line or a plane, over those of the data."""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from gdiff.dataset.base import Dataset
from gdiff.figures.axes import empty_figure
from gdiff.metrics.chunks import evenly, flat_rows
from gdiff.metrics.features import fit_pca

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DATA, SAMPLES = "#7b8794", "#d9480f"
DRAWN = 5_000  # points drawn of a set, evenly spaced


def scatter_figure(
    samples: np.ndarray,
    data: np.ndarray,
    limits: np.ndarray,
    title: str,
    labels: tuple[str, str],
) -> "Figure":
    """Samples [n, 2] over data [m, 2] on axes of equal unit, in a frame.

    At most 5 000 of each are drawn; a note counts the samples outside the frame, which is that of
    `limits_of`.
    """
    width, height = 5.0 * (limits[1] - limits[0]) / np.max(limits[1] - limits[0])
    figure, axes = _axes((width, height), title, samples, limits)
    for label, points, colour in (("data", data, DATA), ("samples", samples, SAMPLES)):
        drawn = points[evenly(len(points), DRAWN)]
        size = float(np.clip(6_000 / len(drawn), 5, 36))
        opacity = float(np.clip(1_000 / len(drawn), 0.35, 0.85))
        axes.scatter(*drawn.T, s=size, alpha=opacity, c=colour, linewidths=0, label=label)
    axes.set(xlim=limits[:, 0], ylim=limits[:, 1], aspect="equal")
    axes.set(xlabel=labels[0], ylabel=labels[1])
    _legend(figure)
    return figure


def histogram_figure(
    samples: np.ndarray,
    data: np.ndarray,
    limits: np.ndarray,
    title: str,
    labels: tuple[str, str],
    edges: np.ndarray | None = None,
    top: float | None = None,
) -> "Figure":
    """Densities of samples [n, 1] and data [m, 1] over common bins; else as `scatter_figure`.

    The bins are those of `edges_of`, and the frame ends at the largest density, unless given.
    """
    edges = edges_of(samples, data, limits) if edges is None else edges
    figure, axes = _axes((5.2, 3.2), title, samples, limits)
    under, over = (density(x, edges) for x in (data, samples))
    axes.stairs(under, edges, fill=True, color=DATA, alpha=0.5, label="data")
    axes.stairs(over, edges, color=SAMPLES, linewidth=1.8, label="samples")
    axes.set(xlim=limits[:, 0], xlabel=labels[0], ylabel=labels[1])
    axes.set_ylim(0, 1.08 * (top or max(under.max(), over.max())))
    _legend(figure)
    return figure


def plane_of(dataset: Dataset) -> tuple[Callable[[np.ndarray], np.ndarray], tuple[str, str]]:
    """Where points [n, *event] are drawn, as a function to [n, 1 or 2], and names of the axes.

    More than two coordinates are reduced to the data's first two principal components, if any.
    """
    if dataset.dim == 1:
        return lambda x: x.reshape(-1, 1), ("coordinate", "density")
    if dataset.dim == 2 or len(dataset) < 3:
        return lambda x: x.reshape(len(x), -1)[:, :2], ("first coordinate", "second coordinate")
    pca = fit_pca(dataset, evenly(len(dataset), DRAWN), 2)
    return pca.of_samples, ("first principal component", "second principal component")


def thin_rows(dataset: Dataset, most: int = DRAWN) -> np.ndarray:
    """Evenly spaced data points, at most `most`: [k, dim] float32."""
    return flat_rows(dataset, evenly(len(dataset), most))


def counts(samples: int, data: int) -> str:
    """Title of a plot."""
    return f"{_count(samples, 'sample')}, {_count(data, 'data point')}"


def _count(number: int, noun: str) -> str:
    """A number with its noun."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def limits_of(samples: np.ndarray, data: np.ndarray) -> np.ndarray:
    """Frame [2, d] (lower, upper), no side less than half of the longest.

    It holds all data, and the samples less than one width of the data away from them.
    """
    lower, upper = data.min(0), data.max(0)
    width = float(np.max(upper - lower)) or 1.0
    near = np.all((samples > lower - width) & (samples < upper + width), axis=1)
    inside = np.concatenate([data, samples[near]])
    lower, upper = inside.min(0), inside.max(0)
    longest = float(np.max(upper - lower)) or 1.0
    middle = (lower + upper) / 2
    half = np.maximum(upper - lower, longest / 2) / 2 + 0.06 * longest
    return np.stack([middle - half, middle + half])


def edges_of(samples: np.ndarray, data: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """Edges of the bins of a histogram; the least and the greatest data are centres of bins."""
    lower, upper = limits[:, 0]
    count = int(np.clip(2 * math.sqrt(min(len(samples), len(data))), 41, 80))
    low, width = data.min(), data.max() - data.min()
    step = width / max(1, round(count * width / (upper - lower))) or (upper - lower) / count
    first, last = math.floor((lower - low) / step), math.ceil((upper - low) / step)
    return low + step * (np.arange(first, last + 2) - 0.5)


def density(points: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Density of points [n, 1] in each bin; points outside count as part of the whole."""
    return np.histogram(points[:, 0], edges)[0] / (len(points) * np.diff(edges))


def _axes(
    size: tuple[float, float], title: str, samples: np.ndarray, limits: np.ndarray
) -> tuple["Figure", "Axes"]:
    """An empty plot of `size` inches, its title, and a note of the samples outside the frame.

    The margins are fixed, so that the plots of an animation stand still.
    """
    left, right, bottom, top = 0.95, 0.3, 0.95, 0.45
    width, height = size[0] + left + right, size[1] + bottom + top
    figure = empty_figure(width, height, layout=None, dpi=110)
    axes = figure.add_axes((left / width, bottom / height, size[0] / width, size[1] / height))
    axes.set_title(title, fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    # NaN is outside.
    outside = int(np.sum(~np.all((samples >= limits[0]) & (samples <= limits[1]), axis=1)))
    if outside:
        note = f"{_count(outside, 'sample')} outside the frame"
        axes.text(0.99, 0.985, note, transform=axes.transAxes, ha="right", va="top", fontsize=9)
    return figure, axes


def _legend(figure: "Figure") -> None:
    """A legend below the axes, where it hides nothing, with marks that can be seen."""
    legend = figure.legend(loc="lower center", ncols=2, frameon=False)
    for handle in legend.legend_handles:
        handle.set_alpha(0.9)
        if hasattr(handle, "set_sizes"):
            handle.set_sizes([36])
