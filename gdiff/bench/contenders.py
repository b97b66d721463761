"""All who compute posterior means in a comparison: ours, and what one would use instead.

Each prepares a problem, which imports its library, and answers queries.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from types import ModuleType
from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from gdiff.bench.harness import two_products
from gdiff.dataset import Dataset
from gdiff.dataset.placed import Placed
from gdiff.denoiser import Denoiser
from gdiff.metrics.chunks import flat_rows
from gdiff.report import processors
from gdiff.runtime import Runtime
from gdiff.score.base import ScoreSpec
from gdiff.score.exact import Exact

NEAREST = 1000  # rows that FAISS weighs
PROBED = 16  # of its √n inverted lists, those that are searched

# Posterior means [b, d] of queries z [b, d] at one noise level, both float32 NumPy arrays in model
# coordinates; the call ends when the numbers are there.
Ask = Callable[[np.ndarray, float], np.ndarray]


@dataclass(frozen=True)
class Problem:
    """A data set as contenders want it; each form is made when first asked for.

    Attributes:
        dataset: as stored.
        runtime: devices of those that run on JAX.
    """

    dataset: Dataset
    runtime: Runtime

    @cached_property
    def data(self) -> Placed:
        """The data on the devices."""
        return Placed(self.dataset, self.runtime.start())

    @cached_property
    def centre(self) -> np.ndarray:
        """[d] mean of the data, float32."""
        return self._vectors().mean(axis=0, dtype=np.float64).astype(np.float32)

    @cached_property
    def rows(self) -> np.ndarray:
        """[n, d] the data less their mean, float32: distances of centred rows round less."""
        rows = self._vectors()
        rows -= self.centre
        return rows

    def _vectors(self) -> np.ndarray:
        return flat_rows(self.dataset, slice(None))

    def centred(self, ask: Ask) -> Ask:
        """A mean of the centred rows as one of the data."""
        centre = self.centre
        return lambda z, sigma: ask(z - centre, sigma) + centre


class Peer(NamedTuple):
    """One way to compute the posterior mean.

    Attributes:
        name: in tables.
        prepare: does all that needs to be done once for a data set; imports its library.
        package: what to install for it, None if nothing.
        is_mean: False for the matrix products, which compute something else at the same cost.
    """

    name: str
    prepare: Callable[[Problem], Ask]
    package: str | None = None
    is_mean: bool = True


def own(spec: ScoreSpec, sigmas: tuple[float, ...]) -> Peer:
    """A score of this project, prepared for these noise levels."""
    name = "full" if isinstance(spec, Exact) else type(spec).__name__.lower()
    return Peer(f"gdiff {name}", partial(_prepare_own, spec, sigmas))


@eqx.filter_jit
def _mean(denoiser: Denoiser, z: Array, sigma: Array) -> Array:
    return denoiser(z, sigma).mean


def _prepare_own(spec: ScoreSpec, sigmas: tuple[float, ...], problem: Problem) -> Ask:
    denoiser = spec.fit(problem.data, sigmas)
    shape = problem.dataset.event_shape

    def ask(z: np.ndarray, sigma: float) -> np.ndarray:
        return np.asarray(_mean(denoiser, z.reshape(-1, *shape), np.float32(sigma))).reshape(
            z.shape
        )

    return ask


def _prepare_products(problem: Problem) -> Ask:
    data = jnp.asarray(problem.rows)
    return lambda z, sigma: np.asarray(two_products(z, data))


def _torch() -> ModuleType:
    import torch

    torch.set_num_threads(processors())
    return torch


def _prepare_cdist(problem: Problem) -> Ask:
    """The mean as one would write it."""
    torch = _torch()
    data = torch.from_numpy(problem.rows)

    @torch.inference_mode()
    def ask(z: np.ndarray, sigma: float) -> np.ndarray:
        distance = torch.cdist(torch.from_numpy(z), data)
        weights = torch.softmax(distance.square_().mul_(-0.5 / sigma**2), dim=1)
        return (weights @ data).numpy()

    return problem.centred(ask)


def _prepare_attention(problem: Problem) -> Ask:
    """Logits z·y/σ² - ‖y‖²/2σ²: keys and values are the data, and the norms a mask."""
    torch = _torch()
    data = torch.from_numpy(problem.rows)[None, None]
    half_norms = 0.5 * data.square().sum(-1)

    @torch.inference_mode()
    def ask(z: np.ndarray, sigma: float) -> np.ndarray:
        mask = (half_norms / -(sigma**2)).expand(1, len(z), -1)[None]
        mean = torch.nn.functional.scaled_dot_product_attention(
            torch.from_numpy(z)[None, None], data, data, attn_mask=mask, scale=sigma**-2
        )
        return mean[0, 0].numpy()

    return problem.centred(ask)


def _prepare_torch_products(problem: Problem) -> Ask:
    torch = _torch()
    data = torch.from_numpy(problem.rows)

    @torch.inference_mode()
    def ask(z: np.ndarray, sigma: float) -> np.ndarray:
        return ((torch.from_numpy(z) @ data.T) @ data).numpy()

    return ask


def _prepare_keops(problem: Problem) -> Ask:
    """A lazy Gaussian reduction, which never has the matrix of distances in memory."""
    import pykeops
    from pykeops.numpy import LazyTensor

    pykeops.set_verbose(False)
    data = LazyTensor(problem.rows[None, :, :])

    def ask(z: np.ndarray, sigma: float) -> np.ndarray:
        # A level as an array is a parameter of the compiled program; 1.0 would be part of it.
        factor = LazyTensor(np.array([-0.5 / sigma**2], np.float32))
        logits = ((LazyTensor(z[:, None, :]) - data) ** 2).sum(-1) * factor
        return logits.sumsoftmaxweight(data, axis=1, backend="CPU")

    return problem.centred(ask)


def _prepare_faiss(problem: Problem, *, is_inverted: bool) -> Ask:
    """The softmax over the nearest rows, found exactly or by inverted lists."""
    import faiss

    faiss.omp_set_num_threads(processors())
    rows = problem.rows
    count, dim = rows.shape
    index = faiss.IndexFlatL2(dim)
    if is_inverted:
        index = faiss.IndexIVFFlat(index, dim, math.isqrt(count))
        index.cp.min_points_per_centroid = 1  # else it warns about small data
        index.train(rows)
        index.nprobe = PROBED
    index.add(rows)

    def ask(z: np.ndarray, sigma: float) -> np.ndarray:
        distances, found = index.search(z, min(NEAREST, count))
        # Where the lists hold fewer rows, the rest is numbered -1.
        logits = np.where(found < 0, np.inf, distances) * (-0.5 / sigma**2)
        mean = np.empty_like(z)
        for query, (row, logit) in enumerate(zip(found, logits, strict=True)):
            weights = np.exp(logit - logit.max())
            heavy = weights > 1e-8 * weights.max()
            mean[query] = weights[heavy] @ rows[row[heavy]] / weights[heavy].sum()
        return mean

    return problem.centred(ask)


OTHERS = (
    Peer("PyTorch cdist", _prepare_cdist, "torch"),
    Peer("PyTorch attention", _prepare_attention, "torch"),
    Peer("KeOps", _prepare_keops, "pykeops"),
    Peer(f"FAISS exact k={NEAREST}", partial(_prepare_faiss, is_inverted=False), "faiss-cpu"),
    Peer(f"FAISS IVF k={NEAREST}", partial(_prepare_faiss, is_inverted=True), "faiss-cpu"),
    Peer("2 products, XLA", _prepare_products, is_mean=False),
    Peer("2 products, PyTorch", _prepare_torch_products, "torch", is_mean=False),
)
