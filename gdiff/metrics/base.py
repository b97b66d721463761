"""What every metric is."""

import abc
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gdiff.dataset.base import Dataset


@dataclass(frozen=True)
class Metric(abc.ABC):
    """Numbers that compare samples with the data; a subclass is a frozen dataclass of its options.

    Attributes:
        names: of the numbers that it may give, in their order.
        fewest_samples, fewest_points: with less samples or data it is left out; may be properties.
    """

    names: ClassVar[tuple[str, ...]]
    fewest_samples: ClassVar[int] = 1
    fewest_points: ClassVar[int] = 1

    @abc.abstractmethod
    def compute(self, samples: np.ndarray, dataset: Dataset) -> dict[str, float]:
        """The numbers by name; those that are not finite are left out.

        Args:
            samples: [n, *event] float32, finite, model coordinates.
            dataset: what they are compared with.
        """
