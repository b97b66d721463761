"""Features of a small classifier of the data's labels: a space that is about what points show.

It is trained on the data themselves, with a fixed seed, and cached: numbers compare between samples
of one data set, as those of a network trained elsewhere would between data sets.
"""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from gdiff.dataset.base import Dataset
from gdiff.metrics.chunks import spans
from gdiff.metrics.features import FeatureDistances, names_in
from gdiff.progress import track
from gdiff.store import cache

# Part of the key: to be raised when what is trained changes.
_VERSION = 1
_SEED, _STEPS, _BATCH, _RATE, _DECAY = 0, 1000, 128, 2e-3, 1e-3
_FEATURES, _CHANNELS = 64, (16, 32, 64)
# Sides from which the first layer halves them as well.
_LARGE = 32
_CALL = 256


@dataclass(frozen=True, kw_only=True)
class ClassifierDistances(FeatureDistances):
    """Distances in features of a classifier of the data's labels."""

    names: ClassVar[tuple[str, ...]] = names_in("classifier")

    def options(self) -> tuple:
        """None: all is fixed."""
        return ("classifier",)

    def fit(self, dataset: Dataset, index: np.ndarray) -> "ClassifierFeatures":
        """Train on all points; features are centred by those at `index`."""
        network = trained(dataset)
        plain = ClassifierFeatures(network, np.zeros(_FEATURES), 1.0)
        found = plain.of_data(dataset, index)
        scale = float(np.sqrt(found.var(0).mean())) or 1.0
        return ClassifierFeatures(network, found.mean(0), scale)


class Network(eqx.Module):
    """Convolutions, or dense layers for vectors; then 64 features, and a number for each class."""

    layers: list
    dense: eqx.nn.Linear
    last: eqx.nn.Linear

    @classmethod
    def of(cls, shape: tuple[int, ...], classes: int) -> "Network":
        """Untrained, for points of a shape."""
        keys = jax.random.split(jax.random.key(_SEED, impl="threefry2x32"), 5)
        if len(shape) == 3:
            sizes = (shape[2], *_CHANNELS)
            strides = (2 if min(shape[:2]) >= _LARGE else 1, 2, 2)
            layers = [
                eqx.nn.Conv2d(a, b, 3, stride, padding=1, key=key)
                for a, b, stride, key in zip(sizes[:-1], sizes[1:], strides, keys, strict=False)
            ]
            wide = 2 * _CHANNELS[-1]
        else:
            wide = 128
            layers = [eqx.nn.Linear(int(np.prod(shape)), wide, key=keys[0])]
        dense = eqx.nn.Linear(wide, _FEATURES, key=keys[3])
        return cls(layers, dense, eqx.nn.Linear(_FEATURES, classes, key=keys[4]))

    def features(self, x: Float[Array, "*event"]) -> Float[Array, " f"]:
        """Of a point in model coordinates."""
        x = jnp.moveaxis(x, -1, 0) if x.ndim == 3 else x.ravel()
        for layer in self.layers:
            x = jax.nn.silu(layer(x))
        if x.ndim == 3:
            x = jnp.concatenate([x.mean((1, 2)), x.max((1, 2))])
        return jax.nn.silu(self.dense(x))

    def __call__(self, x: Float[Array, "*event"]) -> Float[Array, " c"]:
        """Logits of the classes."""
        return self.last(self.features(x))


@dataclass(frozen=True, eq=False)
class ClassifierFeatures:
    """What comes before the logits, less its mean over the data.

    Attributes:
        network: trained.
        mean: [64] over the data.
        scale: root mean square over features and data.
    """

    network: Network
    mean: np.ndarray
    scale: float

    def of_samples(self, samples: np.ndarray) -> np.ndarray:
        """Features of samples [n, *event] in model coordinates: [n, 64] float64."""
        return np.concatenate([self._of(samples[span]) for span in spans(len(samples), _CALL)])

    def of_data(self, dataset: Dataset, index: np.ndarray) -> np.ndarray:
        """Features of data points `index`: [len(index), 64] float64."""
        parts = (self._of(dataset.rows(index[span])) for span in spans(len(index), _CALL))
        return np.concatenate(list(parts))

    def _of(self, x: np.ndarray) -> np.ndarray:
        padded = np.resize(x.astype(np.float32), (_CALL, *x.shape[1:]))  # one program
        return np.asarray(_features(self.network, padded), np.float64)[: len(x)] - self.mean


@eqx.filter_jit
def _features(network: Network, x: Array) -> Array:
    return jax.vmap(network.features)(x)


def trained(dataset: Dataset) -> Network:
    """The classifier of a data set with labels; from the cache if there."""
    names, targets = np.unique(dataset.labels, return_inverse=True)
    network = Network.of(dataset.event_shape, len(names))
    arrays, static = eqx.partition(network, eqx.is_array)
    flat, unravel = ravel_pytree(arrays)
    marks = (dataset.fingerprint(), cache.digest(targets))
    key = cache.key("classifier", _VERSION, *marks)
    found = cache.cached(key, lambda: _train(network, dataset, targets))
    return eqx.combine(unravel(jnp.asarray(found, flat.dtype)), static)


def _train(network: Network, dataset: Dataset, targets: np.ndarray) -> np.ndarray:
    """All parameters in one array, by AdamW on the cross entropy."""
    rate = optax.cosine_decay_schedule(_RATE, _STEPS)
    optimiser = optax.adamw(rate, weight_decay=_DECAY)
    state, rng = optimiser.init(eqx.filter(network, eqx.is_array)), np.random.default_rng(_SEED)
    step = eqx.filter_jit(partial(_step, optimiser))
    with track("classifier", _STEPS, "steps") as progress:
        for _ in range(_STEPS):
            index = rng.integers(len(dataset), size=_BATCH)
            x = dataset.rows(index).astype(np.float32)
            network, state = step(network, state, x, targets[index].astype(np.int32))
            progress.advance(1)
    return np.asarray(ravel_pytree(eqx.filter(network, eqx.is_array))[0])


def _step(
    optimiser: optax.GradientTransformation,
    network: Network,
    state: optax.OptState,
    x: Array,
    targets: Array,
) -> tuple[Network, optax.OptState]:
    def loss(network: Network) -> Array:
        logits = jax.vmap(network)(x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean()

    slope = eqx.filter_grad(loss)(network)
    change, state = optimiser.update(slope, state, eqx.filter(network, eqx.is_array))
    return eqx.apply_updates(network, change), state
