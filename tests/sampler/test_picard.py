"""Picard blocks against the sequential engine, which they must repeat."""

import dataclasses
import logging

import fields
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gdiff import rng
from gdiff.dataset.digits import Digits
from gdiff.dataset.placed import Placed
from gdiff.denoiser import Posterior, from_numpy
from gdiff.parallel.mesh import make_mesh
from gdiff.sampler.corrector import corrector
from gdiff.sampler.drivers import parallel, picard
from gdiff.sampler.drivers.parallel import ParallelEngine
from gdiff.sampler.drivers.sequential import Engine
from gdiff.sampler.methods.ancestral import Ancestral
from gdiff.sampler.methods.ddim import DDIM
from gdiff.sampler.methods.exponential import Exponential
from gdiff.score.exact import Exact
from gdiff.score.golden.scan import GoldenScan

from .methods import METHODS, STAGES

# Blocks of up to eight rows, and whole tables of up to sixteen, share their programs.
GRID = np.append(np.geomspace(20.0, 0.05, 7), 0.0)
POINTS = np.random.default_rng(0).standard_normal((7, 3))
B = 4


def denoise(z, sigma):
    """Exact posterior mean of a few points."""
    points = jnp.asarray(POINTS, z.dtype)
    distance = jnp.sum((z[:, None] - points) ** 2, axis=2)
    return Posterior(jax.nn.softmax(-distance / (2 * sigma[:, None] ** 2), axis=1) @ points)


def gaussian(z, sigma):
    """A guess: as if the points were Gaussian."""
    return Posterior(z / (1 + sigma[:, None] ** 2))


def start(b=B, seed=0):
    keys = rng.sample_keys(seed, rng.Role.STEP, jnp.arange(b))
    return 20.0 * jax.random.normal(jax.random.key(seed), (b, 3), jnp.result_type(float)), keys


def engine_of(method, grid=GRID, layout="batch:1", denoiser=denoise, blocks=None, **options):
    sampler = dataclasses.replace(method, **options)
    guess = None if sampler.start == "constant" else gaussian
    cut = sampler.blocks(grid, blocks)
    return ParallelEngine(denoiser, cut, sampler, make_mesh(layout), guess)


def both(method, b=B, grid=GRID, **options):
    """The parallel engine, its samples, and those of the sequential one."""
    z, keys = start(b)
    engine = engine_of(method, grid, **options)
    steps = engine.steps
    denoiser = options.get("denoiser", denoise)
    return engine, engine.sample(z, keys), Engine(denoiser, steps).sample(z, keys)


def slow(*values):
    """One more variant of what others test already; compiling takes all the time."""
    return pytest.param(*values, marks=pytest.mark.slow, id="-".join(map(str, values)))


@pytest.fixture(autouse=True)
def _in_double_precision():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize(
    "name, block",
    # dpmpp_2m looks back on evaluations, too.
    [
        slow(name, 5) if name == "accelerated_ode" else (name, 5 if STAGES[name] == 1 else 4)
        for name in METHODS
    ]
    + [slow("heun", "all"), ("srk", 1)],
)
def test_repeats_the_sequential_engine(name, block):
    _, got, expected = both(METHODS[name], block_size=block, tolerance=0.0)
    assert np.abs(got - expected).max() < 1e-10


OPTIONS = {
    "score": {"split": "score"},
    "constant": {"start": "constant"},
    "score_from_constant": {"split": "score", "start": "constant"},
    "step_by_step": {"max_sweeps": 2},
}


@pytest.mark.parametrize(
    "name, options",
    [("dpmpp_2m", option) for option in OPTIONS]
    # With a clip, and with noise before the evaluation.
    + [("li_cai", "score_from_constant"), slow("srk", "step_by_step")],
)
def test_no_option_changes_the_fixed_point(name, options):
    method = METHODS[name]
    _, got, expected = both(method, block_size=4, tolerance=0.0, **OPTIONS[options])
    assert np.abs(got - expected).max() < 1e-10


@pytest.mark.parametrize("name", [slow("ancestral"), "heun", slow("li_cai")])
def test_k_states_are_exact_after_k_sweeps(name):
    sampler = dataclasses.replace(METHODS[name], block_size="all", tolerance=0.0, start="constant")
    z, keys = start()
    seen = []
    whole = Engine(denoise, sampler.steps(GRID))
    whole.sample(z, keys, report=lambda k, z: seen.append(np.array(z)), stops=frozenset(range(8)))
    engine, old, found = engine_of(sampler), picard.sweep, []

    def spy(fixed, iterate):
        iterate, news = old(fixed, iterate)
        found.append(np.asarray(iterate.x))
        return iterate, news

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(picard, "sweep", spy)
        engine.sample(z, keys)
    ends = engine.steps.ends[1:]
    for sweep, x in enumerate(found, 1):
        for row, exact in zip(ends, seen, strict=True):
            if row <= sweep:
                assert np.abs(x[row] - exact).max() < 1e-10


@pytest.mark.parametrize("name", ["ddim", slow("ancestral"), slow("midpoint")])
def test_takes_fewer_rounds_and_stays_close(name):
    grid = np.append(np.geomspace(20.0, 0.05, 150), 0.0)
    engine, got, expected = both(METHODS[name], grid=grid, block_size="all", tolerance=1e-4)
    account = engine.account
    assert account["sweeps"].max() < engine.steps.evaluations / 3
    assert np.abs(got - expected).max() < 1e-2
    assert account["residual"].max() <= 1e-4
    # Converged states are not evaluated again.
    assert np.all(account["evaluations"] < account["sweeps"][:, 0] * engine.steps.evaluations)
    assert not account["unconverged"].any()


def test_samples_do_not_depend_on_each_other():
    z, keys = start()
    options = {"block_size": 40, "tolerance": 1e-3}
    grid = np.append(np.geomspace(20.0, 0.05, 100), 0.0)
    engine = engine_of(Ancestral(), grid, **options)
    together, account = engine.sample(z, keys), engine.account
    for i in range(B):
        # As many copies as there are samples, for programs are compiled for their number.
        alone = engine.sample(jnp.stack([z[i]] * B), jnp.stack([keys[i]] * B))
        assert np.allclose(alone[0], together[i], rtol=0, atol=1e-12)
        for name, values in engine.account.items():
            assert np.allclose(values[0], account[name][i], atol=1e-12), name


@pytest.mark.parametrize("layout", [slow("data:2/batch:2"), slow("batch:4")])
def test_devices_share_the_states_of_a_single_sample(layout):
    data = Digits(subset=64).load()
    mesh, sampler = make_mesh(layout), Ancestral(block_size=6, tolerance=0.0)
    cut = sampler.blocks(GRID)
    z = 20 * jax.random.normal(jax.random.key(1), (1, 8, 8, 1))
    keys = rng.sample_keys(0, rng.Role.STEP, jnp.arange(1))
    expected = Engine(Exact().fit(Placed(data, make_mesh("batch:1"))), cut.steps).sample(z, keys)
    guess = lambda z, sigma: Posterior(jnp.zeros_like(z))  # noqa: E731
    got = ParallelEngine(Exact().fit(Placed(data, mesh)), cut, sampler, mesh, guess).sample(z, keys)
    assert np.abs(np.asarray(got) - np.asarray(expected)).max() < 1e-4


def test_groups_of_samples_change_nothing(monkeypatch):
    engine, _, expected = both(METHODS["srk"], block_size=5, tolerance=0.0)
    account = engine.account
    monkeypatch.setattr(parallel, "_LARGEST_ARRAY", 2 * 8 * 3)
    engine = engine_of(METHODS["srk"], block_size=5, tolerance=0.0)
    again = engine.sample(*(x[:3] for x in start()))  # two and two, of which one is the same
    assert np.allclose(again, expected[:3], rtol=0, atol=1e-10)
    for name, values in engine.account.items():
        assert values.shape == account[name][:3].shape
        assert np.allclose(values, account[name][:3], atol=1e-10), name


def test_a_fixed_number_of_sweeps_is_made():
    engine, got, expected = both(
        DDIM(), block_size=5, tolerance=None, max_sweeps=3, start="constant"
    )
    assert np.all(engine.account["sweeps"] <= 3)
    assert engine.account["sweeps"].max() == 3
    assert np.isfinite(got).all()
    assert 0 < np.abs(got - expected).max() < 1
    assert engine.account["residual"].max() > 0


def test_what_does_not_converge_goes_on_step_by_step_and_is_reported(caplog):
    with caplog.at_level(logging.WARNING):
        engine, got, expected = both(DDIM(), block_size="all", tolerance=0.0, max_sweeps=3)
    assert "block 1 of 1: 4 of 4 samples had not converged after 3 sweeps" in caplog.text
    assert engine.account["unconverged"].all()
    assert np.allclose(got, expected, atol=1e-4)


def test_a_sweep_that_breaks_is_named_and_the_block_redone(caplog):
    def brittle(z, sigma):
        # Defined where trajectories go, but not where a constant start looks.
        far = jnp.max(jnp.abs(z), axis=1) > 20 * (sigma + 1)
        return Posterior(jnp.where(far[:, None], jnp.nan, denoise(z, sigma).mean))

    with caplog.at_level(logging.WARNING):
        engine, got, expected = both(DDIM(), block_size="all", start="constant", denoiser=brittle)
    assert "sweep 1 of block 1 of 1 (sigma = " in caplog.text
    assert "not finite" in caplog.text
    assert np.allclose(got, expected, atol=1e-3)
    assert engine.account["unconverged"].any()


def test_a_value_that_stays_broken_ends_the_run():
    def broken(z, sigma):
        return Posterior(jnp.where(sigma[:, None] < 1.0, jnp.nan, denoise(z, sigma).mean))

    z, keys = start()
    with pytest.raises(FloatingPointError, match=r"not finite after sweep .* of block .*sigma"):
        engine_of(DDIM(), denoiser=broken, block_size=4).sample(z, keys)


def test_reports_states_within_blocks_and_where_it_is():
    z, keys = start()
    seen, notes = {}, []

    def report(done, z, note=""):
        if z is None:
            notes.append((done, note))
        else:
            seen[done] = np.asarray(z)

    expected = {}
    Engine(denoise, DDIM().steps(GRID)).sample(
        z, keys, report=lambda k, z: expected.update({k: np.asarray(z)}), stops=frozenset({2, 4})
    )
    engine = engine_of(DDIM(), block_size=3, tolerance=0.0)
    engine.sample(z, keys, report=report, stops=frozenset({2, 4}))
    assert {2, 3, 4, 6, 7} <= seen.keys()
    for k in (2, 4, 7):
        assert np.abs(seen[k] - expected[k]).max() < 1e-10
    assert notes[0][1] == "block 1/3, sweep 1"
    assert [done for done, _ in notes] == sorted(done for done, _ in notes)


def test_blocks_of_all_sizes_and_seeds_share_a_program():
    z, keys = start(3)  # as many as in no other test
    engine = engine_of(METHODS["li_cai"], block_size=4)
    engine.compile(z, keys)
    programs = [f._cached._cache_size() for f in (picard.begin, picard.sweep, picard.finish)]
    engine.sample(z, keys)
    engine.sample(*start(3, seed=3))
    assert programs == [
        f._cached._cache_size() for f in (picard.begin, picard.sweep, picard.finish)
    ]


def test_the_states_of_a_call_have_noise_levels_side_by_side(monkeypatch):
    """A denoiser may do for all of them what the dearest level needs."""
    monkeypatch.setattr(picard, "POINTS", 4)
    calls = []

    def spy(z, sigma):
        calls.append(sigma)
        return z / (1 + sigma[:, None] ** 2)

    z, keys = start(1)
    engine = engine_of(DDIM(), denoiser=from_numpy(spy), block_size="all", start="constant")
    engine.sample(z, keys)
    assert len({len(set(sigma)) for sigma in calls}) > 1  # some have fewer states than places
    for sigma in calls:
        level = np.searchsorted(-GRID, -sigma * (1 + 1e-9))
        assert set(np.diff(level)) <= {0, 1}


def test_single_precision_stays_close_on_nearly_all_samples():
    points = jnp.asarray(Digits(subset=300).load().rows(slice(None)).reshape(300, 64), jnp.float32)

    def denoiser(z, sigma):
        distance = jnp.sum((z[:, None] - points) ** 2, axis=2)
        return Posterior(jax.nn.softmax(-distance / (2 * sigma[:, None] ** 2), axis=1) @ points)

    grid = np.append(np.geomspace(20.0, 0.01, 40), 0.0)
    with jax.enable_x64(False):
        z = 20 * jax.random.normal(jax.random.key(0), (100, 64))
        keys = rng.sample_keys(0, rng.Role.STEP, jnp.arange(100))
        engine = engine_of(Ancestral(), grid, denoiser=denoiser, start="constant", block_size="all")
        got = engine.sample(z, keys)
        expected = Engine(denoiser, engine.steps).sample(z, keys)
    error = np.abs(np.asarray(got - expected)).max(axis=1)
    assert np.mean(error < 1e-3) >= 0.99


def test_the_corrector_is_the_two_component_recursion():
    sigma, count, size, friction = 1.7, 6, 0.3, 1.5
    table = corrector(sigma, count, size, friction, step=0, noise=5)
    z, keys = start()
    got = Engine(denoise, table).sample(z, keys)
    draw = lambda n, row: np.asarray(rng.normal(rng.at_step(keys, 5 + row, n), z))  # noqa: E731
    keep = np.exp(-friction * size)
    a = (1 - keep) / friction
    b = (size - a) / friction
    var_u = 2 / friction * (size - 2 * a + (1 - keep**2) / (2 * friction))
    shared, var_v = (1 - keep) ** 2 / friction, 1 - keep**2
    factor = np.linalg.cholesky([[var_u, shared], [shared, var_v]])
    u, v = np.asarray(z) / sigma, draw(2, 0)
    for row in range(count):
        score = np.asarray(denoise(u * sigma, jnp.full(B, sigma)).mean) / sigma - u
        noise = [draw(0, row), draw(1, row)]
        u, v = (
            u + a * v + b * score + factor[0, 0] * noise[0],
            keep * v + a * score + factor[1, 0] * noise[0] + factor[1, 1] * noise[1],
        )
    assert np.abs(got - u * sigma).max() < 1e-10


def test_the_corrector_leads_to_the_law_at_its_level():
    sigma = 0.5
    table = corrector(sigma, 400, 0.2, 2.0, step=0, noise=0)
    keys = rng.sample_keys(0, rng.Role.STEP, jnp.arange(4000))
    z = 3.0 + jnp.zeros((4000, 1))
    got = np.asarray(Engine(gaussian, table).sample(z, keys))
    assert abs(np.mean(got)) < 0.1
    assert np.var(got) == pytest.approx(1 + sigma**2, rel=0.08)


@pytest.mark.parametrize(
    "name, block",
    [
        *[("heun", 4), ("dpmpp_2m", 1)],
        *[slow("ddim", 1), slow("ddim", 4), slow("heun", 1), slow("dpmpp_2m", 4)],
    ],
)
def test_a_corrector_follows_every_block(name, block):
    method = METHODS[name]
    grid = GRID[:-1]
    sampler = dataclasses.replace(method, corrector=3, block_size=block, tolerance=0.0)
    cut = sampler.blocks(grid)
    blocks = -(-6 // block)
    assert cut.steps.evaluations == method.steps(grid).evaluations + 3 * blocks
    assert len(cut.ends) == 2 * blocks
    assert cut.steps.count == 6
    z, keys = start()
    expected = Engine(denoise, cut.steps).sample(z, keys)
    got = ParallelEngine(denoise, cut, sampler, make_mesh("batch:1"), gaussian).sample(z, keys)
    assert np.abs(got - expected).max() < 1e-10


def test_blocks_of_the_schedule_with_their_correctors_are_solved_at_once():
    options = {"corrector": 1, "tolerance": 0.0}
    sampler = Exponential(**options, stochastic=False, block_size="all")
    cut, own = sampler.blocks(GRID[:-1], (3, 5, 6)), (3, 5, 6)
    by_block = dataclasses.replace(sampler, block_size="schedule").blocks(GRID[:-1], own)
    assert cut.ends == (9,)
    assert by_block.ends == (3, 4, 6, 7, 8, 9)
    jax.tree.map(np.testing.assert_array_equal, cut.steps, by_block.steps)
    z, keys = start()
    expected = Engine(denoise, cut.steps).sample(z, keys)
    got = ParallelEngine(denoise, cut, sampler, make_mesh("batch:1"), gaussian).sample(z, keys)
    assert np.abs(got - expected).max() < 1e-10


def test_the_blocks_of_the_schedule_are_used():
    options = {"block_size": "schedule", "tolerance": 0.0, "split": "score", "blocks": (2, 5, 7)}
    engine = engine_of(Exponential(), **options)
    z, keys = start()
    got = engine.sample(z, keys)
    assert engine.account["sweeps"].shape == (B, 3)
    assert np.abs(got - Engine(denoise, engine.steps).sample(z, keys)).max() < 1e-10


@pytest.mark.slow
@pytest.mark.parametrize("method", ["ddim", "ancestral"])
@pytest.mark.parametrize(
    "score",
    [
        *("full", "golden", "golddiff", "pca_local", "pca_local_golden"),
        *("wiener", "patch_ls", "patch_els", "smoothed"),
    ],
)
def test_every_score_is_sampled_as_one_step_after_the_other(score, method):
    from gdiff import config

    with config.composer() as composer:
        experiment = composer.experiment([f"score={score}", f"sampler={method}"])
    mesh = make_mesh("batch:1")
    data = fields.dataset() if score == "golden" else Digits(subset=80).load()
    grid = np.append(np.geomspace(20.0, 0.05, 7), 0.0)
    sampler = dataclasses.replace(experiment.sampler, block_size=5, tolerance=0.0)
    cut = sampler.blocks(grid)
    denoiser = experiment.score.fit(Placed(data, mesh), cut.steps.levels)
    assert isinstance(denoiser, GoldenScan) == (score == "golden")
    z = 20 * jax.random.normal(jax.random.key(0), (3, *data.event_shape), jnp.float64)
    keys = rng.sample_keys(0, rng.Role.STEP, jnp.arange(3))
    expected = Engine(denoiser, cut.steps).sample(z, keys)
    guess = lambda z, sigma: Posterior(jnp.zeros_like(z))  # noqa: E731
    got = ParallelEngine(denoiser, cut, sampler, mesh, guess).sample(z, keys)
    # All queries of a golden call, here of several noise levels, get the dearest one's work.
    assert np.abs(got - expected).max() < (1e-2 if score == "golden" else 1e-10)
