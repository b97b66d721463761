"""Noise levels that are given, one by one."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import ClassVar

import numpy as np

from gdiff.errors import UserError, require
from gdiff.process.base import ProcessSpec
from gdiff.schedule.base import ScheduleSpec

# Under these a JSON object may hold its list.
_KEYS = ("sigmas", "sigma", "levels")


@dataclass(frozen=True, kw_only=True)
class Levels(ScheduleSpec):
    """Nodes from a list or a file; also what a schedule that follows the data becomes.

    Attributes:
        steps: None, or the number that there are.
        sigma_max: levels above it are left out; None keeps all.
        sigma_min: levels below it are left out; None keeps all.
        levels: positive noise levels in decreasing order; the last may be 0, which is where
            `to_zero` ends in any case.
        file: in their place: .npy, .json (a list, or an object with a list `sigmas`), or text.
    """

    steps: int | None = None
    sigma_max: float | None = None
    sigma_min: float | int | str | None = None
    levels: list[float] | None = None
    file: Path | None = None

    finds_steps: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            (self.levels is None) != (self.file is None),
            f"levels={self.levels} and file={self.file}: give one of them, as in "
            "schedule.levels=[80,20,5,1]",
        )
        count = self._given().size - (not self.to_zero)
        require(
            self.steps is None or self.horizon is not None or self.steps == count,
            f"steps={self.steps}: the levels make {count} steps; leave it null",
        )

    @classmethod
    def of(cls, spec: ScheduleSpec, nodes: Iterable[float]) -> "Levels":
        """The nodes of a schedule that has found them, with what all schedules share."""
        shared = {field.name: getattr(spec, field.name) for field in fields(ScheduleSpec)}
        levels = [float(sigma) for sigma in nodes]
        # A single node is the largest one, and may lie above what was to be the last.
        low = levels[-1] if len(levels) > 1 else None
        ends = {"steps": len(levels) - (not spec.to_zero), "horizon": None}
        return cls(**shared | ends | {"sigma_max": levels[0], "sigma_min": low}, levels=levels)

    def _given(self) -> np.ndarray:
        """The positive levels of the list or the file.

        Raises:
            UserError: they are no decreasing noise levels.
        """
        named = f"levels={self.levels}" if self.file is None else f"file={self.file}"
        values = self.levels if self.file is None else read_numbers(self.file, named)
        sigma = np.asarray(values, np.float64).reshape(-1)
        sigma = sigma[:-1] if len(sigma) and sigma[-1] == 0 else sigma
        is_whole = len(sigma) > (not self.to_zero) and np.all(np.isfinite(sigma) & (sigma > 0))
        require(bool(is_whole), f"{named} must be positive noise levels, two or more with the end")
        require(bool(np.all(np.diff(sigma) < 0)), f"{named} must decrease: sort the noise levels")
        return sigma

    def _kept(self) -> np.ndarray:
        """Those between the two ends."""
        sigma = self._given()
        low, high = self.sigma_min or 0.0, self.sigma_max or np.inf
        kept = sigma[(low <= sigma) & (sigma <= high)]
        require(
            len(kept) > (not self.to_zero),
            f"schedule.sigma_min={self.sigma_min} and schedule.sigma_max={self.sigma_max} leave "
            "too few of the levels: widen them",
        )
        return kept

    @property
    def node_count(self) -> int:
        """As many as there are."""
        return len(self._kept())

    def nodes(self, process: ProcessSpec, count: int) -> np.ndarray:
        """The levels."""
        return self._kept()

    def starting_at(self, sigma: float) -> "ScheduleSpec":
        """The levels at and below that one."""
        return replace(self, sigma_max=float(sigma), horizon=None, steps=None)

    def reaching(self, sigma: float, process: ProcessSpec) -> "ScheduleSpec":
        """The levels from the last one on that is no lower."""
        high = self._kept()
        return self.starting_at(high[high >= sigma].min(initial=high[0]))


def read_numbers(path: Path, named: str) -> np.ndarray:
    """The numbers in a file: .npy, .json (a list, or an object with a list `sigmas`), or text.

    Args:
        path: of the file.
        named: what to call it in an error.

    Raises:
        UserError: it cannot be read, or holds something else.
    """
    try:
        if path.suffix == ".npy":
            return np.asarray(np.load(path, allow_pickle=False), np.float64)
        text = path.read_text(encoding="utf-8")
        if path.suffix != ".json":
            return np.array(text.replace(",", " ").split(), np.float64)
        found = json.loads(text)
        if isinstance(found, dict):
            found = next((found[key] for key in _KEYS if key in found), None)
        return np.array(found, np.float64)
    except OSError as error:
        raise UserError(f"{named} cannot be read ({error.strerror}): give another file") from error
    except (ValueError, TypeError, EOFError) as error:
        raise UserError(f"{named} holds no list of numbers: .npy, .json and text can") from error
