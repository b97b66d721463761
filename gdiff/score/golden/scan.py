"""The golden scan: exact rows for the head of the posterior, a few numbers for the rest.

Rows are kept a second time as their leading principal coordinates. A coarse scan over some of
these ranks all rows; the best of them, the *head*, are weighed again by their full rows, and all
others, the *tail*, count with their coarse weights and coordinates, so that nothing is thrown
away. How many coordinates and how large a head: that is the *plan*, one `Work` per noise level
(`gdiff.score.golden.plan`).

The idea of a subset that depends on the noise level is GoldDiff's (Shang et al., arXiv 2602.16498);
this estimator, its bounds and its estimate of the error are our own constructions.

Why the estimate is right. Let P project on the coordinates of the coarse scan, and z = x_0 + σ ε.
Up to a factor that all rows share, the weight of row y is its coarse weight times e^u, with
u = (⟨z_⊥, y_⊥⟩ - ½‖y_⊥‖²) / σ², and given P z the mean of e^u is 1 and its variance
exp(‖y_⊥‖²/σ²) - 1, rows being all but orthogonal beyond P. So the error of the mean is a sum of
independent terms, one for each row of the tail, and as P z leaves the mass τ of the tail for the
row that z came from, it cannot be larger than √τ times the spread of the data, in mean square.
Where ‖y_⊥‖ is much less than σ, many small terms make up the error, and it is close to its root
mean square; where it is not, few large ones do, and the estimate is up to four times that.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from gdiff.denoiser import Head as PosteriorHead
from gdiff.denoiser import Points, Posterior, Sigma
from gdiff.kernels import compensated
from gdiff.kernels.distances import exact_shares
from gdiff.kernels.fold import denoised, split
from gdiff.kernels.leading import leading, without
from gdiff.kernels.parts import in_parts
from gdiff.kernels.softmax import Leaders, weights_of
from gdiff.parallel.mesh import DATA
from gdiff.score.exact import ExactScan, is_crowded, is_delicate, rounding_of, scan_rows
from gdiff.score.golden import bounds
from gdiff.score.golden.heads import heads
from gdiff.score.golden.sums import ROUNDING, TINY, Head, Index, Query, Tail, row_weights
from gdiff.score.golden.work import Plan, Work

# Those of the head whose weights are computed to twice the working precision.
_CLOSEST = 8
# Queries that are planned together, and numbers in one [b, n] array: 256 MiB in float32.
QUERIES, _LARGEST_ARRAY = 64, 2**26
# Numbers in one gathered [b, k, d] array: few enough to stay in cache.
_GATHERED = 2**21
# Doubtful queries that are answered again at a time; up to `FEW` go one by one where that is
# cheaper, as it is where no more than the index is read.
REPAIRED, FEW = 16, 2
# The likely bound, in estimates of the error.
_LIKELY = 2.0
# By how many times an error may rather exceed its root mean square where single rows dominate it.
_HEAVY = 3.0
# Part of the tolerance that logits in working precision may cost.
_LOGIT_SHARE = 0.01
_matmul = partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
_einsum = partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)


class GoldenScan(eqx.Module):
    """Denoiser of `Golden`.

    Attributes:
        full: the exact scan, and with it the rows.
        index: what the coarse scan reads.
        mean: [d] of the rows, or of many of them, in stored units.
        offset: [d] from it to the mean of all rows, beyond the coordinates; within them the tail's
            averages know, or the pilot's inflation covers it.
        basis: [d, r] leading principal directions; eigenvalues: [r] of the covariance.
        tolerance: [] relative error beyond whose estimate a query is given to the full scan.
        plan: what to do at which noise level.
    """

    full: ExactScan
    index: Index = split()
    mean: Float[Array, " d"]
    offset: Float[Array, " d"]
    basis: Float[Array, "d r"]
    eigenvalues: Float[Array, " r"]
    tolerance: Float[Array, ""]
    plan: Plan

    def __call__(self, z: Points, sigma: Sigma) -> Posterior:
        """Approximate posterior; `log_density` is None."""
        return denoised(self.full.rows.mesh, _by_parts, self, z, sigma)

    def heads(
        self, z: Points, sigma: Sigma, k: int
    ) -> tuple[Float[Array, "b *event"], PosteriorHead]:
        """The mean, as by a call, and about the k heaviest rows of every posterior."""
        return self(z, sigma).mean, heads(self, z, sigma, k)

    def take(self, index: Int[Array, "b ..."]) -> Float[Array, "b ... d"]:
        """Rows by their numbers, in model coordinates."""
        return self.full.take(index)

    def denoise(self, z: Float[Array, "b d"], sigma: Float[Array, " b"]) -> Posterior:
        """The call on one device: by the plan, and with more work where the estimate says so.

        All get the dearest work that is planned for one of them. Where few are planned to be
        scanned in full, and others not, these few are scanned as doubtful ones are.
        """
        place, inflation = self.plan.at(sigma)
        query = (z, sigma, inflation)
        in_full = place == len(self.plan.works)
        apart = (jnp.sum(in_full) <= REPAIRED) & ~jnp.all(in_full) & (len(z) > REPAIRED)
        in_full &= apart
        exact = partial(self._exact)  # a method cannot be hashed, as `switch` wants
        branches = [*(partial(self._answered, work) for work in self.plan.works), exact]
        dearest = jnp.max(jnp.where(in_full, 0, place))
        posterior, is_doubtful = jax.lax.switch(dearest, branches, *query)
        reserve = partial(self._answered, self.plan.reserve)
        is_doubtful &= ~in_full
        posterior, is_doubtful = _repaired(reserve, query, posterior, is_doubtful, few=FEW)
        return _repaired(exact, query, posterior, is_doubtful | in_full, few=0)[0]

    def _answered(
        self, work: Work, z: Array, sigma: Array, inflation: Array
    ) -> tuple[Posterior, Bool[Array, " b"]]:
        """By one work; whether the result may be beyond the tolerance."""
        posterior, estimate, crowded = self.scan(work, z, sigma)
        estimate = inflation * estimate
        largest = self.tolerance * jnp.linalg.norm(posterior.mean, axis=1)
        likely = _LIKELY * estimate + self.rounding(z, sigma, self.index.norms.dtype)
        # So written that NaN is doubtful.
        return posterior._replace(likely_bound=likely), crowded | ~(estimate <= largest)

    def _exact(
        self, z: Array, sigma: Array, inflation: Array
    ) -> tuple[Posterior, Bool[Array, " b"]]:
        """By the full scan, in doubt about nothing."""
        rounding = self.rounding(z, sigma, z.dtype)
        posterior = scan_rows(self.full, z, sigma)._replace(
            log_density=None,
            error_bound=rounding,
            likely_bound=rounding,
            subset_size=jnp.full(len(z), self.full.rows.number),
        )
        return posterior, jnp.zeros(len(z), bool)

    def rounding(
        self, z: Float[Array, "b d"], sigma: Float[Array, " b"], dtype: jnp.dtype
    ) -> Float[Array, " b"]:
        """What rounding may do to the mean, in model units: more, where z is far from all data.

        `dtype` is that of the affinities: of the index, or of the full scan.
        """
        epsilon, radius = jnp.finfo(dtype).eps / 2, self.full.rows.radius
        centre = (self.mean - self.full.rows.shift) / self.full.rows.scale
        length = jnp.linalg.norm(z - centre, axis=1)
        # Affinities are wrong by that much at most, unless they are computed with more bits.
        wrong = jnp.minimum(5 * epsilon * radius * length / sigma**2, 1)
        wrong = jnp.where(is_delicate(self.full.rows, sigma.astype(dtype)), 0, wrong)
        return radius * (ROUNDING + wrong)

    def scan(self, work: Work, z: Array, sigma: Array) -> tuple[Posterior, Array, Array]:
        """By a work of one's own choice, on one device.

        Returns:
            The posterior but for its likely bound, the estimated error [b] in model units, and
            whether rounding makes the result doubtful [b].
        """
        query = self.query(z, sigma)
        coarse = self.coarse(query, work.ranked)
        leaders = leading(coarse, work.head)
        head = self.head(query, leaders)
        rest = without(coarse, leaders)
        tail = self.tail(query, rest, work.averaged)
        mean, trace, estimate = self.combined(query, head, tail, work)
        if work.head:
            missed = bounds.overlooked(self.index, query, rest, head, tail, work)
            estimate = jnp.maximum(estimate, missed)
        bound = bounds.bound(self.index, self.basis, query, coarse, leaders, head, mean, work)
        rows, count = self.full.rows, len(z)
        posterior = Posterior(
            mean=self.restored(mean),
            trace_cov=trace / rows.scale**2,
            error_bound=bound / rows.scale + self.rounding(z, sigma, self.index.norms.dtype),
            subset_size=jnp.full(count, min(work.head * jax.lax.axis_size(DATA), rows.n)),
        )
        return posterior, estimate / rows.scale, head.crowded

    def restored(self, z: Float[Array, "b d"]) -> Float[Array, "b d"]:
        """From stored units about the mean to model coordinates."""
        return (z + (self.mean - self.full.rows.shift)) / self.full.rows.scale

    def query(self, z: Array, sigma: Array) -> Query:
        """Queries in stored units."""
        exact = compensated.affine(z, self.full.rows.scale, self.full.rows.shift)
        z = exact.high - self.mean
        coordinates = _matmul(z, self.basis)
        return Query(exact, z, coordinates, sigma, (sigma * self.full.rows.scale) ** 2)

    def coarse(self, query: Query, ranked: int) -> Float[Array, "n b"]:
        """Coarse affinities of all rows of this device.

        Rows come first here and below: sums over them then run over whole vectors of queries.
        """
        z = jnp.split(query.coordinates, self.index.ends[:-1], axis=1)
        products = map(lambda block, z: _matmul(block, z.T), self.index.blocks[:ranked], z)
        return sum(products) - self.index.halves[ranked - 1][:, None]

    def head(self, query: Query, leaders: Leaders) -> Head:
        """Sums over the leaders that are used, by their exact affinities."""
        b, k = leaders.rows.shape
        d = self.mean.shape[0]
        if k == 0:
            zeros = jnp.zeros(b, query.z.dtype)
            return Head(zeros - jnp.inf, zeros, jnp.zeros_like(query.z), zeros, zeros > 0)

        def sums(
            exact: compensated.Pair, z: Array, sigma: Array, variance: Array, leaders: Leaders
        ) -> Head:
            own = self.full.rows.local(leaders.rows)
            centred = own.astype(z.dtype) - self.mean
            norms = self.index.norms[leaders.rows, 1]
            if norms.dtype != z.dtype:  # double precision, where the index is not
                norms = jnp.sum(centred**2, axis=2)
            affinities = _einsum("bd,bkd->bk", z, centred) - 0.5 * norms
            affinities = jnp.where(jnp.isfinite(leaders.affinities), affinities, -jnp.inf)
            peak = jax.lax.pmax(jnp.max(affinities, axis=1), DATA)
            weights = weights_of(affinities, peak, variance)
            crowded = jnp.zeros(len(z), bool)

            def settled() -> tuple[Array, Array]:
                return self._settled(weights, affinities, exact, own, z, variance)

            delicate = jnp.any(is_delicate(self.full.rows, sigma, _LOGIT_SHARE * self.tolerance))
            weights, crowded = jax.lax.cond(delicate, settled, lambda: (weights, crowded))
            mass = jax.lax.psum(jnp.sum(weights, axis=1), DATA)
            first = jax.lax.psum(_einsum("bk,bkd->bd", weights, centred), DATA)
            own_mean = first / jnp.maximum(mass, TINY)[:, None]
            away = jnp.sum((centred - own_mean[:, None]) ** 2, axis=2)
            spread = jax.lax.psum(jnp.sum(weights * away, axis=1), DATA)
            return Head(peak, mass, first, spread, crowded)

        size = max(1, _GATHERED // (k * d))
        return in_parts(sums, size, *query[:2], query.sigma, query.variance, leaders)

    def _settled(
        self,
        weights: Array,
        affinities: Array,
        exact: compensated.Pair,
        rows: Array,
        z: Array,
        variance: Array,
    ) -> tuple[Array, Array]:
        """The closest rows of the head divide their mass by exact distances, if they suffice."""
        b, k = weights.shape
        best, place = jax.lax.top_k(affinities, min(_CLOSEST, k))
        closest = jnp.take_along_axis(rows, place[:, :, None], axis=1)
        shares = exact_shares(exact, closest, jnp.isfinite(best), variance, DATA)
        held = jnp.take_along_axis(weights, place, axis=1)
        together = jax.lax.psum(jnp.sum(held, axis=1), DATA)
        at = (jnp.arange(b)[:, None], place)
        weights = weights.at[at].set(shares.weights * together[:, None])
        rounding = rounding_of(z, self.full.rows)
        return weights, is_crowded(best, rounding, variance, self.full.rows.n)

    def tail(self, query: Query, coarse: Float[Array, "n b"], averaged: int) -> Tail:
        """Sums over all rows whose coarse affinities are finite."""
        peak = jax.lax.pmax(jnp.max(coarse, axis=0), DATA)
        weights = row_weights(coarse, peak, query.variance)
        first = [_einsum("nb,nr->br", weights, block) for block in self.index.blocks[:averaged]]
        sums = _einsum("nb,nr->br", weights, self.index.norms)
        squares = jnp.sum(weights**2, axis=0)
        first, sums, squares = jax.lax.psum((first, sums, squares), DATA)
        first = jnp.concatenate([*first, sums[:, :0]], axis=1)
        return Tail(peak, sums[:, 0], squares, first, sums[:, 1], sums[:, 2:])

    def combined(
        self, query: Query, head: Head, tail: Tail, work: Work
    ) -> tuple[Float[Array, "b d"], Float[Array, " b"], Float[Array, " b"]]:
        """Mean about that of the data and trace, and an estimate of the mean's error; as stored."""
        peak = jnp.maximum(head.peak, tail.peak)
        factor = weights_of(head.peak, peak, query.variance)
        tail = tail.rescaled(peak, query.variance)
        own = head.first / jnp.maximum(head.mass, TINY)[:, None]
        head_mass, tail_mass = head.mass * factor, jnp.maximum(tail.mass, TINY)
        mass = head_mass + tail_mass
        share = tail_mass / mass
        # Of the weights less their mean: errors of all rows alike add up to what the Wiener
        # filter knows.
        squares = jnp.maximum(tail.squares / mass**2 - share**2 / self.full.rows.number, 0)
        # The mean square of the rows of the tail beyond the coarse scan, in units of σ².
        hidden = tail.beyond[:, work.ranked - 1] / tail_mass / query.variance
        noise = jnp.minimum(jnp.expm1(jnp.minimum(hidden, 50)) * squares, share)
        if work.averaged:
            # Beyond the averaged coordinates, the Wiener filter's mean: noise that all rows see.
            end = self.index.ends[work.averaged - 1]
            gain = self.eigenvalues / (self.eigenvalues + query.sigma[:, None] ** 2)
            beyond = tail.mass[:, None] * (gain * query.coordinates)[:, end:]
            rest = _matmul(jnp.concatenate([tail.first, beyond], axis=1), self.basis.T)
            rest += tail.mass[:, None] * self.offset
            shift = (factor[:, None] * head.first + rest) / mass[:, None]
            length = jnp.sum(shift**2, axis=1)
            spread = tail.second - 2 * jnp.sum(rest * shift, axis=1) + tail.mass * length
            spread = jnp.maximum(spread, 0)
            between = head_mass * jnp.sum((own - shift) ** 2, axis=1)
            trace = (factor * head.spread + between + spread) / mass
            missing = squares * tail.beyond[:, work.averaged - 1]
            # What the filter would know beyond the last coordinate, at most.
            unknown = gain[:, -1] * share**2 * tail.beyond[:, -1]
            estimate = jnp.sqrt((noise * spread + missing + unknown) / tail_mass)
        else:
            shift, trace = own, head.spread / jnp.maximum(head.mass, TINY)
            spread = jnp.sqrt(tail.second / tail_mass) + jnp.linalg.norm(shift, axis=1)
            estimate = (jnp.sqrt(noise) + share) * spread
        caution = 1 - _HEAVY * jnp.expm1(-hidden)
        return shift, trace, caution * estimate


def _by_parts(golden: GoldenScan, z: Array, sigma: Array) -> Posterior:
    """`GoldenScan.denoise` of as many queries at a time as memory allows; on each device.

    Where these are not all, those that are planned alike come together.
    """
    size = max(1, min(QUERIES, _LARGEST_ARRAY // golden.full.rows.count))
    if len(z) <= size:
        return golden.denoise(z, sigma)
    order = jnp.argsort(golden.plan.at(sigma)[0])
    posterior = in_parts(golden.denoise, size, z[order], sigma[order])
    return jax.tree.map(lambda x: x[jnp.argsort(order)], posterior)


def _repaired(
    run: Callable[..., tuple[Posterior, Array]],
    query: tuple[Array, ...],
    posterior: Posterior,
    is_doubtful: Bool[Array, " b"],
    *,
    few: int,
) -> tuple[Posterior, Bool[Array, " b"]]:
    """The posterior with doubtful queries answered again by `run`.

    That is some queries at a time; one, while no more than `few` are left.
    """

    def again(count: int, pending: Array, *old: Any) -> tuple:
        is_pending, pick = jax.lax.top_k(pending.astype(jnp.int32), count)

        def put(old: Array, new: Array) -> Array:
            keep = is_pending.reshape(-1, *[1] * (new.ndim - 1)) > 0
            return old.at[pick].set(jnp.where(keep, new, old[pick]))

        new = run(*(x[pick] for x in query))
        return (pending.at[pick].set(False), *jax.tree.map(put, old, new))

    some = min(REPAIRED, len(is_doubtful))
    counts = [1, some] if few > 0 and some > 1 else [some]
    branches = [lambda *state: state, *(partial(again, count) for count in counts)]

    def body(state: tuple, _: None) -> tuple[tuple, None]:
        left = jnp.sum(state[0])
        place = (left > 0).astype(int) + ((left > few) if len(counts) > 1 else 0)
        return jax.lax.switch(place, branches, *state), None

    # A scan and not a while loop: fields that nobody reads are not computed then.
    start = (is_doubtful, posterior, is_doubtful)
    return jax.lax.scan(body, start, length=few + -(-len(is_doubtful) // some))[0][1:]
