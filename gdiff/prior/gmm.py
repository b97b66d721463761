"""A Gaussian mixture, by expectation maximisation."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gdiff.prior.mixture import SEED, STRIDE, TOLERANCE, MixtureSpec

if TYPE_CHECKING:
    from sklearn.mixture import GaussianMixture


@dataclass(frozen=True, kw_only=True)
class GMM(MixtureSpec):
    """A mixture of `components` Gaussians with full covariances, of largest likelihood."""

    kind = "gmm"
    fewest = 1e-3

    def estimator(self, components: int, shape: tuple[int, int], floor: float) -> "GaussianMixture":
        """Starts from k-means; its bound is the mean over the rows."""
        from sklearn.mixture import GaussianMixture

        return GaussianMixture(
            components,
            tol=TOLERANCE * shape[1],
            reg_covar=floor,
            max_iter=STRIDE,
            warm_start=True,
            random_state=SEED,
        )
