from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gdiff.dataset import Dataset, DatasetSpec


@dataclass(frozen=True, kw_only=True)
class Table(DatasetSpec):
    """Rows of numbers in a text file."""

    path: Path

    def read(self):
        return Dataset(name=self.path.stem, x=np.loadtxt(self.path, ndmin=2))
