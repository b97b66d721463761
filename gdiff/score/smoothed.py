"""Smoothed closed-form score: the exact denoiser averaged over perturbed queries."""

from collections.abc import Sequence
from dataclasses import dataclass

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Float

from gdiff.dataset import Dataset
from gdiff.dataset.placed import Placed
from gdiff.denoiser import Points, Posterior, Sigma, per_row
from gdiff.errors import require
from gdiff.score.base import ScoreSpec
from gdiff.score.exact import Exact, ExactScan


@dataclass(frozen=True, kw_only=True)
class Smoothed(ScoreSpec):
    """Average of the exact denoiser over M perturbations of the query (σ-CFDM).

    D_s(z, σ) = (1/M) Σ_m D(z + width (1 + σ) ε_m, σ). (Scarvelis, Sáez de Ocáriz Borde, Solomon,
    "Closed-Form Diffusion Models", arXiv 2310.12395; `width` is their σ. They perturb
    (1 - t) ε + t x, which is z / (1 + σ) here: hence the factor.) As σ falls, a sample becomes a
    mean of up to M data points near it, instead of one of them. Data points mix when their
    distance is not many times `width`; what suits depends on the data set.

    The ε_m are standard normal, the same for all queries and noise levels and fixed by `seed`, so
    that a sample does not depend on the batch it is in. They come in pairs ε, -ε: their mean is
    zero, and symmetric data have a symmetric denoiser.

    Attributes:
        perturbations: M, an even number; the cost is M times that of `score=full`.
        width: of the perturbations, in model units.
        seed: of the perturbations.
    """

    perturbations: int = 16
    width: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        require(
            self.perturbations >= 2 and self.perturbations % 2 == 0,
            f"perturbations={self.perturbations} must be an even number, 2 or more",
        )
        require(
            0 <= self.width < float("inf"),
            f"width={self.width} must be 0 or more, and finite",
        )
        require(self.seed >= 0, f"seed={self.seed} must be 0 or more")

    def fit(self, data: Dataset | Placed, sigmas: Sequence[float] = ()) -> "SmoothedScan":
        """Place the data and draw the perturbations, the same for all `sigmas`."""
        data = Placed.of(data)
        half = (self.perturbations // 2, *data.dataset.event_shape)
        drawn = np.random.default_rng(self.seed).standard_normal(half)
        noise = self.width * np.concatenate([drawn, -drawn])
        return SmoothedScan(
            scan=Exact().fit(data),
            noise=jax.device_put(
                jnp.asarray(noise, jnp.result_type(float)),
                NamedSharding(data.mesh, PartitionSpec()),
            ),
        )


class SmoothedScan(eqx.Module):
    """Denoiser that scans all rows for M perturbed copies of every query.

    Attributes:
        scan: the exact denoiser.
        noise: [M, *event] the perturbations at σ = 0.
    """

    scan: ExactScan
    noise: Float[Array, "m *event"]

    def __call__(self, z: Points, sigma: Sigma) -> Posterior:
        """Averages over the perturbed queries.

        The perturbations do not depend on z, so the average of the traces is σ² times the
        divergence of the averaged mean, as it has to be.
        """
        b, m = z.shape[0], self.noise.shape[0]
        sigma = per_row(sigma, z)
        reach = (1 + sigma).reshape(b, *[1] * z.ndim)
        # Copies of one query stay together: so they stay on its device.
        moved = (z[:, None] + reach * self.noise).reshape(b * m, *z.shape[1:])
        each = self.scan(moved, jnp.repeat(sigma, m))
        return Posterior(
            mean=jnp.mean(each.mean.reshape(b, m, *z.shape[1:]), axis=1),
            trace_cov=jnp.mean(each.trace_cov.reshape(b, m), axis=1),
        )
