"""The golden scan: exact rows for the head of the posterior, a few numbers for the rest.

Rows are kept a second time as their leading principal coordinates. A coarse scan over some of
these weighs all rows; those that it may be most wrong about, the *head*, are opened and weighed
again by their full rows, and all others, the *tail*, count with their coarse weights and
coordinates, so that nothing is thrown away; where few rows share the posterior, there is a shorter
way (`gdiff.score.golden.nearest`). How many rows are opened is up to each query and its tolerance
(`gdiff.score.golden.opening`), which way is taken, and how many coordinates are scanned, is the
*plan*, by noise level (`gdiff.score.golden.plan`).

The idea of a subset that depends on the noise level is GoldDiff's (Shang et al., arXiv 2602.16498);
this estimator, its bounds and its estimate of the error are our own constructions.

Why the estimate is right. Let P project on the coordinates of the coarse scan, and z = x_0 + σ ε.
Up to a factor that all rows share, the weight of row y is its coarse weight times e^u, with
u = (⟨z_⊥, y_⊥⟩ - ½‖y_⊥‖²) / σ², and given P z the mean of e^u is 1 and its variance
exp(‖y_⊥‖²/σ²) - 1, rows being all but orthogonal beyond P. So the error of the mean is a sum of
independent terms, one for each row of the tail, whose mean squares add up: these are the *risks*.
Rows with much detail have by far the largest, so they count one by one, and not on average.
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
from gdiff.kernels.fold import denoised, split
from gdiff.kernels.parts import again, in_parts
from gdiff.kernels.softmax import weights_of
from gdiff.parallel.mesh import DATA
from gdiff.score.exact import ExactScan, is_delicate, scan_rows
from gdiff.score.golden import bounds, nearest
from gdiff.score.golden.heads import heads
from gdiff.score.golden.opening import Sums, head_of, log_variation, opened, summed
from gdiff.score.golden.sums import (
    ROUNDING,
    TINY,
    Head,
    Index,
    Query,
    Tail,
    row_weights,
    weighted,
)
from gdiff.score.golden.work import Plan, Work

# Queries that are planned together, and numbers in one [b, n] array: 256 MiB in float32.
QUERIES, _LARGEST_ARRAY = 64, 2**26
# Doubtful queries that are answered again at a time; up to `FEW` go one by one where that is
# cheaper, as it is where no more than the index is read.
REPAIRED, FEW = 16, 2
# The likely bound, in estimates of the error.
_LIKELY = 2.0
# Part of the tolerance that the error is meant to take: as planned, and of a doubtful query.
AIM, _SURE_AIM = 0.75, 0.3
# Rows are opened again where all weigh less than was thought by that factor's logarithm.
_LESS = 0.3
# Part of the tolerance below which the mass of a tail does not matter.
_IGNORED = 1e-3
# One in so many rows is opened at most.
_MOST = 8
# Computed once. Compilers would do it again in every sum over [n, b] arrays, and slowly there.
_kept = jax.lax.optimization_barrier
_matmul = partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
_einsum = partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)


class GoldenScan(eqx.Module):
    """Denoiser of `Golden`.

    Attributes:
        full: the exact scan, and with it the rows.
        index: what the coarse scan reads.
        mean: [d] of the rows, or of many of them, in stored units.
        offset: [d] from it to the mean of all rows; middle: [r] coordinates of that.
        basis: [d, r] leading principal directions; eigenvalues: [r] of the covariance.
        tolerance: [] relative error beyond whose estimate a query is given to the full scan.
        plan: what to do at which noise level.
    """

    full: ExactScan
    index: Index = split()
    mean: Float[Array, " d"]
    offset: Float[Array, " d"]
    middle: Float[Array, " r"]
    basis: Float[Array, "d r"]
    eigenvalues: Float[Array, " r"]
    tolerance: Float[Array, ""]
    plan: Plan

    def __call__(self, z: Points, sigma: Sigma) -> Posterior:
        """Approximate posterior; `log_density` is None."""
        return denoised(self.full.rows.mesh, _by_parts, self, z, sigma)

    def heads(self, z: Points, sigma: Sigma, k: int) -> tuple[Posterior, PosteriorHead]:
        """The posterior, as by a call, and about the k heaviest rows of every posterior."""
        return self(z, sigma), heads(self, z, sigma, k)

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
        branches = [*(partial(self._answered, work, AIM) for work in self.plan.works), exact]
        dearest = jnp.max(jnp.where(in_full, 0, place))
        posterior, is_doubtful = jax.lax.switch(dearest, branches, *query)
        reserve = partial(self._answered, Work(self.plan.reserve), _SURE_AIM)
        is_doubtful &= ~in_full
        posterior, is_doubtful = _repaired(reserve, query, posterior, is_doubtful, few=FEW)
        return _repaired(exact, query, posterior, is_doubtful | in_full, few=0)[0]

    def _answered(
        self, work: Work, aim: float, z: Array, sigma: Array, inflation: Array
    ) -> tuple[Posterior, Bool[Array, " b"]]:
        """By a work; whether the result may be beyond the tolerance."""
        aim = aim * self.tolerance / inflation
        posterior, estimate, crowded = self.worked(work, aim, z, sigma)
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

    def worked(
        self, work: Work, aim: Array, z: Array, sigma: Array
    ) -> tuple[Posterior, Array, Array]:
        """By a work of one's own choice, on one device; see `scan`."""
        if work.nearest:
            return nearest.scan(self, work.ranked, aim, z, sigma)
        return self.scan(work.ranked, aim, z, sigma)

    def scan(
        self, ranked: int, aim: Array, z: Array, sigma: Array
    ) -> tuple[Posterior, Array, Array]:
        """By a number of column blocks of one's own choice, on one device.

        Args:
            ranked: column blocks from which the coarse weights are computed, at least 1.
            aim: [] or [b] relative error of the mean down to which rows are opened.
            z: [b, d]; sigma: [b].

        Returns:
            The posterior but for its likely bound, the estimated error [b] in model units, and
            whether rounding makes the result doubtful [b].
        """
        query = self.query(z, sigma)
        coarse = self.coarse(query, ranked)
        is_open, upper, sums = self.opened(query, coarse, ranked, aim)
        rest, upper = _kept(tuple(jnp.where(is_open, -jnp.inf, x) for x in (coarse, upper)))
        rows, norms = self.full.rows, self.index.norms[:, 1]
        head = head_of(rows, norms, self.mean, query, sums, self.tolerance)
        tail = self.tail(query, rest, upper, head, ranked)
        mean, trace, estimate = self.combined(query, head, tail, ranked)
        bound = bounds.bound(self.index, self.basis, query, rest, head, mean, ranked)
        posterior = Posterior(
            mean=self.restored(mean),
            trace_cov=trace / rows.scale**2,
            error_bound=bound / rows.scale + self.rounding(z, sigma, norms.dtype),
            subset_size=jax.lax.psum(jnp.sum(is_open, axis=0), DATA),
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

    def opened(
        self, query: Query, coarse: Float[Array, "n b"], ranked: int, aim: Array
    ) -> tuple[Bool[Array, "n b"], Float[Array, "n b"], Sums]:
        """Rows to be opened, coarse affinities raised by what exact ones may be more, and sums.

        How much rows may weigh in error goes with what all weigh together. That is better known
        when rows are open: where it is less than was thought, others follow.
        """
        number, variance = self.full.rows.number, query.variance
        peak = jax.lax.pmax(jnp.max(coarse, axis=0), DATA)
        weights = _kept(row_weights(coarse, peak, variance))
        mass, second = jax.lax.psum(_einsum("nb,nr->rb", weights, self.index.norms[:, :2]), DATA)
        gain = self.eigenvalues / (self.eigenvalues + query.sigma[:, None] ** 2)
        about = _matmul(gain * query.coordinates, self.basis.T) + (self.mean - self.full.rows.shift)
        # The square of the error is Σ e² ‖y‖² / (Σ w)², with ‖y‖² as on average.
        least = jnp.finfo(mass.dtype).tiny
        allowed = 2 * jnp.log(jnp.maximum(aim * jnp.linalg.norm(about, axis=1), least))
        allowed -= jnp.log(jnp.maximum(second / mass, least))
        beyond = self.index.norms[:, 1 + ranked]
        upper = _kept(coarse + variance / 2 * log_variation(beyond, variance, number))
        log_risk = 2 * (upper - peak) / variance

        def worst(log_mass: Array) -> Bool[Array, "n b"]:
            return opened(log_risk - 2 * log_mass, allowed, number, self.full.rows.n // _MOST)

        def sums_of(is_open: Array) -> Sums:
            return summed(self.full.rows, self.index.norms[:, 1], self.mean, query, is_open)

        is_open = worst(jnp.log(mass))
        sums = sums_of(is_open)
        left = jax.lax.psum(jnp.sum(jnp.where(is_open, 0, weights), axis=0), DATA)
        highest = jax.lax.pmax(sums.moments.peak, DATA)
        found = jax.lax.psum(sums.moments.rescaled(highest, variance).mass, DATA)
        log_found = jnp.logaddexp(jnp.log(left), jnp.log(found) + (highest - peak) / variance)
        is_less = log_found < jnp.log(mass) - _LESS

        def more() -> tuple[Array, Sums]:
            others = worst(log_found) & ~is_open & is_less
            return is_open | others, sums.merged(sums_of(others), variance)

        is_open, sums = jax.lax.cond(jnp.any(is_less), more, lambda: (is_open, sums))
        return is_open, upper, sums

    def tail(
        self,
        query: Query,
        rest: Float[Array, "n b"],
        upper: Float[Array, "n b"],
        head: Head,
        averaged: int,
    ) -> Tail:
        """Sums over all rows whose coarse affinities are finite.

        Coordinates are averaged where the tail weighs anything beside the head, which takes time.
        """
        peak, highest = jax.lax.pmax((jnp.max(rest, axis=0), jnp.max(upper, axis=0)), DATA)
        weights = _kept(row_weights(rest, peak, query.variance))
        sums = _einsum("nb,nr->br", weights, self.index.norms)
        squares = jnp.sum(weights**2, axis=0)
        risks = _kept(row_weights(upper, highest, query.variance / 2))
        risk = _einsum("nb,n->b", risks, self.index.norms[:, 1])
        sums, squares, risk = jax.lax.psum((sums, squares, risk), DATA)

        def average() -> Array:
            blocks = self.index.blocks[:averaged]
            first = [weighted(weights, block) for block in blocks]
            return jax.lax.psum(jnp.concatenate(first, axis=1), DATA)

        end = self.index.ends[averaged - 1]
        odds = (peak - head.peak) / query.variance + jnp.log(sums[:, 0]) - jnp.log(head.mass)
        # So written that NaN matters.
        matters = jnp.any(~(odds < jnp.log(_IGNORED * self.tolerance)))
        zeros = jnp.zeros((len(query.z), end), weights.dtype)
        first = jax.lax.cond(matters, average, lambda: zeros)
        return Tail(peak, sums[:, 0], squares, highest, risk, first, sums[:, 1], sums[:, 2:])

    def combined(
        self, query: Query, head: Head, tail: Tail, ranked: int
    ) -> tuple[Float[Array, "b d"], Float[Array, " b"], Float[Array, " b"]]:
        """Mean about that of the data and trace, and an estimate of the mean's error; as stored."""
        peak = jnp.maximum(head.peak, tail.peak)
        factor = weights_of(head.peak, peak, query.variance)
        mean_square = tail.second / jnp.maximum(tail.mass, TINY)
        tail = tail.rescaled(peak, query.variance)
        own = head.first / jnp.maximum(head.mass, TINY)[:, None]
        head_mass, tail_mass = head.mass * factor, jnp.maximum(tail.mass, TINY)
        mass = head_mass + tail_mass
        share = tail_mass / mass
        # Beyond the coordinates that are averaged, the Wiener filter's mean: it knows the errors
        # that all rows have alike.
        end = self.index.ends[ranked - 1]
        gain = self.eigenvalues / (self.eigenvalues + query.sigma[:, None] ** 2)
        filtered = self.middle + gain * (query.coordinates - self.middle)
        beyond = tail.mass[:, None] * filtered[:, end:]
        rest = _matmul(jnp.concatenate([tail.first, beyond], axis=1), self.basis.T)
        rest += tail.mass[:, None] * (self.offset - _matmul(self.basis, self.middle))
        shift = (factor[:, None] * head.first + rest) / mass[:, None]
        length = jnp.sum(shift**2, axis=1)
        spread = tail.second - 2 * jnp.sum(rest * shift, axis=1) + tail.mass * length
        spread = jnp.maximum(spread, 0)
        between = head_mass * jnp.sum((own - shift) ** 2, axis=1)
        trace = (factor * head.spread + between + spread) / mass
        # Risks count squared norms and not distances; in proportion those are no more.
        noise = tail.risk / mass**2 * (1 + length / jnp.maximum(mean_square, TINY))
        squares = jnp.maximum(tail.squares / mass**2 - share**2 / self.full.rows.number, 0)
        missing = squares * tail.beyond[:, ranked - 1] / tail_mass
        # What the filter would know beyond the last coordinate, at most.
        unknown = gain[:, -1] * share**2 * tail.beyond[:, -1] / tail_mass
        # Both means lie within the data.
        farthest = jnp.sqrt(length) + 2 * self.full.rows.radius * self.full.rows.scale
        return shift, trace, jnp.minimum(jnp.sqrt(noise + missing + unknown), farthest)


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

    def repair(count: int, pending: Array, *old: Any) -> tuple:
        pick, new = again(run, pending, count, old, *query)
        return (pending.at[pick].set(False), *new)

    some = min(REPAIRED, len(is_doubtful))
    counts = [1, some] if few > 0 and some > 1 else [some]
    branches = [lambda *state: state, *(partial(repair, count) for count in counts)]

    def body(state: tuple, _: None) -> tuple[tuple, None]:
        left = jnp.sum(state[0])
        place = (left > 0).astype(int) + ((left > few) if len(counts) > 1 else 0)
        return jax.lax.switch(place, branches, *state), None

    # A scan and not a while loop: fields that nobody reads are not computed then.
    start = (is_doubtful, posterior, is_doubtful)
    return jax.lax.scan(body, start, length=few + -(-len(is_doubtful) // some))[0][1:]
