"""One denoiser from several, each for noise levels of its own."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from gdiff.denoiser import Points, Posterior, Sigma
from gdiff.kernels.fold import denoised
from gdiff.score.local.scan import LocalScan
from gdiff.score.local.subset import LocalSubset


class ByLevel(eqx.Module):
    """The denoiser of the noise level nearest to each query, by the ratio of the two.

    Attributes:
        parts: the denoisers.
    """

    parts: tuple[LocalScan, ...] | tuple[LocalSubset, ...]

    def __call__(self, z: Points, sigma: Sigma) -> Posterior:
        """Posteriors of all coordinates, as of the part."""
        return denoised(self.parts[0].rows.mesh, _each, self, z, sigma)


def _each(each: ByLevel, z: Array, sigma: Array) -> Posterior:
    """Runs on each device; a part that no query needs costs nothing."""
    log_sigma = jnp.log(sigma)[:, None]
    gaps = [jnp.min(jnp.abs(log_sigma - x.masks.log_sigma), axis=1) for x in each.parts]
    chosen = jnp.argmin(jnp.stack(gaps), axis=0)
    found = None
    for number, part in enumerate(each.parts):
        is_its = chosen == number
        like = jax.eval_shape(part.here, z, sigma)
        found = found or jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like)
        found = jax.lax.cond(
            jnp.any(is_its), partial(_answered, part, is_its), _unchanged, found, z, sigma
        )
    return found


def _unchanged(found: Posterior, z: Array, sigma: Array) -> Posterior:
    return found


def _answered(
    part: LocalScan | LocalSubset,
    is_its: Bool[Array, " b"],
    found: Posterior,
    z: Array,
    sigma: Array,
) -> Posterior:
    """What was found, with the answers of a part for its own queries."""
    new = part.here(z, sigma)
    return jax.tree.map(
        lambda x, y: jnp.where(is_its.reshape(-1, *[1] * (x.ndim - 1)), y, x), found, new
    )
