"""A normalizing flow: a Gaussian mixture, improved by couplings that are trained on noised data."""

from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Key

from gdiff import rng
from gdiff.dataset import Dataset
from gdiff.dataset.placed import Placed
from gdiff.dataset.statistics import Statistics, statistics
from gdiff.denoiser import Points
from gdiff.errors import require
from gdiff.prior.base import PriorSpec
from gdiff.prior.couplings import Couplings
from gdiff.prior.gaussian import DiffusedGaussian
from gdiff.prior.gmm import GMM
from gdiff.prior.mixture import DiffusedMixture, coordinates
from gdiff.progress import track
from gdiff.store import cache

_HIGHEST = jax.lax.Precision.HIGHEST
# Part of the cache's key: to be raised when training or what is stored changes.
_VERSION = 1
# Of the rows, one in so many is held out; so many noised draws of them judge the flow.
_HELD_OUT, _JUDGES = 20, 4096
_JUDGED_AT_ONCE = 512
# Steps between two judgements.
_STRIDE = 100
# The numbers that are judged and kept are averages, with weights that decay over so many steps:
# the noise of a step is more than what most of them gain.
_AVERAGED = 100
# Largest norm of a gradient.
_CLIP = 5.0


@dataclass(frozen=True, kw_only=True)
class Flow(PriorSpec):
    """RealNVP couplings over a Gaussian mixture, of largest likelihood at the first noise level.

    The mixture is that of `prior=gmm`, diffused to sigma. The couplings (Dinh et al., arXiv
    1605.08803) move the leading principal coordinates; the other ones stay independent Gaussians.
    Every step of training takes new noise. At first the couplings change nothing, and those of
    the largest likelihood on rows held out are kept: by that measure the flow is never worse than
    the mixture, which has seen those rows. What is trained is kept in the cache, for each sigma.
    Flows as priors of short diffusions are from arXiv 2206.05173, whose Glow these couplings
    stand in for; the mixture below them is ours.

    Data of one dimension leave couplings nothing to condition on: there the flow is the mixture.

    Attributes:
        couplings: number of couplings.
        width: of the two hidden layers of each coupling's network.
        rank: principal coordinates that the couplings move; all, where there are fewer.
        components: Gaussians of the mixture; None is one for every 100 points, from 1 to 200.
        learning_rate: of Adam, at its largest: after a tenth of the steps, before a decay to 0.
        batch_size: noised points in a step of training.
        steps: the most steps of training.
        patience: training ends after so many steps without a gain on the rows held out.
        seed: of the couplings, the noise and the rows held out.
    """

    couplings: int = 8
    width: int = 192
    rank: int = 100
    components: int | None = None
    learning_rate: float = 4e-3
    batch_size: int = 512
    steps: int = 2000
    patience: int = 1000
    seed: int = 0

    is_trained: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for key in ("couplings", "width", "rank", "batch_size", "steps", "patience"):
            value = getattr(self, key)
            require(value >= 1, f"{key}={value} must be at least 1")
        require(
            self.components is None or self.components >= 1,
            f"components={self.components} must be at least 1, or null to choose by the data",
        )
        require(
            0 < self.learning_rate < 1,
            f"learning_rate={self.learning_rate} must be between 0 and 1",
        )
        require(0 <= self.seed < 2**32, f"seed={self.seed} must be between 0 and 2^32 - 1")

    def fit(self, data: Dataset | Placed, sigma: float) -> "DiffusedFlow":
        """Train the flow at `sigma`, or take it from the cache.

        Raises:
            UserError: data of one row, or more components than points.
        """
        data = Placed.of(data)
        dataset, mesh = data.dataset, data.mesh
        # Of a class with one row the couplings stay what they are: the law is Gaussian.
        is_one = len(dataset) == 1
        require(
            not is_one or dataset.whole is not None,
            f"prior=flow needs at least 2 points, one of them to be held out, and {dataset.name} "
            "has one: use prior=gaussian",
        )
        found = statistics(dataset)
        rank = min(self.rank, len(found.eigenvalues))
        mixture = GMM(components=self.components, rank=min(rank, GMM.rank))
        mixture = mixture.fit(data, sigma)
        own = Statistics(np.zeros(rank), found.eigenvalues[:rank], np.eye(rank), 0.0)
        head = DiffusedGaussian.of(own, (rank,), sigma, mesh)
        start = Couplings.identity(self.couplings, rank, self.width, self.seed)
        trained, rest = eqx.partition(start, eqx.is_inexact_array)
        flat, shaped = ravel_pytree(trained)
        base = replace(mixture, whole=head)

        def train() -> np.ndarray:
            # In single precision on one device, whatever the working precision and the mesh:
            # so that one flow serves all of them.
            with jax.enable_x64(False):
                law = jax.tree.map(_single, HeadFlow(start, base))
                best = _trained(law, self, dataset, found, sigma)
                return np.asarray(ravel_pytree(eqx.filter(best, eqx.is_inexact_array))[0])

        if flat.size and not is_one:
            law = (dataset.fingerprint(), found.digest(), _fingerprint(mixture))
            key = cache.key("flow", _VERSION, *law, sigma, self)
            flat = jnp.asarray(cache.cached(key, train), flat.dtype)
        couplings = eqx.combine(shaped(flat), rest)
        couplings = jax.device_put(couplings, NamedSharding(mesh, PartitionSpec()))
        return DiffusedFlow(mixture.whole, HeadFlow(couplings, base))


class HeadFlow(eqx.Module):
    """The law of the leading r principal coordinates.

    Attributes:
        couplings: from these coordinates, in units of their standard deviation, to the base's.
        base: a mixture over these coordinates alone.
    """

    couplings: Couplings
    base: DiffusedMixture

    def sample(self, keys: Key[Array, " b"]) -> Float[Array, "b r"]:
        """One draw per key."""
        return self.couplings.inverse(self.base.sample(keys) / self._std) * self._std

    def log_prob(self, y: Float[Array, "b r"]) -> Float[Array, " b"]:
        """Log density at every row, in nats."""
        u, volume = self.couplings.forward(y / self._std)
        return self.base.log_prob(u * self._std) + volume

    @property
    def _std(self) -> Float[Array, " r"]:
        whole = self.base.whole
        return jnp.sqrt(whole.clean.eigenvalues + whole.sigma**2)


class DiffusedFlow(eqx.Module):
    """A flow in the first r principal coordinates, Gaussian in the others.

    Attributes:
        whole: the Gaussian whose first r coordinates are replaced.
        head: their law.
    """

    whole: DiffusedGaussian
    head: HeadFlow

    def sample(self, keys: Key[Array, " b"]) -> Float[Array, "b *event"]:
        """One draw per key: one of the Gaussian, with the flow's coordinates in place of its."""
        keys = jax.vmap(jax.random.split)(keys)
        z = self.whole.sample(keys[:, 0])
        change = self.head.sample(keys[:, 1]) - self._coordinates(z)
        return z + jnp.matmul(change, self._basis.T, precision=_HIGHEST).reshape(z.shape)

    def log_prob(self, z: Points) -> Float[Array, " b"]:
        """Log density at every row, in nats: the Gaussian's, with the flow's share for its."""
        y = self._coordinates(z)
        return self.whole.log_prob(z) + self.head.log_prob(y) - self.head.base.whole.log_prob(y)

    @property
    def _basis(self) -> Float[Array, "d r"]:
        return self.whole.clean.eigenvectors[:, : self.head.base.whole.event_shape[0]]

    def _coordinates(self, z: Float[Array, "b *event"]) -> Float[Array, "b r"]:
        centred = z.reshape(z.shape[0], -1) - self.whole.clean.mean
        return jnp.matmul(centred, self._basis, precision=_HIGHEST)


class _Training(NamedTuple):
    """What a step changes: the couplings' numbers, their average, and the optimiser's state."""

    numbers: Couplings
    average: Couplings
    state: optax.OptState


def _trained(
    law: HeadFlow, spec: Flow, dataset: Dataset, found: Statistics, sigma: float
) -> Couplings:
    """The couplings of the largest likelihood on rows held out, among those met in training."""
    [rank] = law.base.whole.event_shape
    clean = coordinates(dataset, found, np.arange(len(dataset)), rank, np.float32)
    clean, judges = _split(clean, spec, sigma)
    numbers, rest = eqx.partition(law.couplings, eqx.is_inexact_array)
    rate = optax.warmup_cosine_decay_schedule(0.0, spec.learning_rate, spec.steps // 10, spec.steps)
    optimiser = optax.chain(optax.clip_by_global_norm(_CLIP), optax.adam(rate))

    def loss(numbers: Couplings, base: DiffusedMixture, y: Array) -> Array:
        return -jnp.mean(HeadFlow(eqx.combine(numbers, rest), base).log_prob(y))

    @jax.jit
    def judged(numbers: Couplings, base: DiffusedMixture, judges: Array) -> Array:
        return jnp.mean(jax.lax.map(lambda y: loss(numbers, base, y), judges))

    @jax.jit
    def advanced(now: _Training, base: DiffusedMixture, clean: Array, steps: Array) -> _Training:
        def step(now: _Training, number: Array) -> tuple[_Training, None]:
            choice, noise = jax.random.split(jax.random.fold_in(rng.key(spec.seed), number))
            y = clean[jax.random.randint(choice, (spec.batch_size,), 0, len(clean))]
            y += sigma * jax.random.normal(noise, y.shape)
            slope = jax.grad(loss)(now.numbers, base, y)
            change, state = optimiser.update(slope, now.state)
            numbers = optax.apply_updates(now.numbers, change)
            average = optax.incremental_update(numbers, now.average, 1 / _AVERAGED)
            return _Training(numbers, average, state), None

        return jax.lax.scan(step, now, steps)[0]

    now, best = _Training(numbers, numbers, optimiser.init(numbers)), numbers
    first = lowest = float(judged(numbers, law.base, judges))
    done = since = 0
    with track(f"flow of {dataset.name}", spec.steps, "steps") as progress:
        while done < spec.steps and done - since < spec.patience:
            steps = jnp.arange(done, min(done + _STRIDE, spec.steps))
            now = advanced(now, law.base, clean, steps)
            done += len(steps)
            value = float(judged(now.average, law.base, judges))
            if value < lowest:
                best, lowest, since = now.average, value, done
            progress.reach(done, f"{first - value:.3f} nats gained")
    return best


def _split(clean: np.ndarray, spec: Flow, sigma: float) -> tuple[Array, Array]:
    """Rows to train on [k, r], and noised draws of the others [.., _JUDGED_AT_ONCE, r]."""
    random = np.random.default_rng(spec.seed)
    order = random.permutation(len(clean))
    held_out, rows = np.split(order, [max(1, len(clean) // _HELD_OUT)])
    judges = clean[np.resize(held_out, _JUDGES)]
    judges = judges + sigma * random.standard_normal(judges.shape, np.float32)
    judges = judges.reshape(-1, _JUDGED_AT_ONCE, clean.shape[1])
    return jnp.asarray(clean[rows]), jnp.asarray(judges)


def _fingerprint(mixture: DiffusedMixture) -> str:
    """Hash of the components: another fit of them asks for other couplings."""
    parts = (mixture.log_weights, mixture.means, mixture.variances, mixture.axes)
    return cache.digest(*map(_single, parts))


def _single(leaf: Array) -> np.ndarray:
    """A copy on the host, in single precision."""
    kind = np.float32 if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf.dtype
    return np.asarray(leaf, kind)
