"""A step of training: the loss of noised points, and what a gradient makes of the parameters."""

import math
from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int

from gdiff import rng
from gdiff.network.denoising import Denoising
from gdiff.parallel.mesh import batch_sharding
from gdiff.train.spec import TrainSpec

# ln σ is normal (Karras et al., arXiv 2206.00364, table 1), in units of the data's own spread,
# which is 0.5 there.
_LEVEL_MEAN, _LEVEL_STD = -1.2 - math.log(0.5), 1.2
_CLIP = 1.0  # largest norm of a gradient
_MOMENTS = (0.9, 0.99)


class State(NamedTuple):
    """What a step changes.

    All of them are vectors, so that a step is one program of few loops.

    Attributes:
        numbers: [p] the parameters.
        average: [p] their average over steps.
        first, second: [p] the moments of Adam.
        count: [] steps that have been taken.
    """

    numbers: Float[Array, " p"]
    average: Float[Array, " p"]
    first: Float[Array, " p"]
    second: Float[Array, " p"]
    count: Int[Array, ""]

    @classmethod
    def start(cls, numbers: Float[Array, " p"]) -> "State":
        """Before the first step."""
        # Each of them has memory of its own, which a step takes over.
        average, first, second = (
            jnp.array(numbers),
            jnp.zeros_like(numbers),
            jnp.zeros_like(numbers),
        )
        return cls(numbers, average, first, second, jnp.zeros((), jnp.int32))


class Trainer(eqx.Module):
    """The functions of a training run, and what they hold fixed.

    Attributes:
        denoiser: with parameters of any values.
        spec: how it is trained.
        seed: of the noise.
        sigma_max: the largest noise level, if they are bounded.
    """

    denoiser: Denoising
    spec: TrainSpec = eqx.field(static=True)
    seed: int = eqx.field(static=True)
    sigma_max: float | None = eqx.field(static=True)

    @property
    def numbers(self) -> Float[Array, " p"]:
        """The parameters as one vector."""
        return ravel_pytree(eqx.filter(self.denoiser.network, eqx.is_array))[0]

    def with_numbers(self, numbers: Float[Array, " p"]) -> Denoising:
        """The denoiser with these parameters."""
        arrays, rest = eqx.partition(self.denoiser.network, eqx.is_array)
        network = eqx.combine(ravel_pytree(arrays)[1](numbers), rest)
        return eqx.tree_at(lambda d: d.network, self.denoiser, network)

    def levels(self, uniform: Float[Array, " b"]) -> Float[Array, " b"]:
        """Noise levels by their ranks among all, which are uniform between 0 and 1."""
        top = 1.0
        if self.sigma_max is not None:
            height = math.log(self.sigma_max) - jnp.log(self.denoiser.std) - _LEVEL_MEAN
            top = jax.scipy.stats.norm.cdf(height / _LEVEL_STD)
        tiny = jnp.finfo(uniform.dtype).eps
        normal = jax.scipy.special.ndtri(jnp.clip(top * uniform, tiny, 1 - tiny))
        return self.denoiser.std * jnp.exp(_LEVEL_MEAN + _LEVEL_STD * normal)

    def noised(
        self, x: Float[Array, "b *event"], number: Int[Array, ""]
    ) -> tuple[Array, Array, Array]:
        """Points of a step, mirrored if they are to be, then noised, and their levels.

        The levels of a batch are spread evenly over their law (Kingma et al., arXiv 2107.00630).
        """
        keys = jax.random.split(jax.random.fold_in(rng.key(self.seed), number), 3)
        if self.spec.flips:
            is_flipped = jax.random.bernoulli(keys[2], shape=(len(x), *[1] * (x.ndim - 1)))
            x = jnp.where(is_flipped, x[:, :, ::-1], x)
        offset = jax.random.uniform(keys[0], dtype=x.dtype)
        sigma = self.levels((offset + jnp.arange(len(x)) / len(x)) % 1)
        noise = jax.random.normal(keys[1], x.shape, x.dtype)
        return x, x + sigma.reshape(-1, *[1] * (x.ndim - 1)) * noise, sigma

    def loss(self, numbers: Float[Array, " p"], x: Array, number: Int[Array, ""]) -> Array:
        """Mean weighted loss of a batch."""
        return jnp.mean(self.with_numbers(numbers).loss(*self.noised(x, number)))

    def step(self, state: State, x: Float[Array, "b *event"]) -> tuple[State, Array]:
        """The state after a batch, and the loss before it."""
        loss, slope = jax.value_and_grad(self.loss)(state.numbers, x, state.count)
        count = state.count + 1
        warmup, steps = self.spec.warmup, self.spec.steps
        rate = optax.warmup_cosine_decay_schedule(
            0.0, self.spec.learning_rate, warmup, max(steps, warmup + 1)
        )
        optimiser = optax.chain(optax.clip_by_global_norm(_CLIP), optax.scale_by_adam(*_MOMENTS))
        moments = optax.ScaleByAdamState(state.count, state.first, state.second)
        change, (_, moments) = optimiser.update(slope, (optax.EmptyState(), moments))
        numbers = state.numbers - rate(count) * change
        average = state.average + _share(self.spec.average, count) * (numbers - state.average)
        return State(numbers, average, moments.mu, moments.nu, count), loss

    def on(self, mesh: Mesh) -> Callable[[State, np.ndarray], tuple[State, Array]]:
        """The step compiled for a mesh: the batch is shared out, all else is everywhere."""
        everywhere, shared = NamedSharding(mesh, PartitionSpec()), batch_sharding(mesh)
        step = jax.jit(
            lambda state, x: self.step(state, x),
            in_shardings=(everywhere, shared),
            out_shardings=everywhere,
            donate_argnums=0,
        )
        return lambda state, x: step(state, jax.device_put(x, shared))

    def loss_on(self, mesh: Mesh) -> Callable[[Array, np.ndarray, int], Array]:
        """The loss compiled for a mesh."""
        everywhere, shared = NamedSharding(mesh, PartitionSpec()), batch_sharding(mesh)
        loss = jax.jit(
            lambda numbers, x, number: self.loss(numbers, x, number),
            in_shardings=(everywhere, shared, everywhere),
        )
        return lambda numbers, x, number: loss(numbers, jax.device_put(x, shared), number)


def _share(width: float, count: Int[Array, ""]) -> Array | float:
    """Of the latest step in the average (Karras et al., arXiv 2312.02696, eq. 2 and 3).

    The weight of step t in the average grows as t^γ; γ gives it the relative width that is asked.
    """
    if width == 0:
        return 1.0
    inverse = width**-2
    gamma = max(np.roots([1, 7, 16 - inverse, 12 - inverse]).real)
    return 1 - (1 - 1 / count) ** (gamma + 1)
