"""Whether samples lie where data are, and data where samples are: by k-nearest-neighbour balls.

Both sets are of one size, as in the papers: the balls about the points of a set shrink as it grows.
"""

from typing import NamedTuple

import numpy as np

from gdiff.metrics.chunks import spans

_BLOCK = 1024


class Support(NamedTuple):
    """Shares of two sets of n points; see `support`."""

    precision: float
    recall: float
    density: float
    coverage: float


def support(samples: np.ndarray, data: np.ndarray, k: int) -> Support:
    """Precision and recall, density and coverage.

    The ball of a point reaches to the k-th nearest other point of its own set, and contains what
    is at most so far from it. Precision is the share of samples in the ball of any data point,
    recall of data points in the ball of any sample (Kynkäänniemi et al. 2019, arXiv 1904.06991,
    eq. 1 and 2). Density is the mean number of data balls that hold a sample, over k; coverage the
    share of data balls that hold any sample (Naeem et al. 2020, arXiv 2002.09797, eq. 3 and 4).
    Two draws of the same law have a density of 1 and a coverage of 1 - 2^-k, about, in expectation;
    their precision and recall are equal, and less than 1.

    Distances are in float64, a block of rows at a time.

    Args:
        samples: [n, r] features, n > k.
        data: [n, r] features of as many data points.
        k: neighbours.
    """
    # Relative to the middle of the data products keep their digits; none of all depends on it.
    samples, data = (np.asarray(x, np.float64) - data.mean(0) for x in (samples, data))
    of_samples, of_data = _radii(samples, k), _radii(data, k)
    held, in_sample, in_data = np.zeros(len(data), bool), [], []
    for span in spans(len(samples), _BLOCK):
        squares = _squares(samples[span], data)
        near = squares <= of_data
        in_data.append(near.sum(1))
        held |= near.any(0)
        in_sample.append((squares <= of_samples[span, None]).any(0))
    balls = np.concatenate(in_data)
    return Support(
        precision=float(np.mean(balls > 0)),
        recall=float(np.mean(np.any(in_sample, axis=0))),
        density=float(np.mean(balls) / k),
        coverage=float(np.mean(held)),
    )


def _radii(points: np.ndarray, k: int) -> np.ndarray:
    """Squared distance of every point from the k-th nearest other: [n]."""
    found = []
    for span in spans(len(points), _BLOCK):
        squares = _squares(points[span], points)
        rows = np.arange(len(squares))
        squares[rows, rows + span.start] = np.inf
        found.append(np.partition(squares, k - 1, axis=1)[:, k - 1])
    return np.concatenate(found)


def _squares(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Squared distances [n, m], of which those within rounding of 0 are 0."""
    norms = np.einsum("ij,ij->i", a, a)[:, None] + np.einsum("ij,ij->i", b, b)
    squares = norms - 2 * a @ b.T
    squares[squares < 64 * np.finfo(float).eps * norms] = 0
    return squares
