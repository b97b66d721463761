"""The rows that a network is trained on, in an order that follows from a seed, and others."""

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from gdiff.dataset import Dataset, DatasetSpec
from gdiff.dataset.base import NothingHeldOutError
from gdiff.errors import require
from gdiff.metrics.chunks import evenly

_SPLIT_SEED = 0
# Rows that stand for all of them where a network is judged.
_JUDGES = 4096
_AT_ONCE = 1024  # rows in one piece of a sum


@dataclass(frozen=True, eq=False)
class TrainingData:
    """A data set, split.

    Attributes:
        dataset: all of it.
        rows: [n] those that the network is trained on.
        test: others of the same law, or None.
        seed: of the order of the rows.
    """

    dataset: Dataset
    rows: np.ndarray
    test: Dataset | None
    seed: int
    _orders: dict[int, np.ndarray] = field(default_factory=dict)

    @classmethod
    def of(cls, spec: DatasetSpec, share: float, seed: int) -> "TrainingData":
        """Split the data: test points are a share of the rows, if the data set has no others.

        Raises:
            UserError: the data cannot be had, or the share leaves no row.
        """
        dataset = spec.load()
        rows, test = np.arange(len(dataset)), None
        try:
            test = spec.load_held_out()
        except NothingHeldOutError:
            aside = round(share * len(dataset))
            require(
                aside < len(dataset),
                f"train.held_out={share} leaves none of the {len(dataset)} points to train on",
            )
            order = np.random.default_rng(_SPLIT_SEED).permutation(len(dataset))
            if aside:
                rows, test = np.sort(order[aside:]), dataset.part(np.sort(order[:aside]))
        return cls(dataset, rows, test, seed)

    def batch(self, number: int, size: int) -> np.ndarray:
        """The points of a step: [size, *event] float32.

        Every row comes once before any comes again, in an order that is another one each time.
        """
        turns, places = np.divmod(number * size + np.arange(size), len(self.rows))
        index = np.empty(size, int)
        for turn in np.unique(turns).tolist():
            index[turns == turn] = self._order(turn)[places[turns == turn]]
        return self.dataset.rows(self.rows[index]).astype(np.float32, copy=False)

    def _order(self, turn: int) -> np.ndarray:
        if turn not in self._orders:
            for before in [t for t in self._orders if t < turn - 1]:
                del self._orders[before]
            random = np.random.default_rng([self.seed, turn])
            self._orders[turn] = random.permutation(len(self.rows))
        return self._orders[turn]

    @cached_property
    def judges(self) -> dict[str, Dataset]:
        """Some of the rows that the network is trained on, and of those held out."""
        some = self.rows[evenly(len(self.rows), _JUDGES)]
        found = {"train": self.dataset.part(some)}
        return found if self.test is None else found | {"held_out": self.test}

    @cached_property
    def moments(self) -> tuple[np.ndarray, float]:
        """Mean [*event] of the rows, and the standard deviation of their coordinates from it.

        Raises:
            UserError: all rows are the same.
        """
        shape, n = self.dataset.event_shape, len(self.rows)
        pieces = np.array_split(self.rows, -(-n // _AT_ONCE))
        mean = sum(self.dataset.rows(p).sum(axis=0, dtype=float) for p in pieces) / n
        squares = sum(float(((self.dataset.rows(p) - mean) ** 2).sum()) for p in pieces)
        std = (squares / n / np.prod(shape)) ** 0.5
        require(std > 0, f"all points of {self.dataset.name} are the same: there is nothing to fit")
        return mean, std
