"""How fast a step of gdiff train is beside the same one written by hand, without any library.

python scripts/train_speed.py [ROUNDS]

By hand: arrays in a dictionary, functions of them, Adam in six lines. Both take turns.
"""

import math
import sys
import time
from statistics import median

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from gdiff.network import files
from gdiff.network.denoising import Denoising
from gdiff.network.unet import UNet
from gdiff.parallel.mesh import make_mesh
from gdiff.train.spec import TrainSpec
from gdiff.train.step import State, Trainer

SHAPE, STD, BATCH, SPEC = (8, 8, 1), 0.55, 128, TrainSpec()
FREQUENCIES = jnp.geomspace(0.5, 32.0, 128)


def conv(p, name, x):
    layout = ("NHWC", "HWIO", "NHWC")
    w = p[name + ".weight"]
    y = jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=layout)
    return y + p[name + ".bias"]


def linear(p, name, x):
    return x @ p[name + ".weight"] + p[name + ".bias"]


def norm(p, name, x):
    b, h, w, c = x.shape
    groups = min(8, c // 4)
    y = x.reshape(b, h, w, groups, c // groups)
    y = y - y.mean((1, 2, 4), keepdims=True)
    y = y / jnp.sqrt((y**2).mean((1, 2, 4), keepdims=True) + 1e-5)
    return y.reshape(x.shape) * p[name + ".scale"] + p[name + ".shift"]


def block(p, name, x, level):
    scale, shift = jnp.split(linear(p, name + ".level", level)[:, None, None], 2, axis=-1)
    y = conv(p, name + ".convs[0]", jax.nn.silu(norm(p, name + ".norms[0]", x)))
    y = norm(p, name + ".norms[1]", y) * (1 + scale) + shift
    y = conv(p, name + ".convs[1]", jax.nn.silu(y))
    return y + (conv(p, name + ".short", x) if name + ".short.weight" in p else x)


def network(p, x, c):
    angle = c[:, None] * FREQUENCIES
    level = math.sqrt(2) * jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=1)
    for layer in (0, 1):
        level = jax.nn.silu(linear(p, f".embedding.layers[{layer}]", level))
    fine = block(p, ".down[0][0]", conv(p, ".first", x), level)
    b, h, w, c = fine.shape
    coarse = fine.reshape(b, h // 2, 2, w // 2, 2, c).mean((2, 4))
    coarse = block(p, ".down[1][0]", coarse, level)
    middle = block(p, ".middle[0]", coarse, level)
    up = block(p, ".up[1][0]", jnp.concatenate([middle, coarse], axis=-1), level)
    up = jnp.repeat(jnp.repeat(up, 2, axis=1), 2, axis=2)
    up = block(p, ".up[0][0]", jnp.concatenate([up, fine], axis=-1), level)
    return conv(p, ".last", jax.nn.silu(norm(p, ".norm", up)))


def loss_of(p, x, number):
    keys = jax.random.split(jax.random.fold_in(jax.random.key(0), number), 3)
    ranks = (jax.random.uniform(keys[0]) + jnp.arange(BATCH) / BATCH) % 1
    normal = jax.scipy.special.ndtri(jnp.clip(ranks, 1e-7, 1 - 1e-7))
    sigma = (STD * jnp.exp(-1.2 - math.log(0.5) + 1.2 * normal))[:, None, None, None]
    z = x + sigma * jax.random.normal(keys[1], x.shape)
    total = jnp.sqrt(STD**2 + sigma**2)
    found = network(p, z / total, jnp.log(sigma[:, 0, 0, 0] / STD) / 4)
    wanted = (x - (STD / total) ** 2 * z) / (sigma * STD / total)
    return jnp.mean((found - wanted) ** 2)


def step(state, x):
    p, average, first, second, count = state
    loss, g = jax.value_and_grad(loss_of)(p, x, count)
    t = count + 1
    size = jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in g.values()))
    g = {k: leaf * jnp.minimum(1, 1 / size) for k, leaf in g.items()}
    first = {k: 0.9 * first[k] + 0.1 * g[k] for k in p}
    second = {k: 0.99 * second[k] + 0.01 * g[k] ** 2 for k in p}
    warm, decay = t / SPEC.warmup, (t - SPEC.warmup) / (SPEC.steps - SPEC.warmup)
    rate = SPEC.learning_rate * jnp.where(warm < 1, warm, 0.5 + 0.5 * jnp.cos(jnp.pi * decay))
    bias = (1 - 0.9**t, 1 - 0.99**t)
    p = {k: p[k] - rate * first[k] / bias[0] / (jnp.sqrt(second[k] / bias[1]) + 1e-8) for k in p}
    average = {k: average[k] + (1 - (1 - 1 / t) ** 7.94) * (p[k] - average[k]) for k in p}
    return (p, average, first, second, t), loss


def by_hand(denoiser):
    """A state of the step by hand, with the same parameters."""
    leaves = jax.tree_util.tree_leaves_with_path(eqx.filter(denoiser.network, eqx.is_array))
    copies = [{jax.tree_util.keystr(path): jnp.array(x) for path, x in leaves} for _ in range(2)]
    zeros = [{k: jnp.zeros_like(x) for k, x in copies[0].items()} for _ in range(2)]
    return (*copies, *zeros, jnp.zeros((), jnp.int32))


def main():
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 60
    network = files.empty(UNet(), SHAPE).network
    denoiser = Denoising(network, jnp.zeros(SHAPE), jnp.float32(STD))
    trainer = Trainer(denoiser, SPEC, 0, None)
    x = STD * np.random.default_rng(0).normal(size=(BATCH, *SHAPE)).astype(np.float32)
    contenders = {
        "gdiff": (trainer.on(make_mesh("batch:1")), State.start(trainer.numbers)),
        "by hand": (jax.jit(step, donate_argnums=0), by_hand(denoiser)),
    }
    seconds = {name: [] for name in contenders}
    for number in range(rounds + 1):
        losses = []
        for name, (call, state) in contenders.items():
            begin = time.perf_counter()
            state, loss = jax.block_until_ready(call(state, x))
            contenders[name] = (call, state)
            losses.append(float(loss))
            if number:  # the first call compiles
                seconds[name].append(time.perf_counter() - begin)
        if number < 5:
            np.testing.assert_allclose(*losses, rtol=1e-3)
    for name, each in seconds.items():
        print(f"{name}: {1e3 * median(each):.1f} ms a step")
    pairs = zip(seconds["by hand"], seconds["gdiff"], strict=True)
    print(f"speed of gdiff, by hand = 1: {median(b / a for b, a in pairs):.3f}")


if __name__ == "__main__":
    main()
