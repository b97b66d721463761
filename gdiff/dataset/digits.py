"""The small handwritten digits that come with scikit-learn."""

from dataclasses import dataclass

import numpy as np

from gdiff.dataset.base import Dataset, DatasetSpec
from gdiff.store import cache


@dataclass(frozen=True, kw_only=True)
class Digits(DatasetSpec):
    """1 797 grey images of 8 x 8 pixels in 10 classes, with 17 grey levels; no download."""

    def read(self) -> Dataset:
        """[1797, 8, 8, 1] uint8 from 0 to 16."""
        # Cached because importing scikit-learn takes seconds, and the data does not.
        table = np.array(cache.cached(cache.key("images", "digits"), _table))
        return Dataset(
            name="digits",
            x=table[:, :64].reshape(-1, 8, 8, 1),
            labels=table[:, 64].astype(np.int32),
            class_names=tuple("0123456789"),
            shift=8.0,
            scale=8.0,
        )


def _table() -> np.ndarray:
    """[1797, 65] uint8: pixels row by row, then the label."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return np.column_stack([images, labels]).astype(np.uint8)
