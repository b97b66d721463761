"""Score by a golden subset, to a tolerance that every answer is checked against."""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass

from gdiff.dataset import Dataset
from gdiff.dataset.placed import Placed
from gdiff.denoiser import Denoiser
from gdiff.errors import require, require_one_of
from gdiff.kernels.streamed import AUTO, ROWS
from gdiff.score.base import ScoreSpec
from gdiff.score.exact import Exact
from gdiff.score.golden import index
from gdiff.score.golden.plan import Pilot, planned

log = logging.getLogger(__name__)

# Data sets with fewer points are scanned in full.
_FEW = 512


@dataclass(frozen=True, kw_only=True)
class Golden(ScoreSpec):
    """Posterior mean to a tolerance, from a coarse scan and as many exact rows as a query needs.

    Every answer comes with an estimate of its error: where that is beyond the tolerance, the
    query is scanned in full. The estimate is scaled by what pilot queries show at its level; it
    is no proof, for which there is the posterior's `error_bound`.

    Attributes:
        tolerance: relative error of the posterior mean that is allowed.
        max_rank: largest number of principal coordinates kept per row; fewer where those of all
            rows would take more than 3 GiB.
        pilot_queries: queries per noise level on which a plan is measured.
        seed: of the pilot queries.
        rows: where the rows are kept, as in `Exact`; the coordinates are on the device in any case.
    """

    tolerance: float = 0.01
    max_rank: int = 1024
    pilot_queries: int = 32
    seed: int = 0
    rows: str = AUTO

    def __post_init__(self) -> None:
        require(self.tolerance > 0, f"tolerance={self.tolerance} must be positive")
        require(self.tolerance < math.inf, f"tolerance={self.tolerance} must be finite")
        require(self.seed >= 0, f"seed={self.seed} must be 0 or more")
        require(self.max_rank >= 1, f"max_rank={self.max_rank} must be at least 1")
        require(self.pilot_queries >= 1, f"pilot_queries={self.pilot_queries} must be at least 1")
        require_one_of("rows", self.rows, ROWS)

    @property
    def is_posterior(self) -> bool:
        """Always: to the tolerance."""
        return True

    def fit(self, data: Dataset | Placed, sigmas: Sequence[float] = ()) -> Denoiser:
        """Load or build the index, measure or load the plan, and return the denoiser."""
        data = Placed.of(data, self.rows)
        full, dataset = Exact().fit(data), data.dataset
        ends = index.ranks(len(dataset), dataset.dim, self.max_rank)
        if not ends or len(dataset) < _FEW:
            log.info(
                "golden: %d points of %d numbers leave nothing to save; full scan",
                len(dataset),
                dataset.dim,
            )
            return full
        scan = index.build(dataset, full, ends, self.tolerance)
        return planned(scan, dataset, Pilot(self.tolerance, self.pilot_queries, self.seed), sigmas)
