"""A network that was trained by `gdiff train`, as a score."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from gdiff.dataset import Dataset
from gdiff.dataset.placed import Placed
from gdiff.errors import require
from gdiff.network import files
from gdiff.network.denoising import Denoising
from gdiff.score.base import ScoreSpec
from gdiff.store import cache

# Levels are rounded where they are written.
_SLACK = 1e-5


@dataclass(frozen=True, kw_only=True)
class Network(ScoreSpec):
    """A denoiser that was fitted by gradient descent, and knows nothing of the data at run time.

    It gives the mean alone: no density, no covariance and no bound.

    Attributes:
        path: folder of the training run, or the file of a network.
    """

    path: Path | None = None

    def __post_init__(self) -> None:
        require(
            self.path is not None,
            "path is missing: give the folder of a run of gdiff train, score.path=DIR",
        )

    @property
    def mark(self) -> str:
        """Of the file, which may be another one tomorrow."""
        path = self.path / files.NETWORK if self.path.is_dir() else self.path
        return cache.signature(path.parent, [path] if path.is_file() else [])

    def fit(self, data: Dataset | Placed, sigmas: Sequence[float] = ()) -> Denoising:
        """Put the network on every device, in the working precision.

        Raises:
            UserError: there is no network, or it is for other points or levels, or for the data
                as a whole and not for one class of them.
        """
        data = Placed.of(data)
        dataset = data.dataset
        require(
            dataset.whole is None,
            "condition=…: score=network is of the data as a whole, and knows no classes; train one "
            "on a class with gdiff train dataset.classes=[…], or use condition=null",
        )
        denoiser, facts = files.read(self.path, "score.path")
        require(
            facts.event_shape == dataset.event_shape,
            f"score.path={self.path} is a network for points {list(facts.event_shape)}, and those "
            f"of {dataset.name} are {list(dataset.event_shape)}: it was trained with "
            f"{facts.dataset}",
        )
        highest, most = max(sigmas, default=0.0), facts.sigma_max
        require(
            most is None or highest <= most * (1 + _SLACK),
            f"score.path={self.path} has seen noise up to sigma={most}, and the schedule begins at "
            f"{highest:.6g}: use schedule.sigma_max={most}",
        )
        arrays, rest = eqx.partition(denoiser, eqx.is_array)
        dtype, everywhere = jnp.result_type(float), NamedSharding(data.mesh, PartitionSpec())
        arrays = jax.tree.map(lambda x: jnp.asarray(x, dtype), arrays)
        return eqx.combine(jax.device_put(arrays, everywhere), rest)
