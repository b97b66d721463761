"""Parallel sampling: the states of a block of rows are improved together, sweep by sweep.

A sweep evaluates the denoiser at all states of a block at once, and redoes the recursion of the
method's table with these outputs (Picard), or with what follows from them (`surrogate`). Its fixed
point is the sequential trajectory with the same noise.
The first k states are right after k sweeps at the latest; mostly all are right much sooner
(Shih et al., "Parallel sampling of diffusion models", arXiv 2305.16317; Chen et al., arXiv
2405.15986). Every sample converges on its own, so it does not depend on the batch.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, Int, Key

from gdiff.denoiser import Denoiser, headed
from gdiff.parallel.mesh import BATCH
from gdiff.sampler.drivers import surrogate
from gdiff.sampler.drivers.recursion import earlier, trajectory
from gdiff.sampler.drivers.rows import Carry, excess, noise_of
from gdiff.sampler.drivers.surrogate import Heads
from gdiff.sampler.steps import Steps

# States of one call of the denoiser, on each device along the axis `batch`.
POINTS = 64


class Setting(NamedTuple):
    """What is compiled into the programs.

    Attributes:
        keeps_score: whether a sweep keeps the last score, and not the denoiser's output.
        mesh: the devices; None for one.
        head: rows of the data that a surrogate sweep keeps of every posterior; 0 for Picard sweeps.
        pool: rows of the data that it weighs at a state.
    """

    keeps_score: bool
    mesh: Mesh | None
    head: int = 0
    pool: int = 0

    @property
    def devices(self) -> int:
        """How many share the states of a call."""
        return 1 if self.mesh is None else self.mesh.shape[BATCH]

    def placed(self, x: Array, *spec: Any) -> Array:
        """`x` laid out over the mesh; in full on every device where it cannot be split evenly."""
        if self.mesh is None:
            return x
        if spec and x.shape[len(spec) - 1] % self.devices:
            spec = ()
        return jax.lax.with_sharding_constraint(x, NamedSharding(self.mesh, PartitionSpec(*spec)))

    def flat(self, x: Array | None) -> Array | None:
        """[r, b, *event] → [r, b, d], split over the devices."""
        return None if x is None else self.split(x.reshape(*x.shape[:2], math.prod(x.shape[2:])))

    def split(self, x: Float[Array, "r b d"]) -> Float[Array, "r b d"]:
        """Split over the devices by coordinates; by samples where surrogates take whole points."""
        return self.placed(x, None, *((BATCH,) if self.head else (None, BATCH)))


class Block(eqx.Module):
    """The rows of a block, padded.

    Attributes:
        rows: of the table; those that do not count are zeros.
        count: [] how many count.
        scale: [r] √(1 + sigma²) of the state after each row.
    """

    rows: Steps
    count: Int[Array, ""]
    scale: Float[Array, " r"]


class Iterate(NamedTuple):
    """All states of a block between two sweeps; rows number them.

    Attributes:
        x: [r + 1, b, d] states; the first one is given.
        kept: [r, b, d] what the recursion took for the denoiser: D, or D - x for the score.
        before: [h, b, d] states before the block, latest first.
        outputs: [h, b, d] denoiser outputs before the block, latest first.
        noise: [r, b, d] that each row adds; None if there is none.
        point: [r, b, d] that is added before an evaluation; None if there is none.
        base: [b] rows that have converged.
        gave_up: [b] whether only the next row is evaluated in a sweep.
        sweeps: [b] sweeps that a sample took part in.
        evaluations: [b] states that were evaluated.
        residual: [b] largest change of a state that was accepted for changing little.
        heads: of all posteriors, for surrogate sweeps; None for Picard sweeps.
    """

    x: Float[Array, "r1 b d"]
    kept: Float[Array, "r b d"]
    before: Float[Array, "h b d"]
    outputs: Float[Array, "h b d"]
    noise: Float[Array, "r b d"] | None
    point: Float[Array, "r b d"] | None
    base: Int[Array, " b"]
    gave_up: Bool[Array, " b"]
    sweeps: Int[Array, " b"]
    evaluations: Int[Array, " b"]
    residual: Float[Array, " b"]
    heads: Heads | None = None


@eqx.filter_jit
def begin(
    setting: Setting,
    guess: Denoiser | None,
    block: Block,
    carry: Carry,
    keys: Key[Array, " b"] | None,
) -> Iterate:
    """The first guess of all states of a block.

    Args:
        setting: of the driver.
        guess: denoiser of the guess; None repeats the state.
        block: its rows.
        carry: before them.
        keys: of the samples' noise; None for a method without noise.
    """
    rows, b = block.rows, len(carry.z)
    noise = point = None
    if keys is not None:
        noise, point = jax.vmap(lambda row: noise_of(row, keys, carry.z))(rows)

    def follow(carry: Carry, at: tuple) -> tuple[Carry, tuple[Array, Array]]:
        row, noise, point = at
        z = carry.z if point is None else carry.z + point
        mean = _guessed(setting, guess, z, row.sigma)
        carry = carry.advanced(row, mean, noise)
        return carry, (carry.z, mean)

    x = outputs = jnp.broadcast_to(carry.z, (len(rows.sigma), *carry.z.shape))
    if guess is not None:
        # Rows of padding have no noise level.
        inside = jnp.where(rows.sigma > 0, rows.sigma, 1)
        rows = eqx.tree_at(lambda rows: rows.sigma, rows, inside)
        _, (x, outputs) = jax.lax.scan(follow, carry, (rows, noise, point))
    x = jnp.concatenate([carry.z[None], x])
    heads = Heads.empty(setting.flat(x[:-1]), setting.head) if setting.head else None
    zeros = jnp.zeros(b, jnp.int32)
    return Iterate(
        x=setting.flat(x),
        kept=setting.flat(outputs - x[:-1] if setting.keeps_score else outputs),
        before=setting.flat(carry.states),
        outputs=setting.flat(carry.outputs),
        noise=setting.flat(noise),
        point=setting.flat(point),
        base=zeros,
        gave_up=jnp.zeros(b, bool),
        sweeps=zeros,
        evaluations=zeros,
        residual=jnp.zeros(b, carry.z.dtype),
        heads=heads,
    )


class Fixed(NamedTuple):
    """What sweeps do not change.

    Attributes:
        setting: of the driver.
        denoiser: of the states.
        block: their rows.
        tolerance: [] largest change of a state that has converged; a negative one accepts all.
        asked: [r] rows whose states are evaluated, if they have not converged. Without all of them
            no state is accepted for changing little.
        event: shape of a point.
        far: denoiser after which the tails of surrogates move; None keeps them.
    """

    setting: Setting
    denoiser: Denoiser
    block: Block
    tolerance: Float[Array, ""]
    asked: Bool[Array, " r"]
    event: tuple[int, ...]
    far: Denoiser | None = None


# For the host, by samples [b]: rows that have converged, sweeps, and the first row whose new state
# is not finite, the number of rows if there is none.
News = tuple[Array, Array, Array]


@eqx.filter_jit(donate="all-except-first")
def sweep(fixed: Fixed, iterate: Iterate) -> tuple[Iterate, News]:
    """Evaluate the states that have not converged, and redo the recursion; `iterate` is used up."""
    setting, rows = fixed.setting, fixed.block.rows

    def ask(z: Array, x: Array, sigma: Array) -> Array:
        mean = fixed.denoiser(z.reshape(-1, *fixed.event), sigma).mean.reshape(z.shape)
        return mean - x if setting.keeps_score else mean

    kept = _evaluated(fixed, ask, iterate, iterate.kept)
    iterate = iterate._replace(kept=kept)
    return _judged(fixed, iterate, _recursion(setting, rows, iterate))


@eqx.filter_jit(donate="all-except-first")
def evaluate(fixed: Fixed, iterate: Iterate) -> Iterate:
    """The first half of a surrogate sweep: new heads of states that have not converged."""
    setting, score = fixed.setting, headed(fixed.denoiser)

    def ask(z: Array, _: Array, sigma: Array) -> tuple[Array, ...]:
        posterior, head = score.heads(z.reshape(-1, *fixed.event), sigma, setting.head)
        return posterior.mean.reshape(z.shape), posterior.trace_cov[:, None], *head

    is_active = _active(fixed.block, iterate)[:, :, None]
    at = jnp.where(is_active, iterate.x[:-1], iterate.heads.at)
    found = _evaluated(fixed, ask, iterate, iterate.heads[1:])
    return iterate._replace(heads=Heads(at, *found))


@eqx.filter_jit(donate="all-except-first")
def follow(fixed: Fixed, iterate: Iterate) -> tuple[Iterate, News]:
    """The second half: the recursion with the surrogate."""
    block = fixed.block

    def far(z: Array, sigma: Array) -> Array:
        return fixed.far(z.reshape(-1, *fixed.event), sigma).mean.reshape(z.shape)

    x, outputs = surrogate.recursion(
        headed(fixed.denoiser),
        None if fixed.far is None else far,
        (block.rows, block.count),
        iterate.heads,
        fixed.asked,
        jnp.minimum(jnp.min(iterate.base), block.count),
        (iterate.before, iterate.outputs),
        (iterate.noise, iterate.point),
        (iterate.x, iterate.kept),
        fixed.setting.pool,
    )
    return _judged(fixed, iterate._replace(kept=outputs), x[1:])


def _active(block: Block, iterate: Iterate) -> Bool[Array, "r b"]:
    """Which states are evaluated in a sweep."""
    row = jnp.arange(len(block.rows.sigma))[:, None]
    return (iterate.base <= row) & (row < _limit(block, iterate))


def _limit(block: Block, iterate: Iterate) -> Int[Array, " b"]:
    """The row before which a sweep ends."""
    return jnp.where(iterate.gave_up, jnp.minimum(iterate.base + 1, block.count), block.count)


def _judged(fixed: Fixed, iterate: Iterate, x: Float[Array, "r b d"]) -> tuple[Iterate, News]:
    """With new states x after all rows, and which of them have converged."""
    block, tolerance, count = fixed.block, fixed.tolerance, len(fixed.block.rows.sigma)
    row = jnp.arange(count)[:, None]
    is_active, limit = _active(block, iterate), _limit(block, iterate)
    is_asked = is_active & fixed.asked[:, None]
    change = jnp.sqrt(jnp.mean((x - iterate.x[1:]) ** 2, axis=2)) / block.scale[:, None]
    is_right = (change <= tolerance) & jnp.all(fixed.asked)
    is_right |= (row < iterate.base) | (tolerance < 0)
    leading = jnp.sum(jnp.cumprod(is_right & (row < limit), axis=0), axis=0, dtype=jnp.int32)
    # The state after the last right one comes from a right output.
    base = jnp.minimum(jnp.maximum(leading, iterate.base) + 1, limit)
    is_broken = ~jnp.all(jnp.isfinite(x), axis=2) & is_active
    is_taken = is_active & (row > iterate.base) & (row < leading)
    residual = jnp.max(jnp.where(is_taken, change, 0), axis=0, initial=0)
    sweeps = iterate.sweeps + (iterate.base < block.count)
    iterate = iterate._replace(
        x=jnp.concatenate([iterate.x[:1], x]),
        base=base,
        sweeps=sweeps,
        evaluations=iterate.evaluations + jnp.sum(is_asked, axis=0, dtype=jnp.int32),
        residual=jnp.maximum(residual, iterate.residual),
    )
    return iterate, (base, sweeps, jnp.min(jnp.where(is_broken, row, count), axis=0))


@eqx.filter_jit
def finish(setting: Setting, block: Block, iterate: Iterate, carry: Carry) -> Carry:
    """After the block; `carry` is what it began with, for its shapes and its count of clips."""
    rows, end = block.rows, block.count
    outputs = iterate.kept + (iterate.x[:-1] if setting.keeps_score else 0)

    def latest(values: Array, before: Array, last: Array, like: Array) -> Array:
        line = jnp.concatenate([before[::-1], values])
        places = last + len(before) - jnp.arange(len(like))
        return line[places].reshape(like.shape)

    clipped = carry.clipped
    if clipped is not None:
        is_clipped = _excesses(setting, rows, iterate)[1]
        counts = jnp.arange(len(rows.sigma))[:, None] < end
        clipped = clipped + jnp.sum(is_clipped & counts, axis=0, dtype=jnp.int32)
    # The last state is no row's own: rows begin at states.
    z = latest(iterate.x, iterate.before, end, carry.z[None])[0]
    states = latest(iterate.x, iterate.before, end - 1, carry.states)
    return Carry(z, states, latest(outputs, iterate.outputs, end - 1, carry.outputs), clipped)


def _guessed(
    setting: Setting, guess: Denoiser, z: Float[Array, "b *event"], sigma: Float[Array, ""]
) -> Float[Array, "b *event"]:
    """The guess's output for all samples, as many as the devices want."""
    b = len(z)
    padding = [(0, -b % setting.devices)] + [(0, 0)] * (z.ndim - 1)
    z = setting.placed(jnp.pad(z, padding, mode="edge"), BATCH)
    return setting.placed(guess(z, jnp.full(len(z), sigma)).mean[:b])


def _evaluated(
    fixed: Fixed, ask: Callable[[Array, Array, Array], Any], iterate: Iterate, old: Any
) -> Any:
    """`old`, new where active; a fixed number of states at a time, and none of the others.

    States come row by row, so that those of a call, on each device, have as few and as near
    noise levels as they can: a denoiser may do for all of them what the dearest one needs.

    Args:
        fixed: setting and rows.
        ask: what is to be known of points [p, d] of states [p, d] at levels [p].
        iterate: the states.
        old: [r, b, …] a tree of what is known so far.
    """
    setting, sigma = fixed.setting, fixed.block.rows.sigma
    is_active = _active(fixed.block, iterate) & fixed.asked[:, None]
    (count, b), d = is_active.shape, iterate.x.shape[2]
    x = iterate.x[:-1].reshape(count * b, d)
    points = x if iterate.point is None else x + iterate.point.reshape(count * b, d)
    size = min(POINTS, -(-count * b // setting.devices)) * setting.devices
    order = jnp.argsort(~is_active.reshape(-1), stable=True)
    total = jnp.sum(is_active)
    order = jnp.pad(order, (0, -len(order) % size))

    def part(i: Array, known: Any) -> Any:
        counts = i * size + jnp.arange(size) < total
        # What the last part lacks repeats its last state: others are of other levels, or may be
        # hard to evaluate.
        chosen = jax.lax.dynamic_slice_in_dim(order, i * size, size)
        chosen = jnp.where(counts, chosen, order[total - 1])
        new = ask(setting.placed(points[chosen], BATCH), x[chosen], sigma[chosen // b])
        place = jnp.where(counts, chosen, count * b)
        return jax.tree.map(lambda old, new: old.at[place].set(new, mode="drop"), known, new)

    flat = jax.tree.map(lambda old: old.reshape(count * b, -1), old)
    found = jax.lax.fori_loop(0, -(-total // size), part, flat)
    return jax.tree.map(lambda new: setting.split(new.reshape(count, b, -1)), found)


def _recursion(setting: Setting, rows: Steps, iterate: Iterate) -> Float[Array, "r b d"]:
    """New states after all rows."""
    weights, outputs = rows.a, iterate.outputs
    if setting.keeps_score:
        # D changes with its own state: the weights of outputs go to states too.
        weights = weights.at[:, : rows.b.shape[1]].add(rows.b)
        outputs = outputs - iterate.before[: len(outputs)]
    lines = earlier(iterate.kept, outputs)
    forces = sum(rows.b[:, n, None, None] * line for n, line in enumerate(lines))
    if rows.clip is not None:
        forces = forces - _excesses(setting, rows, iterate)[0]
    if iterate.noise is not None:
        forces = forces + iterate.noise
    start = jnp.concatenate([iterate.x[:1], iterate.before])
    return trajectory(weights, start, forces)


def _excesses(setting: Setting, rows: Steps, iterate: Iterate) -> tuple[Array, Array]:
    """What is too long in every row [r, b, d], and whether it is [r, b]; of the states given."""
    x = iterate.x[:-1]
    outputs = iterate.kept + (x if setting.keeps_score else 0)
    states = jnp.stack(earlier(x, iterate.before), axis=1)
    outputs = jnp.stack(earlier(outputs, iterate.outputs), axis=1)
    return jax.vmap(excess)(rows.clip, states, outputs)
