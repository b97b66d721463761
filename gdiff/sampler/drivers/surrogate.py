"""Surrogate sweeps: the recursion is redone with posteriors over a few rows, step after step.

A Picard sweep keeps the outputs D(z_k) and moves the states. Here a sweep keeps, of the posterior
at every state, its *head*: the rows that weigh most, and how much. Between two rounds of
evaluations the recursion is redone with the posterior of these rows at the new state, so a decision
between images is followed down the whole trajectory at once. Where a state has not moved the
surrogate is D(z_k) itself: the fixed point is the sequential trajectory, and the first r states are
right after r rounds. Our construction; of the kind of the parareal algorithm.

Of the posterior w at a state, with head H, all rows but H count as one row: their mean t with their
mass τ = 1 - Σ_H w. After a move by Δ row i has the weight w'_i ~ w_i exp(y_i·Δ / σ²), and so has t,

    D' = D + Σ_H (w'_i - w_i) y_i + (τ' - τ) t.

The first round need not ask everywhere: it only leads to states that the second one asks at. A row
that was not asked takes the posterior of the last one before it to its own state and noise level:
with θ = (z/σ², 1/σ²) rows weigh exp(y_i·θ_1 - ½‖y_i‖² θ_2), exactly for the head, and for the tail
to first order, by its mean and its second moment. Where none before it in its segment was asked
either, the rows that the segment before passes on are all there is.

Neighbouring states share their heads: a *segment* of rows of the table has one pool of rows of the
data, gathered once, which the heaviest ones of the segment before it join.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from gdiff.denoiser import Headed
from gdiff.sampler.drivers.rows import Carry
from gdiff.sampler.steps import Steps

# Rows of the table that share a pool, and rows of the data that the next segment hears of.
SEGMENT = 8
_PASSED_ON = 16
# Rows that are a pool where all others weigh less than that, in nats, or all heads less than that.
_FEW, _LIGHT, _SLIGHT = 32, -16.0, 0.02
# Mass of a tail below which its mean is rounding.
_NO_TAIL = 1e3
_HIGHEST = jax.lax.Precision.HIGHEST


class Heads(NamedTuple):
    """What the last evaluation of every row of the table found.

    Attributes:
        at: [r, b, d] states at which it was.
        mean: [r, b, d] the denoiser's outputs.
        trace: [r, b, 1] of the posterior's covariance.
        rows: [r, b, k] rows of the data that weigh most, the heaviest first.
        log_weights: [r, b, k] of their weights, -inf where unused.
    """

    at: Float[Array, "r b d"]
    mean: Float[Array, "r b d"]
    trace: Float[Array, "r b 1"]
    rows: Int[Array, "r b k"]
    log_weights: Float[Array, "r b k"]

    @classmethod
    def empty(cls, x: Float[Array, "r b d"], k: int) -> "Heads":
        """Before any evaluation."""
        shape = (*x.shape[:2], k)
        nothing = jnp.zeros(shape, jnp.int32), jnp.full(shape, -jnp.inf, x.dtype)
        return cls(x, x, jnp.zeros_like(x[:, :, :1]), *nothing)


# What simpler data would answer at points [p, d] and levels [p].
Far = Callable[[Array, Array], Array]


def recursion(
    score: Headed,
    far: Far | None,
    table: tuple[Steps, Int[Array, ""]],
    heads: Heads,
    asked: Bool[Array, " r"],
    start: Int[Array, ""],
    before: tuple[Float[Array, "h b d"], Float[Array, "g b d"]],
    added: tuple[Float[Array, "r b d"] | None, Float[Array, "r b d"] | None],
    line: tuple[Float[Array, "r1 b d"], Float[Array, "r b d"]],
    pool: int,
) -> tuple[Float[Array, "r1 b d"], Float[Array, "r b d"]]:
    """New states and outputs from the segment of a row on.

    Args:
        score: whose rows these are.
        far: after which tails move; None keeps them.
        table: rows of the block, and how many of them count.
        heads: of all rows.
        asked: rows that have such.
        start: the row before which nothing changes.
        before: states and outputs before the block, latest first.
        added: noise that each row adds, and what it adds before the evaluation; None if nothing.
        line: the states so far, the first one given, and the outputs.
        pool: rows of the data that are weighed at a state.

    Returns:
        `line` anew.
    """
    (rows, count), (noise, point) = table, added
    size = min(SEGMENT, len(rows.sigma))
    b, k = heads.rows.shape[1:]
    # Rows of padding have no noise level.
    sigma = jnp.where(rows.sigma > 0, rows.sigma, 1)
    first = start // size
    seed = jax.lax.dynamic_index_in_dim(heads.rows, first * size, keepdims=False)
    passed = min(_PASSED_ON, pool - size, k)
    state = (*line, _carry(rows, first * size, before, line), seed[:, :passed])

    def segment(i: Array, state: tuple) -> tuple:
        x, outputs, carry, known = state

        def here(values: Array) -> Array:
            return jax.lax.dynamic_slice_in_dim(values, i * size, size)

        own, levels = jax.tree.map(here, heads), here(sigma)
        spots = own.at if point is None else own.at + here(point)
        numbers, heaviest = _pooled(own, known, pool)
        # From a poor guess rows may matter that weigh nothing there.
        few = pool if far is None else min(_FEW, pool)
        is_enough = jnp.all(heaviest[:, few:] < _LIGHT, axis=1)
        is_enough |= jnp.max(jnp.sum(jnp.exp(own.log_weights), axis=2), axis=0) < _SLIGHT
        # A sample's own rows, whatever pools the others of the batch need.
        is_used = (heaviest > -jnp.inf) & ((jnp.arange(pool) < few) | ~is_enough[:, None])
        new, means, carry, known = jax.lax.cond(
            jnp.all(is_enough) & (few < pool),
            partial(weighed, i, own, spots, levels, few),
            partial(weighed, i, own, spots, levels, pool),
            *(numbers, is_used, carry),
        )
        x = jax.lax.dynamic_update_slice_in_dim(x, new, i * size + 1, 0)
        return x, jax.lax.dynamic_update_slice_in_dim(outputs, means, i * size, 0), carry, known

    def weighed(
        i: Array,
        own: Heads,
        spots: Array,
        levels: Array,
        size_of_pool: int,
        numbers: Array,
        is_used: Array,
        carry: Carry,
    ) -> tuple[Array, Array, Carry, Array]:
        is_asked = jax.lax.dynamic_slice_in_dim(asked, i * size, size)
        pooled = numbers[:, :size_of_pool], is_used[:, :size_of_pool]
        shared = _shared(score, far, own, pooled, spots, levels, is_asked)

        def follow(state: tuple, j: Array) -> tuple:
            carry, at = state[0], i * size + j
            moved = carry.z - own.at[j]
            mean, weights, tail = _surrogate(shared, j, moved, levels[j] ** 2)
            if far is not None:

                def gone(j: Array = j, moved: Array = moved) -> Array:
                    there = far(spots[j] + moved, jnp.full(b, levels[j]))
                    return there - shared.there[j]

                tail = jnp.where(jnp.any(moved != 0, axis=1), tail, 0)[:, None]
                has_tail = jnp.any(tail > jnp.finfo(tail.dtype).eps)
                mean += tail * jax.lax.cond(has_tail, gone, lambda: jnp.zeros_like(moved))
            row = jax.tree.map(lambda column: column[at], rows)
            carry = carry.advanced(row, mean, None if noise is None else noise[at])
            return (carry, weights), (carry.z, mean)

        state = (carry, jnp.zeros((b, size_of_pool), carry.z.dtype))
        (carry, weights), (new, means) = jax.lax.scan(follow, state, jnp.arange(size))
        best = jax.lax.top_k(weights, passed)[1]
        return new, means, carry, jnp.take_along_axis(shared.numbers, best, axis=1)

    stop = -(-count // size)
    return jax.lax.fori_loop(first, jnp.maximum(stop, first), segment, state)[:2]


class _Shared(NamedTuple):
    """The pool of a segment.

    Attributes:
        numbers: [b, k] of its rows of the data.
        y: [b, k, d] the rows, less their `centre` [b, d].
        logs: [s, b, k] of their weights where the segment's rows were evaluated.
        mean: [s, b, d] of all rows of the data there.
        there: [s, b, d] what simpler data answer there, where there is a tail; None without such.
    """

    numbers: Int[Array, "b k"]
    y: Float[Array, "b k d"]
    centre: Float[Array, "b d"]
    logs: Float[Array, "s b k"]
    mean: Float[Array, "s b d"]
    there: Float[Array, "s b d"] | None


def _shared(
    score: Headed,
    far: Far | None,
    own: Heads,
    pooled: tuple[Int[Array, "b k"], Bool[Array, "b k"]],
    spots: Float[Array, "s b d"],
    levels: Float[Array, " s"],
    is_asked: Bool[Array, " s"],
) -> _Shared:
    """The pool of a segment.

    Args:
        score: whose rows these are.
        far: what simpler data answer.
        own: heads of the segment.
        pooled: rows of the data, and which of them are used.
        spots: where the segment was evaluated, or would have been.
        levels: σ there.
        is_asked: which of its rows were evaluated.
    """
    (numbers, is_used), variance = pooled, levels**2
    y = score.take(numbers).astype(spots.dtype)
    centre = jnp.mean(y, axis=1)
    y = y - centre[:, None]
    half = 0.5 * jnp.sum(y**2, axis=2)
    affinities = jnp.einsum("sbd,bkd->sbk", spots - centre, y, precision=_HIGHEST) - half
    affinities = jnp.where(is_used, affinities, -jnp.inf)
    # Weights follow from that of the heaviest row, which is in the pool.
    top = jnp.argmax(numbers == own.rows[:, :, :1], axis=2)[:, :, None]
    behind = affinities - jnp.take_along_axis(affinities, top, axis=2)
    logs = own.log_weights[:, :, :1] + behind / variance[:, None, None]
    found = _Shared(numbers, y, centre, logs, own.mean, None)
    if far is not None:
        s, b, d = spots.shape

        def answered() -> Array:
            return far(spots.reshape(s * b, d), jnp.repeat(levels, b)).reshape(s, b, d)

        has_tail = 1 - jnp.sum(jnp.exp(logs), axis=2) > jnp.finfo(y.dtype).eps
        has_tail = jnp.any(has_tail & is_asked[:, None])
        there = jax.lax.cond(has_tail, answered, lambda: jnp.zeros_like(spots))
        found = found._replace(there=there)

    def carried() -> tuple[Array, Array]:
        return _carried(found, own.trace, spots, is_asked, affinities, half, variance)

    logs, mean = jax.lax.cond(jnp.all(is_asked), lambda: (logs, own.mean), carried)
    return found._replace(logs=logs, mean=mean)


def _carried(
    shared: _Shared,
    trace: Float[Array, "s b 1"],
    spots: Float[Array, "s b d"],
    is_asked: Bool[Array, " s"],
    affinities: Float[Array, "s b k"],
    half: Float[Array, "b k"],
    variance: Float[Array, " s"],
) -> tuple[Float[Array, "s b k"], Float[Array, "s b d"]]:
    """Log weights and means of all rows of a segment, from those that were evaluated.

    Args:
        shared: the pool, with what is known where it is.
        trace: of the posteriors' covariances.
        spots, is_asked: see `_shared`.
        affinities: of the pool at the spots, -inf at places that are not used.
        half: ½‖y‖² of the pool.
        variance: σ² at the spots.
    """
    y, logs = shared.y, shared.logs
    place = jnp.arange(len(spots))
    last = jax.lax.cummax(jnp.where(is_asked, place, -1))
    source = jnp.maximum(last, 0)

    def at_source(x: Array) -> Array:
        return x[source]

    # The tail where it is known: its mass, its mean, and its mean of half the squared norms.
    mean = shared.mean - shared.centre
    weights = jnp.exp(logs)
    tail = 1 - jnp.sum(weights, axis=2, keepdims=True)
    has_tail = tail > _NO_TAIL * jnp.finfo(y.dtype).eps
    safe = jnp.where(has_tail, tail, 1)
    rest = (mean - jnp.einsum("sbk,bkd->sbd", weights, y, precision=_HIGHEST)) / safe
    squares = 0.5 * (trace + jnp.sum(mean**2, axis=2, keepdims=True))
    squares -= jnp.sum(weights * half, axis=2, keepdims=True)
    squares = squares / safe

    # Against the row that weighs most there, or here where nothing is known.
    is_known = (last >= 0)[:, None, None]
    best = at_source(jnp.argmax(jnp.where(affinities > -jnp.inf, logs, -jnp.inf), axis=2))
    best = jnp.where(is_known[:, :, 0], best, jnp.argmax(affinities, axis=2))[:, :, None]

    def of_best(x: Array) -> Array:
        return jnp.take_along_axis(x, best, axis=2)

    own_half = of_best(jnp.broadcast_to(half, affinities.shape))
    spread, point = variance[:, None, None], spots - shared.centre
    turn = point / spread - at_source(point / spread)
    along = of_best(affinities) + own_half
    along = along / spread - of_best(at_source(affinities) + half) / at_source(spread)
    behind = jnp.log(at_source(safe)) - of_best(at_source(logs))
    behind += jnp.sum(at_source(rest) * turn, axis=2, keepdims=True) - along
    behind -= (at_source(squares) - own_half) * (1 / spread - 1 / at_source(spread))
    behind = jnp.where(at_source(has_tail) & is_known, behind, -jnp.inf)
    ahead = (affinities - of_best(affinities)) / spread
    total = jnp.logaddexp(jax.nn.logsumexp(ahead, axis=2, keepdims=True), behind)
    carried, tail = ahead - total, jnp.exp(behind - total)
    rest = at_source(rest)
    if shared.there is not None:
        rest = rest + shared.there - at_source(shared.there)
    moved = jnp.einsum("sbk,bkd->sbd", jnp.exp(carried), y, precision=_HIGHEST)
    moved = moved + jnp.where(tail > 0, tail * rest, 0) + shared.centre
    is_asked = is_asked[:, None, None]
    return jnp.where(is_asked, logs, carried), jnp.where(is_asked, shared.mean, moved)


def _surrogate(
    shared: _Shared,
    j: Int[Array, ""],
    moved: Float[Array, "b d"],
    variance: Float[Array, ""],
) -> tuple[Float[Array, "b d"], Float[Array, "b k"], Float[Array, " b"]]:
    """The surrogate's mean, the new weights of the rows of the pool and the tail's mass.

    Args:
        shared: the pool.
        j: which row of the segment.
        moved: how far from there.
        variance: σ².
    """
    y, centre, logs, mean = shared.y, shared.centre, shared.logs[j], shared.mean[j]
    old = jnp.exp(logs)
    held = jnp.sum(old, axis=1)
    tail = 1 - held
    has_tail = tail > _NO_TAIL * jnp.finfo(y.dtype).eps
    along = jnp.einsum("bkd,bd->bk", y, moved, precision=_HIGHEST)
    # t·Δ from D = Σ_H w y + τ t, all about the centre.
    rest = jnp.sum((mean - centre) * moved, axis=1) - jnp.sum(old * along, axis=1)
    safe = jnp.where(has_tail, tail, 1)
    far = jnp.where(has_tail, jnp.log(safe) + rest / safe / variance, -jnp.inf)
    new = logs + along / variance
    peak = jnp.maximum(jnp.max(new, axis=1), far)
    new, far = jnp.exp(new - peak[:, None]), jnp.exp(far - peak)
    mass = jnp.sum(new, axis=1) + far
    new, far = new / mass[:, None], far / mass
    # Without a tail the head holds all, but for rounding.
    share = jnp.where(has_tail, far / safe, 1)
    base = jnp.where(has_tail, 1, 1 / held)
    change = new - old * (share * base)[:, None]
    # The same number twice gives the same mean.
    is_still = jnp.all(moved == 0, axis=1)
    shift = jnp.einsum("bk,bkd->bd", change, y, precision=_HIGHEST)
    shift = shift + (share - 1)[:, None] * (mean - centre)
    return mean + jnp.where(is_still[:, None], 0, shift), new, far


def _pooled(
    heads: Heads, known: Int[Array, "b m"], count: int
) -> tuple[Int[Array, "b pool"], Float[Array, "b pool"]]:
    """Distinct rows of the data for a segment, and their largest log weights, -inf if unused.

    The heaviest row of every state and those that are `known` come first and have no bound, then
    the others by their largest weight at any state.
    """
    size, b, k = heads.rows.shape
    heaviness = -heads.log_weights
    # Where nothing was evaluated nothing weighs.
    first = jnp.where(heaviness[:, :, 0] < jnp.inf, -jnp.inf, jnp.inf)
    heaviness = heaviness.at[:, :, 0].set(first)

    def flat(x: Array) -> Array:
        return x.swapaxes(0, 1).reshape(b, size * k)

    numbers = jnp.concatenate([known, flat(heads.rows)], axis=1)
    order = jnp.concatenate([jnp.full(known.shape, -jnp.inf), flat(heaviness)], axis=1)
    numbers, order = jax.lax.sort((numbers, order.astype(heaviness.dtype)), num_keys=2)
    is_new = jnp.pad(numbers[:, 1:] != numbers[:, :-1], [(0, 0), (1, 0)], constant_values=True)
    order = jnp.where(is_new, order, jnp.inf)
    missing = max(0, count - order.shape[1])
    order = jnp.pad(order, [(0, 0), (0, missing)], constant_values=jnp.inf)
    numbers = jnp.pad(numbers, [(0, 0), (0, missing)])
    order, place = jax.lax.top_k(-order, count)
    return jnp.take_along_axis(numbers, place, axis=1), order


def _carry(
    rows: Steps,
    start: Int[Array, ""],
    before: tuple[Float[Array, "h b d"], Float[Array, "g b d"]],
    line: tuple[Float[Array, "r1 b d"], Float[Array, "r b d"]],
) -> Carry:
    """What the recursion carries along before a row."""

    def latest(values: Array, before: Array) -> Array:
        whole = jnp.concatenate([before[::-1], values])
        return whole[start + len(before) - 1 - jnp.arange(len(before))]

    x, outputs = line
    z = jax.lax.dynamic_index_in_dim(x, start, keepdims=False)
    clipped = None if rows.clip is None else jnp.zeros(len(z), jnp.int32)
    return Carry(z, latest(x[:-1], before[0]), latest(outputs, before[1]), clipped)
