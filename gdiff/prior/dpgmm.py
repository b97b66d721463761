"""A Dirichlet-process Gaussian mixture, by variational inference."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gdiff.prior.mixture import SEED, STRIDE, TOLERANCE, MixtureSpec

if TYPE_CHECKING:
    from sklearn.mixture import BayesianGaussianMixture


@dataclass(frozen=True, kw_only=True)
class DPGMM(MixtureSpec):
    """A mixture that takes as many Gaussians as the data ask for, up to `components`.

    Truncated stick-breaking of Blei & Jordan, "Variational Inference for Dirichlet Process
    Mixtures" (Bayesian Analysis 1, 2006); the density is that of the posterior's mean parameters.
    """

    kind = "dpgmm"
    fewest = 1.5  # one that is left empty weighs about one row

    def estimator(
        self, components: int, shape: tuple[int, int], floor: float
    ) -> "BayesianGaussianMixture":
        """Starts from k-means; its bound is summed over the rows."""
        from sklearn.mixture import BayesianGaussianMixture

        return BayesianGaussianMixture(
            n_components=components,
            weight_concentration_prior_type="dirichlet_process",
            tol=TOLERANCE * shape[0] * shape[1],
            reg_covar=floor,
            max_iter=STRIDE,
            warm_start=True,
            random_state=SEED,
        )
