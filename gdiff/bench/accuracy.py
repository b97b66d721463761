"""How far means are from the exact ones."""

import numpy as np


def relative_errors(mean: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """Largest relative error among the queries of every level.

    Args:
        mean: [levels, b, *event]; exact: likewise.

    Returns:
        [levels] float64.
    """
    mean, exact = (x.reshape(*x.shape[:2], -1).astype(np.float64) for x in (mean, exact))
    length = np.linalg.norm(exact, axis=-1)
    # Where the posterior is centred on 0, errors are relative to the spread of the means.
    length = np.where(length > 0, length, length.max() or 1.0)
    return (np.linalg.norm(mean - exact, axis=-1) / length).max(axis=1)
