"""A step of training against one that is written by hand, and what it is made of."""

from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.stats import norm

from gdiff.dataset.array import Array
from gdiff.dataset.digits import Digits
from gdiff.dataset.toy import Moons
from gdiff.errors import UserError
from gdiff.network import files
from gdiff.network.denoising import Denoising
from gdiff.network.mlp import MLP
from gdiff.parallel.mesh import make_mesh
from gdiff.train.data import TrainingData
from gdiff.train.spec import TrainSpec
from gdiff.train.step import State, Trainer, _share

SPEC = TrainSpec(steps=50, warmup=3, batch_size=16, learning_rate=0.02)


def trainer(spec=SPEC, sigma_max=None):
    network = files.empty(MLP(width=8, depth=1), (2,)).network
    return Trainer(Denoising(network, jnp.array([0.1, -0.2]), jnp.float32(0.6)), spec, 0, sigma_max)


def test_steps_are_those_of_optax_on_the_tree_of_parameters_on_any_devices():
    own = trainer()
    x = np.random.default_rng(0).normal(size=(4, 16, 2)).astype(np.float32)
    state = State.start(own.numbers)
    rate = optax.warmup_cosine_decay_schedule(0.0, 0.02, 3, 50)
    by_hand = optax.chain(optax.clip_by_global_norm(1.0), optax.scale_by_adam(0.9, 0.99))
    arrays, rest = eqx.partition(own.denoiser.network, eqx.is_array)
    moments, average = by_hand.init(arrays), own.numbers

    @jax.jit
    def slope(arrays, x, number):
        def loss(arrays):
            network = eqx.combine(arrays, rest)
            denoiser = Denoising(network, own.denoiser.mean, own.denoiser.std)
            x_0, z, sigma = own.noised(x, number)
            weight = (sigma**2 + 0.6**2) / (0.6 * sigma) ** 2
            error = jnp.mean((denoiser(z, sigma).mean - x_0) ** 2, axis=1)
            return jnp.mean(weight * error)

        return jax.grad(loss)(arrays)

    step = jax.jit(lambda state, x: own.step(state, x))
    shared, on_two = State.start(own.numbers), own.on(make_mesh("batch:2"))
    for number, batch in enumerate(x):
        state, _ = step(state, batch)
        shared, _ = on_two(shared, batch)
        change, moments = by_hand.update(slope(arrays, batch, number), moments)
        taken = float(rate(number + 1))
        arrays = jax.tree.map(lambda p, c, taken=taken: p - taken * c, arrays, change)
        flat = jax.flatten_util.ravel_pytree(arrays)[0]
        average = average + float(_share(0.1, number + 1)) * (flat - average)
    np.testing.assert_allclose(state.numbers, flat, atol=2e-5)
    np.testing.assert_allclose(state.average, average, atol=2e-5)
    np.testing.assert_allclose(state.numbers, shared.numbers, atol=2e-5)
    assert int(state.count) == 4


@pytest.mark.parametrize("width", [0.05, 0.1, 0.2])
def test_the_average_over_steps_has_the_width_that_was_asked_for(width):
    steps = np.arange(1, 4001)
    shares = np.asarray([float(_share(width, t)) for t in jnp.array([1, 2, 400])])
    gamma = np.log1p(-shares[2]) / np.log1p(-1 / 400) - 1
    weights = steps**gamma / np.sum(steps**gamma)  # the limit for many steps
    mean = weights @ steps / 4000
    assert np.sqrt(weights @ (steps / 4000 - mean) ** 2) == pytest.approx(width, rel=0.01)
    assert shares[0] == 1


@pytest.mark.parametrize("sigma_max", [None, 1.5])
def test_noise_levels_are_log_normal_up_to_the_largest(sigma_max):
    ranks = np.linspace(0.0005, 0.9995, 1000, dtype=np.float32)
    sigma = np.asarray(trainer(sigma_max=sigma_max).levels(jnp.asarray(ranks)))
    law = norm(np.log(0.6) - 1.2 - np.log(0.5), 1.2)
    top = 1 if sigma_max is None else law.cdf(np.log(sigma_max))
    np.testing.assert_allclose(law.cdf(np.log(sigma)), top * ranks, atol=1e-4)
    assert sigma_max is None or sigma.max() <= sigma_max


def test_flips_mirror_every_other_image_and_nothing_else():
    network = files.empty(MLP(width=4, depth=1), (2, 3, 1)).network
    spec = TrainSpec(flips=True)
    own = Trainer(Denoising(network, jnp.zeros((2, 3, 1)), jnp.float32(1.0)), spec, 0, None)
    x = np.random.default_rng(0).normal(size=(200, 2, 3, 1)).astype(np.float32)
    found = np.asarray(own.noised(x, 5)[0])
    is_same, is_flipped = (np.all(found == y, axis=(1, 2, 3)) for y in (x, x[:, :, ::-1]))
    assert np.all(is_same | is_flipped)
    assert 70 < is_flipped.sum() < 130


def test_every_row_comes_once_before_any_comes_again(tmp_path):
    np.save(tmp_path / "x.npy", Digits(subset=50).load().rows(slice(None)))
    small = Array(path=tmp_path / "x.npy")
    data = TrainingData.of(small, 0.2, seed=3)
    assert (len(data.rows), len(data.test)) == (40, 10)
    drawn = np.concatenate([data.batch(number, 16) for number in range(5)])
    rows = data.dataset.rows(data.rows).reshape(40, -1)
    found = [np.flatnonzero(np.all(rows == x.reshape(-1), axis=1))[0] for x in drawn]
    assert sorted(found[:40]) == sorted(found[40:]) == list(range(40))
    assert found[:40] != found[40:]
    again = TrainingData.of(small, 0.2, seed=3)
    np.testing.assert_array_equal(again.batch(4, 16), drawn[64:])
    np.testing.assert_allclose(data.moments[0].reshape(-1), rows.mean(axis=0), atol=1e-6)
    assert data.moments[1] == pytest.approx(np.sqrt(rows.var(axis=0).mean()), rel=1e-5)


def test_data_with_others_beside_them_are_trained_on_whole():
    data = TrainingData.of(Moons(num_points=60), 0.2, seed=0)
    assert (len(data.rows), len(data.test)) == (60, 60)
    data = TrainingData.of(Digits(subset=1000), 0.2, seed=0)
    assert (len(data.rows), len(data.test)) == (1000, 797)


def test_points_held_out_that_cannot_be_read_are_no_reason_to_take_others(monkeypatch):
    monkeypatch.setattr(Moons, "held_out", lambda self: Array(path=Path("nowhere.npy")))
    with pytest.raises(UserError, match=r"nowhere\.npy"):
        TrainingData.of(Moons(num_points=60), 0.2, seed=0)
