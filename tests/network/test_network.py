"""Networks as denoisers: preconditioning, shapes, and the files that hold them."""

import json

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gdiff.errors import UserError
from gdiff.network import files
from gdiff.network.denoising import Denoising
from gdiff.network.layers import GroupNorm
from gdiff.network.mlp import MLP
from gdiff.network.unet import UNet

FACTS = files.Facts((3,), None, "mine", "0", 7)
SPEC = MLP(width=4, depth=1)


def moved(denoiser, seed=0):
    """The same with other parameters, the last layer's too."""
    arrays, rest = eqx.partition(denoiser, eqx.is_array)
    random = np.random.default_rng(seed)

    def change(x):
        return jnp.asarray(np.asarray(x) + random.normal(0, 0.3, x.shape), x.dtype)

    return eqx.combine(jax.tree.map(change, arrays), rest)


def test_an_untrained_network_is_the_best_denoiser_of_a_gaussian():
    random = np.random.default_rng(0)
    mean, std = random.normal(size=3), 0.7
    denoiser = Denoising(files.empty(SPEC, (3,)).network, jnp.asarray(mean), jnp.asarray(std))
    z, sigma = random.normal(size=(5, 3)), np.geomspace(0.01, 50, 5)
    gain = (std**2 / (std**2 + sigma**2))[:, None]
    np.testing.assert_allclose(denoiser(z, sigma).mean, mean + gain * (z - mean), rtol=1e-4)
    x = random.normal(size=(20_000, 3)) * std + mean
    noised = x + 0.5 * random.normal(size=x.shape)
    loss = eqx.filter_jit(denoiser.loss)(x, noised, jnp.full(len(x), 0.5))
    assert float(jnp.mean(loss)) == pytest.approx(1, abs=0.03)


def test_the_preconditioning_is_that_of_edm():
    denoiser = moved(files.empty(SPEC, (3,)))
    z, sigma = np.random.default_rng(1).normal(size=(4, 3)), np.array([0.1, 0.5, 2.0, 9.0])
    mean, s = np.asarray(denoiser.mean, float), float(denoiser.std)
    total = np.hypot(s, sigma)[:, None]
    given = ((z - mean) / total).astype(np.float32)
    answer = denoiser.network(jnp.asarray(given), jnp.asarray(np.log(sigma / s) / 4, jnp.float32))
    wanted = mean + (s / total) ** 2 * (z - mean) + sigma[:, None] * s / total * np.asarray(answer)
    answered = eqx.filter_jit(denoiser)(z, sigma).mean
    np.testing.assert_allclose(answered, wanted, rtol=1e-4, atol=1e-5)
    x = np.zeros((4, 3))
    error = np.mean((wanted - x) ** 2, axis=1) * (sigma**2 + s**2) / (sigma * s) ** 2
    loss = eqx.filter_jit(denoiser.loss)(*map(jnp.asarray, (x, z, sigma)))
    np.testing.assert_allclose(loss, error, rtol=1e-3)


@pytest.mark.parametrize("shape", [(7, 5, 3), (4, 4, 1)])
def test_a_u_net_takes_images_of_any_size(shape):
    network = files.empty(UNet(channels=[4, 6], patch=2, width=4), shape).network
    x = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)
    c = jnp.zeros(2)
    call = eqx.filter_jit(lambda network, x, c: network(x, c))
    assert call(network, x, c).shape == x.shape
    assert not np.any(call(network, x, c))
    found = np.asarray(call(moved(network), x, c))
    # No image depends on the others.
    other = np.asarray(call(moved(network), x[[1, 1]], c))
    np.testing.assert_allclose(found[1], other[0], rtol=1e-4, atol=1e-5)
    assert found.std() > 0.01


@pytest.mark.parametrize("channels, groups", [(12, 3), (14, 2), (5, 1)])
def test_normalised_groups_are_those_of_equinox(channels, groups):
    random = np.random.default_rng(0)
    x = (3 + random.normal(size=(2, 4, 3, channels))).astype(np.float32)
    scale, shift = random.normal(size=(2, channels)).astype(np.float32)
    norm = GroupNorm.of(channels)
    assert norm.groups == groups
    norm = eqx.tree_at(lambda n: (n.scale, n.shift), norm, (jnp.asarray(scale), jnp.asarray(shift)))
    theirs = jax.vmap(eqx.nn.GroupNorm(groups, channels, channelwise_affine=False))
    wanted = np.moveaxis(theirs(jnp.moveaxis(jnp.asarray(x), -1, 1)), 1, -1) * scale + shift
    np.testing.assert_allclose(norm(jnp.asarray(x)), wanted, rtol=1e-4, atol=1e-5)


def test_a_u_net_wants_images():
    with pytest.raises(UserError, match=r"network=unet is for images.*use network=mlp"):
        files.empty(UNet(), (2,))


def test_a_file_gives_back_what_was_written(tmp_path):
    denoiser = moved(files.empty(SPEC, (3,)))
    files.write(tmp_path / files.NETWORK, SPEC, denoiser, FACTS)
    for path in (tmp_path, tmp_path / files.NETWORK):
        found, facts = files.read(path, "score.path")
        assert facts == FACTS
        assert jax.tree.all(jax.tree.map(np.array_equal, found, denoiser))


def test_a_file_that_is_no_network_is_told_in_one_line(tmp_path):
    path = tmp_path / files.NETWORK
    files.write(path, SPEC, files.empty(SPEC, (3,)), FACTS)
    whole = path.read_bytes()
    head, _, rest = whole.partition(b"\n")
    newer = json.dumps(json.loads(head) | {"gdiff_network": 99}).encode()
    other = json.dumps(json.loads(head) | {"options": {"width": 4, "depth": 2}}).encode()
    damaged = {
        "has .* bytes of": whole[:-9],
        "does not say": b"PK\x03\x04" + bytes(300),
        "version 99": newer + b"\n" + rest,
        "bytes of ": other + b"\n" + rest,
        "is damaged": head + b"\n" + bytes(len(rest)),
        "first line": b"",
    }
    for why, content in damaged.items():
        path.write_bytes(content)
        with pytest.raises(UserError, match=why) as caught:
            files.read(tmp_path, "score.path")
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="does not exist"):
        files.read(tmp_path / "nothing", "score.path")
    path.unlink()
    with pytest.raises(UserError, match=r"score\.path=.* is not the folder of a training run"):
        files.read(tmp_path, "score.path")
