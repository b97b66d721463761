from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gdiff import rng
from gdiff.dataset import Dataset
from gdiff.dataset.placed import Placed
from gdiff.dataset.toy import Moons, TwoPoints
from gdiff.errors import UserError
from gdiff.prior import flow
from gdiff.prior.couplings import Couplings
from gdiff.prior.flow import Flow
from gdiff.prior.gaussian import Gaussian
from gdiff.prior.gmm import GMM
from gdiff.progress import Progress
from gdiff.runtime import Runtime

SIGMA = 0.3
# Over a single Gaussian, so that the couplings have something left to do.
SMALL = Flow(components=1, couplings=4, width=64, steps=600, learning_rate=5e-3, batch_size=256)

TINY = Flow(components=1, couplings=2, width=8, steps=100, batch_size=64, learning_rate=0.02)


@pytest.fixture(scope="module")
def mesh():
    # One of the eight devices: what each of them compiles would take most of the time.
    return Runtime(mesh="batch:1").start()


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GDIFF_CACHE", str(tmp_path))


@pytest.fixture(scope="module")
def moons():
    return Moons().load()


@pytest.fixture(scope="module")
def trained(moons, mesh, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GDIFF_CACHE", str(tmp_path_factory.mktemp("cache")))
        return SMALL.fit(Placed(moons, mesh), SIGMA)


@eqx.filter_jit
def log_prob(prior, z):
    return prior.log_prob(z)


@eqx.filter_jit
def sample(prior, keys):
    return prior.sample(keys)


def keys(count):
    return rng.sample_keys(0, rng.Role.PRIOR, np.arange(count))


def noised(data, count, seed=5):
    random = np.random.default_rng(seed)
    rows = data.rows(random.integers(0, len(data), count))
    return (rows + SIGMA * random.standard_normal(rows.shape)).astype(np.float32)


def random_couplings(rank):
    start = Couplings.identity(count=6, rank=rank, width=16, seed=0)
    random = np.random.default_rng(1)
    return jax.tree.map(
        lambda leaf: (
            leaf if leaf.dtype == bool else leaf + 0.1 * random.standard_normal(leaf.shape)
        ),
        start,
    )


@pytest.mark.parametrize("rank", [2, 5, 8])
def test_couplings_are_inverted(rank):
    couplings = random_couplings(rank)
    u = jnp.asarray(np.random.default_rng(0).standard_normal((64, rank)), jnp.float32)
    image, _ = couplings.forward(u)
    assert np.abs(image - u).max() > 0.5
    assert np.allclose(couplings.inverse(image), u, atol=1e-5)


def test_volume_of_couplings_is_the_log_determinant_of_their_jacobian():
    couplings = random_couplings(5)
    u = jnp.asarray(np.random.default_rng(0).standard_normal((4, 5)), jnp.float32)
    jacobians = jax.vmap(jax.jacobian(lambda row: couplings.forward(row[None])[0][0]))(u)
    expected = np.linalg.slogdet(np.asarray(jacobians, np.float64))[1]
    assert np.allclose(couplings.forward(u)[1], expected, atol=1e-5)


def test_all_coordinates_move_and_condition_others():
    couplings = random_couplings(7)
    u = np.random.default_rng(0).standard_normal((1, 7)).astype(np.float32)
    jacobian = np.asarray(jax.jacobian(lambda row: couplings.forward(row[None])[0][0])(u[0]))
    assert np.all(jacobian != 0)


def test_density_on_moons_integrates_to_one(trained):
    axis = np.linspace(-4, 4, 161)
    z = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2).astype(np.float32)
    mass = np.exp(np.asarray(log_prob(trained, z), np.float64)).sum() * (axis[1] - axis[0]) ** 2
    assert np.isclose(mass, 1, atol=1e-3)


def test_flow_beats_the_gaussian_on_moons(trained, moons, mesh):
    z = noised(moons, 8192)
    gain = np.asarray(
        log_prob(trained, z) - log_prob(Gaussian().fit(Placed(moons, mesh), SIGMA), z)
    )
    # The Gaussian is .050 nats from the noised data, by the exact density.
    assert 0.035 < gain.mean() < 0.052


def test_draws_follow_the_density(trained):
    # E_q[f / q] = ∫ f for draws from q: here f is a normal density narrower than q.
    z = np.asarray(sample(trained, keys(20_000)), np.float64)
    density = np.exp(-0.5 * (z**2).sum(1) / 0.3**2) / (2 * np.pi * 0.3**2)
    ratio = density / np.exp(np.asarray(log_prob(trained, z.astype(np.float32)), np.float64))
    assert abs(ratio.mean() - 1) < 4 * ratio.std() / np.sqrt(len(ratio))


def test_a_draw_depends_on_its_own_key_only(trained):
    together, alone = sample(trained, keys(8)), sample(trained, keys(8)[5:6])
    assert np.allclose(together[5], alone[0], atol=1e-6)
    assert not np.allclose(together[4], together[5])


@pytest.mark.slow
def test_trained_flow_is_reused(moons, mesh, monkeypatch):
    spec = TINY
    first = spec.fit(Placed(moons, mesh), SIGMA)

    def fail(*args):
        raise AssertionError("trained again")

    monkeypatch.setattr(flow, "_trained", fail)
    z = noised(moons, 16)
    assert np.array_equal(log_prob(spec.fit(Placed(moons, mesh), SIGMA), z), log_prob(first, z))
    with jax.enable_x64(True):  # measured in double precision, it is the same flow
        double = log_prob(spec.fit(Placed(moons, mesh), SIGMA), z.astype(np.float64))
    assert double.dtype == np.float64
    assert np.allclose(double, log_prob(first, z), atol=1e-4)
    for other, sigma in ((spec, 2 * SIGMA), (replace(spec, seed=1), SIGMA)):
        with pytest.raises(AssertionError, match="trained again"):
            other.fit(Placed(moons, mesh), sigma)


def test_training_depends_on_nothing_but_data_and_options(moons, mesh, tmp_path, monkeypatch):
    once = TINY.fit(Placed(moons, mesh), SIGMA)
    monkeypatch.setenv("GDIFF_CACHE", str(tmp_path / "other"))
    assert eqx.tree_equal(TINY.fit(Placed(moons, mesh), SIGMA), once)


@pytest.mark.slow
def test_training_that_gains_nothing_ends_early_and_leaves_the_mixture(mesh, monkeypatch):
    # Two rows, one of them held out: what fits the first is bad for the other.
    data = Dataset("pair", np.array([[0.0, 0.0, 1.0], [0.0, 3.0, 0.0]], np.float32))
    reached = []
    monkeypatch.setattr(Progress, "reach", lambda self, done, note="": reached.append(done))
    spec = Flow(couplings=2, width=8, batch_size=8, steps=10_000, patience=200, learning_rate=0.01)
    found = spec.fit(Placed(data, mesh), 0.1)
    assert max(reached) < 1000
    z = noised(data, 16)
    assert np.allclose(
        log_prob(found, z), log_prob(GMM().fit(Placed(data, mesh), 0.1), z), rtol=1e-4
    )


def test_on_a_line_the_flow_is_the_mixture(mesh):
    data, z = TwoPoints().load(), np.linspace(-2, 2, 9, dtype=np.float32)[:, None]
    found = Flow(components=2).fit(Placed(data, mesh), SIGMA)
    expected = GMM(components=2).fit(Placed(data, mesh), SIGMA)
    assert np.allclose(log_prob(found, z), log_prob(expected, z), atol=1e-4)
    assert sample(found, keys(5)).shape == (5, 1)


@pytest.mark.slow
def test_coordinates_beyond_the_rank_stay_gaussian(mesh):
    data = Dataset("images", np.random.default_rng(0).integers(0, 255, (200, 3, 3, 1), np.uint8))
    spec = replace(TINY, rank=4)
    found = spec.fit(Placed(data, mesh), 30.0)
    z = sample(found, keys(4))
    assert z.shape == (4, 3, 3, 1)
    tail = found.whole.clean.eigenvectors[:, 4:]
    moved = z + jnp.reshape(tail @ jnp.ones(5), (3, 3, 1))
    gaussian = Gaussian().fit(Placed(data, mesh), 30.0)
    change = log_prob(found, moved) - log_prob(found, z)
    assert np.allclose(change, log_prob(gaussian, moved) - log_prob(gaussian, z), atol=1e-3)


def test_one_row_is_refused(mesh):
    with pytest.raises(UserError, match="prior=flow needs at least 2 points"):
        Flow().fit(Placed(Dataset("one", np.zeros((1, 2), np.float32)), mesh), SIGMA)


def test_more_components_than_points_are_refused(mesh):
    with pytest.raises(UserError, match=r"prior\.components=3"):
        Flow(components=3).fit(Placed(TwoPoints().load(), mesh), SIGMA)


@pytest.mark.parametrize(
    "options",
    [
        {"couplings": 0},
        {"width": 0},
        {"rank": 0},
        {"components": 0},
        {"batch_size": 0},
        {"steps": 0},
        {"patience": 0},
        {"learning_rate": 0.0},
        {"seed": -1},
    ],
)
def test_impossible_options_are_refused(options):
    (name,) = options
    with pytest.raises(UserError, match=f"{name}="):
        Flow(**options)
