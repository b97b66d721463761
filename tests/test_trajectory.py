import jax.numpy as jnp
import numpy as np
import pytest

from gdiff.clock import Clock
from gdiff.dataset.base import Dataset
from gdiff.dataset.placed import Placed
from gdiff.denoiser import Posterior
from gdiff.errors import UserError
from gdiff.parallel.mesh import make_mesh
from gdiff.prior.standard import Standard
from gdiff.sampler.drivers.sequential import Engine
from gdiff.sampler.methods.ddim import DDIM
from gdiff.trajectory import Batches, Queries, States

GRID = np.array([8.0, 4.0, 2.0, 1.0, 0.0])


def shrink(z, sigma):
    """The denoiser of standard normal data."""
    return Posterior(z / (1 + sigma[:, None] ** 2))


def batches(denoiser=shrink, layout="batch:1"):
    dataset = Dataset("d", np.zeros((2, 3), np.float32))
    engine = Engine(denoiser, DDIM().steps(GRID))
    mesh = make_mesh(layout)
    prior = Standard().fit(Placed(dataset, mesh), GRID[0])
    return Batches(engine, prior, mesh, size=5, seed=0, clock=Clock())


def test_states_are_those_before_each_level_without_the_padding():
    states, reached = States([0, 2, 3], 5), []
    samples, account = batches(layout="batch:4").draw(
        np.arange(5), [states], lambda done, _: reached.append(done)
    )
    z = states.stacked()
    assert z.shape == (3, 5, 3)
    assert samples.shape == (5, 3)
    assert account["seconds"] > 0
    assert (reached[0], reached[-1]) == (0, 4)
    # DDIM keeps (z - D) / sigma, so the last step of a state at GRID[k] can be done by hand.
    np.testing.assert_allclose(samples, z[2] / (1 + GRID[3] ** 2), rtol=1e-6)
    noise = z[1] * (1 - 1 / (1 + GRID[2] ** 2)) / GRID[2]
    np.testing.assert_allclose(z[2], z[1] + (GRID[3] - GRID[2]) * noise, rtol=1e-5)


def test_samples_are_the_same_bits_whatever_is_kept_of_their_way():
    plain, _ = batches().draw(np.arange(5), [], lambda *_: None)
    many = [States([0, 1, 2, 3, 4], 5), States([1], 2)]
    watched, _ = batches().draw(np.arange(5), many, lambda *_: None)
    assert plain.tobytes() == watched.tobytes()
    np.testing.assert_array_equal(many[0].stacked()[-1], plain)
    np.testing.assert_array_equal(many[0].stacked()[1, :2], many[1].stacked()[0])


def test_a_value_that_is_not_finite_is_the_users_mistake_to_mend():
    with pytest.raises(UserError, match=r"not finite after step .*: bring schedule"):
        batches(lambda z, sigma: Posterior(z / 0)).draw(np.arange(5), [], lambda *_: None)


def test_phases_are_timed_and_only_the_first_batch_compiles():
    drawn, compiled = batches(), []
    for first in (0, 5):
        drawn.draw(np.arange(first, first + 5), [], lambda *_: None)
        compiled.append(drawn.clock.seconds["compile"])
    assert set(drawn.clock.seconds) == {"prior", "compile", "sampling"}
    assert compiled[0] == compiled[1]


def test_queries_survive_a_file_and_a_damaged_file_is_none(tmp_path):
    queries = Queries(np.arange(12.0, dtype=np.float32).reshape(2, 3, 2), np.array([2.0, 1.0]))
    path = tmp_path / "queries.npz"
    assert Queries.read(path, queries.sigma, (2,)) is None
    path.write_bytes(queries.to_bytes())
    found = Queries.read(path, queries.sigma, (2,))
    np.testing.assert_array_equal(found.z, queries.z)
    np.testing.assert_array_equal(found.sigma, queries.sigma)
    for keep in (0, 30, 200, len(queries.to_bytes()) - 40):
        path.write_bytes(queries.to_bytes()[:keep])
        assert Queries.read(path, queries.sigma, (2,)) is None


@pytest.mark.parametrize("layout", ["batch:1", "batch:4", "data:2/batch:2"])
def test_a_denoiser_is_asked_at_every_level_with_what_it_gives(layout):
    def denoiser(z, sigma):
        return Posterior(z * sigma[:, None], trace_cov=sigma, error_bound=jnp.abs(z[:, 0]))

    z = np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)
    found = Queries(z, np.array([2.0, 0.5])).ask(denoiser, make_mesh(layout))
    np.testing.assert_allclose(found.mean, z * np.array([2, 0.5])[:, None, None], rtol=1e-6)
    np.testing.assert_allclose(found.error_bound, abs(z[..., 0]), rtol=1e-6)
    assert found.trace_cov is None
    assert found.subset_size is None
