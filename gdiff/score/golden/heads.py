"""The heaviest rows of posteriors, by the coarse scan and their exact affinities."""

from functools import partial
from typing import TYPE_CHECKING

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gdiff.denoiser import Head, Points, Sigma, per_row
from gdiff.kernels.fold import on_devices
from gdiff.kernels.leading import leading, without
from gdiff.kernels.parts import in_parts
from gdiff.parallel.mesh import DATA
from gdiff.score.golden.sums import row_weights

if TYPE_CHECKING:
    from gdiff.score.golden.scan import GoldenScan

# The coarse scan takes about so many coordinates.
_RANK = 256
# Numbers of the coarse affinities, and of the rows that are gathered, at a time.
_LARGEST, _GATHERED = 2**26, 2**22
_einsum = partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)


class _Asked(eqx.Module):
    golden: "GoldenScan"
    k: int = eqx.field(static=True)


def heads(golden: "GoldenScan", z: Points, sigma: Sigma, k: int) -> Head:
    """The k rows that lead the coarse scan, with weights among themselves by exact affinities.

    What all others weigh is that of their coarse affinities.
    """
    queries = z.reshape(len(z), -1), per_row(sigma, z)
    return on_devices(golden.full.rows.mesh, _on_one, _Asked(golden, k), *queries)


def _on_one(asked: _Asked, z: Float[Array, "b d"], sigma: Float[Array, " b"]) -> Head:
    n, d = asked.golden.full.rows.count, z.shape[1]
    size = max(1, min(len(z), _LARGEST // n, _GATHERED // (asked.k * d)))
    return in_parts(partial(_some, asked.golden, asked.k), size, z, sigma)


def _some(golden: "GoldenScan", k: int, z: Array, sigma: Array) -> Head:
    ends, rows = golden.index.ends, golden.full.rows
    ranked = max(1, sum(end <= _RANK for end in ends))
    query = golden.query(z, sigma)
    coarse = golden.coarse(query, ranked)
    leaders = leading(coarse, k)
    missing = k - leaders.rows.shape[1]
    own = rows.local(leaders.rows).astype(z.dtype) - golden.mean
    exact = _einsum("bd,bkd->bk", query.z, own) - 0.5 * jnp.sum(own**2, axis=2)
    exact = jnp.where(jnp.isfinite(leaders.affinities), exact, -jnp.inf)
    numbers = jnp.pad(leaders.rows + rows.first, [(0, 0), (0, missing)])
    exact = jnp.pad(exact, [(0, 0), (0, missing)], constant_values=-jnp.inf)
    numbers, exact = (jax.lax.all_gather(x, DATA, axis=1, tiled=True) for x in (numbers, exact))

    # By the leaders of all devices, and all rows that are nobody's.
    rest = without(coarse, leaders)
    peak = jnp.maximum(jnp.max(exact, axis=1), jax.lax.pmax(jnp.max(rest, axis=0), DATA))
    tail = jax.lax.psum(jnp.sum(row_weights(rest, peak, query.variance), axis=0), DATA)
    logs = (exact - peak[:, None]) / query.variance[:, None]
    logs = logs - jnp.log(jnp.sum(jnp.exp(logs), axis=1) + tail)[:, None]
    logs, place = jax.lax.top_k(logs, k)
    return Head(jnp.take_along_axis(numbers, place, axis=1), logs)
