from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gdiff.metrics import Metric


@dataclass(frozen=True, kw_only=True)
class Quantile(Metric):
    """A quantile of the samples' norms, over that of the data."""

    level: float = 0.5

    names: ClassVar[tuple[str, ...]] = ("norm_quantile",)

    def compute(self, samples, dataset):
        ours, theirs = (
            np.quantile(np.linalg.norm(x.reshape(len(x), -1), axis=1), self.level)
            for x in (samples, dataset.rows(slice(None)))
        )
        return {"norm_quantile": ours / theirs}
