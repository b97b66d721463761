"""What a run leaves besides its samples: each result declares its files and its numbers."""

import abc
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from gdiff.errors import Failures
from gdiff.prepared import Experiment, Prepared
from gdiff.store.outputs import RunFolder
from gdiff.trajectory import States


@dataclass
class Sampled:
    """A run whose samples are there.

    Attributes:
        prepared: its parts.
        folder: where its results go.
        samples: [n, *event]; None in all processes but the first.
        failed: what could not be made: an artefact by its phase, a part of it as "phase: part".
    """

    prepared: Prepared
    folder: RunFolder
    samples: np.ndarray | None
    failed: Failures = field(default_factory=Failures)


class Artefact(abc.ABC):
    """A result of a run.

    Attributes:
        phase: under which its seconds are counted.
        files: without which a run is not complete.
        is_measure: whether `gdiff evaluate` makes it again.
        is_shared: whether all processes make it; else the first one does, without the others.
        is_late: whether it can be made after sampling.
        more_names: of the numbers in metrics.json that it may give, but that are no objectives.
    """

    phase: ClassVar[str]
    files: ClassVar[tuple[str, ...]] = ()
    is_measure: ClassVar[bool] = True
    is_shared: ClassVar[bool] = False
    is_late: ClassVar[bool] = True
    more_names: ClassVar[tuple[str, ...]] = ()

    @abc.abstractmethod
    def is_wanted(self, experiment: Experiment) -> bool:
        """Whether an experiment asks for it."""

    def names(self, experiment: Experiment) -> Sequence[str]:
        """Of the numbers in metrics.json that it may give; by default none."""
        return ()

    def lacking(self, experiment: Experiment) -> dict[str, str]:
        """Why some of these cannot be had for an experiment, by name."""
        return {}

    def states(self, prepared: Prepared) -> States:
        """Collects states of the first batch on their way; by default none."""
        return States([], 0)

    def keep(self, prepared: Prepared, folder: RunFolder, states: States) -> None:  # noqa: B027 states has none
        """Write what the states show, once they are collected."""

    @abc.abstractmethod
    def make(self, run: Sampled) -> dict[str, float]:
        """Write the files, and give the numbers."""
