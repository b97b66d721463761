"""Point sets whose laws are known, with coordinates of order 1."""

import abc
import math
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from gdiff.dataset.base import Dataset, DatasetSpec, NothingHeldOutError
from gdiff.errors import require
from gdiff.memory import require_room

_POINT_BYTES = 100  # while a point is drawn


@dataclass(frozen=True, kw_only=True)
class ToySpec(DatasetSpec):
    """Options common to the random point sets in the plane.

    Attributes:
        num_points: how many points to draw.
        noise: standard deviation of the normal noise added to both coordinates.
        seed: of the draw.
    """

    name: ClassVar[str]
    num_points: int = 2000
    noise: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.num_points >= 2, f"num_points={self.num_points} must be at least 2")
        require_room(_POINT_BYTES * self.num_points, f"num_points={self.num_points}")
        require(0 <= self.noise < math.inf, f"noise={self.noise} must be 0 or more, and finite")
        require(self.seed >= 0, f"seed={self.seed} must be 0 or more")

    def held_out(self) -> "ToySpec":
        """As many points from the next seed."""
        return replace(self, seed=self.seed + 1)

    @abc.abstractmethod
    def draw(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray | None]:
        """Points without noise [num_points, 2], and their classes [num_points] or None."""

    def read(self) -> Dataset:
        """[num_points, 2] float32."""
        rng = np.random.default_rng(self.seed)
        x, labels = self.draw(rng)
        x = x + self.noise * rng.standard_normal(x.shape)
        return Dataset(
            name=self.name,
            x=x.astype(np.float32),
            labels=None if labels is None else labels.astype(np.int32),
        )


@dataclass(frozen=True, kw_only=True)
class Moons(ToySpec):
    """Two interleaved half circles of radius 2/3, a class each."""

    name = "moons"

    def draw(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Angles are uniform."""
        angle = rng.uniform(0, np.pi, self.num_points)
        labels = np.arange(self.num_points) % 2
        sign = 1 - 2 * labels
        x = sign * (np.cos(angle) - 0.5)
        y = sign * (np.sin(angle) - 0.25)
        return np.stack([x, y], axis=1) / 1.5, labels


@dataclass(frozen=True, kw_only=True)
class SwissRoll(ToySpec):
    """A spiral of one and a half turns, from radius 1/3 to 1."""

    name = "swiss_roll"
    noise: float = 0.02

    def draw(self, rng: np.random.Generator) -> tuple[np.ndarray, None]:
        """The angle is uniform, so that the inner turn is denser."""
        angle = np.pi * rng.uniform(1.5, 4.5, self.num_points)
        radius = angle / (4.5 * np.pi)
        return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1), None


@dataclass(frozen=True, kw_only=True)
class Gaussians(ToySpec):
    """Equal normal components around the unit circle, a class each; `noise` is their spread.

    Attributes:
        num_modes: how many components.
    """

    name = "gaussians"
    noise: float = 0.1
    num_modes: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.num_modes >= 1, f"num_modes={self.num_modes} must be at least 1")

    def held_out(self) -> "Gaussians":
        """As many points from the next seed, which are others if there is noise."""
        if self.noise == 0:
            raise NothingHeldOutError(
                "noise=0 puts all points on the same places: none are held out"
            )
        return super().held_out()

    def draw(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Component i sits at angle 2 pi i / num_modes; sizes differ by one point at most."""
        labels = np.arange(self.num_points) % self.num_modes
        angle = 2 * np.pi * labels / self.num_modes
        return np.stack([np.cos(angle), np.sin(angle)], axis=1), labels


@dataclass(frozen=True, kw_only=True)
class Checkerboard(ToySpec):
    """Uniform on the 8 dark squares of a 4 x 4 board over [-1, 1]²."""

    name = "checkerboard"
    noise: float = 0.0

    def draw(self, rng: np.random.Generator) -> tuple[np.ndarray, None]:
        """A square, then a place in it."""
        column = rng.integers(0, 4, self.num_points)
        row = 2 * rng.integers(0, 2, self.num_points) + column % 2
        place = rng.uniform(0, 1, (self.num_points, 2))
        return (np.stack([column, row], axis=1) + place) / 2 - 1, None


@dataclass(frozen=True, kw_only=True)
class TwoPoints(DatasetSpec):
    """The two points -1 and +1 on a line, a class each: everything about them is known exactly."""

    def read(self) -> Dataset:
        """[2, 1] float32."""
        return Dataset(
            name="two_points",
            x=np.array([[-1.0], [1.0]], np.float32),
            labels=np.array([0, 1], np.int32),
            class_names=("-1", "+1"),
        )
