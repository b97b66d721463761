"""PCA-local: every pixel from a posterior of its own, over pixels that the data relate to it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from gdiff import memory
from gdiff.dataset import Dataset
from gdiff.dataset.placed import Placed
from gdiff.denoiser import Denoiser
from gdiff.errors import require, require_one_of
from gdiff.kernels.streamed import AUTO, ROWS
from gdiff.score.base import ScoreSpec
from gdiff.score.local.levels import ByLevel
from gdiff.score.local.masks import MasksByWidth
from gdiff.score.local.scan import LocalScan
from gdiff.score.local.subset import LocalSubset

SUBSETS = ("full", "golden")
# Images from which a golden subset takes a quarter of the time, or less; of 500 digits it takes two
# thirds.
_MANY_IMAGES = 1000


@dataclass(frozen=True, kw_only=True)
class PcaLocal(ScoreSpec):
    """Locality from the data's covariance (Lukoianov et al., arXiv 2509.09672).

    Output coordinate m is a posterior mean of its own, D_m = Σ w_i^m y_im. The weights w^m are the
    softmax over i of -Σ_n M_nm (z_n - y_in)² / 2σ², where M says which inputs n count: those to
    which the Wiener filter of the data gives weight. Masks are whole at high noise and a few pixels
    wide at low noise. They are built for the noise levels of a run, and at others the nearest level
    in log σ lends its mask; runs with more than 32 levels share 32 in geometric progression.

    Attributes:
        threshold: of the masks, relative to the largest |M|; None takes the paper's .02 for
            one-channel images, and .03 for all else.
        subset: "full" scans all rows, at the cost of a good part of 2 N d² operations per query.
            "golden" weighs by pixel only the rows that lead in a posterior of the 8 × 8 pixels
            around it, or 4 × 4 where masks are narrow, and all others by that posterior. The
            weights are local and the choice of rows is almost so: at low noise, where a pixel
            follows the best of all rows for it, some of those are missed, and the error falls
            slowly with the number of rows.
        tolerance: error of the mean that "golden" allows, relative to weighing all rows by pixel.
            How many rows that takes is measured on noised data, once for each level.
        min_rows: fewest rows that "golden" weighs by pixel, for each such block of pixels.
        max_rows: most such rows, whatever the tolerance.
        rows: where all rows are kept, as in `Exact`.
    """

    threshold: float | None = None
    subset: str = "full"
    tolerance: float = 0.1
    min_rows: int = 64
    max_rows: int = 4096
    rows: str = AUTO

    def __post_init__(self) -> None:
        require(
            self.threshold is None or 0 <= self.threshold <= 1,
            f"threshold={self.threshold} must be between 0 and 1, or null for the paper's",
        )
        require_one_of("subset", self.subset, SUBSETS)
        require_one_of("rows", self.rows, ROWS)
        require(
            0 < self.tolerance < math.inf,
            f"tolerance={self.tolerance} must be positive, and finite",
        )
        require(
            1 <= self.min_rows <= self.max_rows,
            f"min_rows={self.min_rows} and max_rows={self.max_rows} must satisfy "
            "1 <= min_rows <= max_rows",
        )

    @property
    def of_all_rows(self) -> "PcaLocal | None":
        """The same masks on all rows."""
        return None if self.subset == "full" else replace(self, subset="full")

    def products(self, dim: int) -> int:
        """Masks hold half of all inputs or less at most levels."""
        return dim * max(1, dim // 4)

    def advice(self, dataset: Dataset) -> str | None:
        """That a golden subset is quicker, where there are many images."""
        count = len(dataset)
        if self.subset != "full" or not dataset.is_image or count < _MANY_IMAGES:
            return None
        return (
            f"score=pca_local weighs all {count:,} images for every pixel: "
            "score=pca_local_golden is many times faster, with a relative error of .1"
        )

    def fit(self, data: Dataset | Placed, sigmas: Sequence[float] = ()) -> Denoiser:
        """Load or build the masks, place the data, and for "golden" index them.

        Raises:
            UserError: the masks take more memory than there is.
        """
        data = Placed.of(data, self.rows)
        dataset = data.dataset
        need, there = MasksByWidth.room(len(dataset), dataset.dim, sigmas), memory.of_host()
        require(
            need <= there,
            f"score=pca_local needs {memory.in_words(need)} of memory for the masks of points of "
            f"{dataset.dim} numbers, and there are {memory.in_words(there)}: use smaller images "
            "(dataset.resolution=64), fewer points or levels, or score=patch_ls",
        )
        threshold = self.threshold
        if threshold is None:
            threshold = 0.02 if dataset.is_image and dataset.event_shape[2] == 1 else 0.03
        masks = MasksByWidth.of(dataset, sigmas, threshold)
        parts = tuple(LocalScan.of(data, group) for group in masks.groups)
        if self.subset == "golden":
            sizes = (self.min_rows, self.max_rows, self.tolerance)
            parts = tuple(LocalSubset.of(dataset, part, *sizes) for part in parts)
        return parts[0] if len(parts) == 1 else ByLevel(parts)
