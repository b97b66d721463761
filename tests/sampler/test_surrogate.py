"""Surrogate sweeps against the sequential engine, which they must repeat."""

from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gdiff import rng
from gdiff.dataset.digits import Digits
from gdiff.dataset.placed import Placed
from gdiff.denoiser import Head, Posterior
from gdiff.errors import UserError
from gdiff.parallel.mesh import make_mesh
from gdiff.sampler.blocks import Blocks
from gdiff.sampler.drivers import picard
from gdiff.sampler.drivers.parallel import ParallelEngine
from gdiff.sampler.drivers.sequential import Engine
from gdiff.sampler.methods.ancestral import Ancestral
from gdiff.sampler.methods.ddim import DDIM
from gdiff.sampler.steps import joined
from gdiff.score.exact import Exact

from .methods import METHODS

POINTS = np.random.default_rng(0).standard_normal((40, 3))
B, STEPS = 4, 3


class Few(eqx.Module):
    """The exact posterior of a few points, and its heads."""

    points: jax.Array

    def __call__(self, z, sigma):
        weights = jax.nn.softmax(self.logits(z, sigma), axis=1)
        mean = weights @ self.points
        trace = weights @ jnp.sum(self.points**2, axis=1) - jnp.sum(mean**2, axis=1)
        return Posterior(mean, trace)

    def logits(self, z, sigma):
        distance = jnp.sum((z[:, None] - self.points) ** 2, axis=2)
        return -distance / (2 * sigma[:, None] ** 2)

    def heads(self, z, sigma, k):
        log_weights = jax.nn.log_softmax(self.logits(z, sigma), axis=1)
        best, rows = jax.lax.top_k(log_weights, min(k, len(self.points)))
        missing = [(0, 0), (0, k - best.shape[1])]
        head = Head(jnp.pad(rows, missing), jnp.pad(best, missing, constant_values=-jnp.inf))
        return self(z, sigma), head

    def take(self, index):
        return self.points[index]


@pytest.fixture(autouse=True, scope="module")
def _in_double_precision():
    with jax.enable_x64(True):
        yield


def start(b=B):
    keys = rng.sample_keys(0, rng.Role.STEP, jnp.arange(b))
    return 20.0 * jax.random.normal(jax.random.key(0), (b, 3), jnp.result_type(float)), keys


def all_methods():
    """One table in which every method makes some steps, each in a block of its own."""
    grid, tables = np.geomspace(20.0, 0.02, STEPS * len(METHODS) + 1), []
    for i, method in enumerate(METHODS.values()):
        part = method.table(grid[STEPS * i : STEPS * (i + 1) + 1])
        number = part.step + STEPS * i
        draws = tuple((0, n) for n in range(2))
        tables.append(replace(part, step=number, noise=number, draws=draws))
    ends = np.cumsum([len(table.sigma) for table in tables])
    return Blocks(joined(tables), tuple(ends.tolist()))


@pytest.fixture(scope="module")
def swept():
    """What the engine gives for all methods; its states after every sweep, by block; the truth."""
    cut, sweeps = all_methods(), []
    # A surrogate that weighs some of the rows only.
    driving = DDIM(block_size="all", tolerance=0.0, head=16)
    engine = ParallelEngine(Few(jnp.array(POINTS)), cut, driving, make_mesh("batch:1"))
    old = picard.follow

    def spy(fixed, iterate):
        is_first = not np.any(iterate.sweeps)
        iterate, news = old(fixed, iterate)
        sweeps.extend([[]] if is_first else [])
        sweeps[-1].append(np.asarray(iterate.x))
        return iterate, news

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(picard, "follow", spy)
        z, keys = start()
        got = engine.sample(z, keys)
    states = []
    whole = Engine(Few(jnp.array(POINTS)), cut.steps)
    report = lambda _, z: states.append(np.array(z))  # noqa: E731
    expected = whole.sample(z, keys, report=report, stops=frozenset(range(cut.steps.count + 1)))
    return engine, cut, np.asarray(got), np.asarray(expected), sweeps, [np.asarray(z), *states]


def test_every_method_ends_where_single_steps_do(swept):
    engine, _, got, expected, *_ = swept
    assert np.abs(got - expected).max() < 1e-10
    assert not engine.account["unconverged"].any()
    assert np.all(engine.account["residual"] < 1e-12)


def test_r_states_are_exact_after_r_rounds(swept):
    _, cut, _, _, sweeps, states = swept
    starts, ends = (0, *cut.ends), cut.steps.ends
    seen = 0
    for block, found in enumerate(sweeps):
        for rounds, x in enumerate(found, 1):
            for step in np.flatnonzero((starts[block] < ends) & (ends <= starts[block] + rounds)):
                if ends[step] <= cut.ends[block]:
                    assert np.abs(x[ends[step] - starts[block]] - states[step]).max() < 1e-10
                    seen += 1
    assert seen > 2 * len(METHODS)


@pytest.mark.parametrize("head", [96, 16])
def test_the_first_round_asks_at_some_rows_only(head):
    grid, (z, keys) = np.geomspace(4.0, 0.4, 24), start()
    driving = Ancestral(block_size="all", tolerance=0.0, head=head, start="constant")
    # So few that the least of pools holds them all.
    score, states, seen = Few(jnp.array(POINTS[:24])), [], []
    cut = driving.blocks(grid)
    report = lambda _, z: states.append(np.array(z))  # noqa: E731
    whole = Engine(score, cut.steps)
    whole.sample(z, keys, report=report, stops=frozenset(range(len(grid))))
    engine = ParallelEngine(score, cut, driving, make_mesh("batch:1"))
    old = picard.follow

    def spy(fixed, iterate):
        iterate, news = old(fixed, iterate)
        seen.append([np.asarray(x) for x in (iterate.x, iterate.evaluations, iterate.base)])
        return iterate, news

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(picard, "follow", spy)
        got = engine.sample(z, keys)
    assert np.abs(got - states[-1]).max() < 1e-10
    # Every other row, and the first state alone is known to be right.
    assert np.all(seen[0][1] == 12)
    assert np.all(seen[0][2] == 1)
    if head == 96:  # all rows are kept: what is carried from row to row is the posterior
        first = seen[0][0][1 : len(grid)]
        assert np.abs(first - np.array(states)).max() < 1e-8


def test_time_between_evaluations_is_on_account(swept):
    engine = swept[0]
    assert engine.account["surrogate_seconds"].shape == (B,)
    assert np.all(engine.account["surrogate_seconds"] > 0)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["ddim", "ancestral"])
def test_a_long_trajectory_takes_few_rounds(method):
    grid = np.append(np.geomspace(20.0, 0.05, 150), 0.0)
    driving = replace(METHODS[method], block_size="all", tolerance=1e-4)
    score, cut, (z, keys) = Few(jnp.array(POINTS)), driving.blocks(grid), start()
    expected = Engine(score, cut.steps).sample(z, keys)

    def rounds(**options):
        engine = ParallelEngine(score, cut, replace(driving, **options), make_mesh("batch:1"))
        assert np.abs(engine.sample(z, keys) - expected).max() < 1e-3
        return engine.account["sweeps"].max()

    # Of all rows the surrogate is the score itself, and the second round confirms the first.
    assert rounds(head=4 * len(POINTS)) == 2
    # Of some, from a poor start and without a mixture, it is still better than none.
    assert rounds(head=16) < rounds(sweep="picard")


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["batch:1", "data:2/batch:2", "batch:4"])
def test_devices_share_the_work(layout):
    data = Digits(subset=64).load()
    mesh, sampler = make_mesh(layout), Ancestral(block_size=6, tolerance=0.0, head=24)
    cut = sampler.blocks(np.append(np.geomspace(20.0, 0.05, 7), 0.0))
    z, keys = 20 * jax.random.normal(jax.random.key(1), (4, 8, 8, 1)), start()[1]
    expected = Engine(Exact().fit(Placed(data, make_mesh("batch:1"))), cut.steps).sample(z, keys)
    got = ParallelEngine(Exact().fit(Placed(data, mesh)), cut, sampler, mesh).sample(z, keys)
    assert np.abs(np.asarray(got) - np.asarray(expected)).max() < 1e-10


def test_large_batches_on_a_cpu_are_told_what_is_faster():
    auto = DDIM(block_size="all")
    assert "sampler.block_size=1 is faster" in auto.doubt(12, 64, "cpu")
    assert "sampler.block_size=1 is faster" in auto.doubt(4, 12288, "cpu")
    assert auto.doubt(4, 3072, "cpu") is None
    assert auto.doubt(1, 2**20, "cpu") is None
    assert auto.doubt(64, 3072, "gpu") is None
    assert DDIM().doubt(64, 3072, "cpu") is None


def test_the_sweep_follows_what_the_score_tells():
    auto = DDIM(block_size="all")
    assert auto.settled(has_heads=True).sweep == "surrogate"
    assert auto.settled(has_heads=True).start == "mixture"
    assert auto.settled(has_heads=False).sweep == "picard"
    assert auto.settled(has_heads=False).start == "wiener"
    by_score = replace(auto, split="score")
    assert by_score.settled(has_heads=True).sweep == "picard"
    with pytest.raises(UserError, match=r"sweep=surrogate needs a score .* sampler.sweep=picard"):
        replace(auto, sweep="surrogate").settled(has_heads=False)
    with pytest.raises(UserError, match="head=0 must be at least 1"):
        replace(auto, head=0)
