"""What a run leaves besides its samples: each result declares its files and its numbers."""

import abc
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from gdiff.errors import Failures
from gdiff.experiment import Experiment
from gdiff.parallel import processes
from gdiff.prepared import Prepared
from gdiff.progress import notice
from gdiff.store.outputs import RUN, RunFolder
from gdiff.trajectory import States

_MOMENT = 5.0  # seconds that are not worth a word


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

    def announce(self, what: str, evaluations: float, without: str) -> None:
        """Say what a measurement will cost, where that is no moment.

        Args:
            what: it is.
            evaluations: of the score, at most.
            without: the override that leaves it out.
        """
        if not processes.is_first():
            return
        account = self.folder.read_json(RUN)
        own = self.prepared.experiment.num_samples * self.prepared.steps.evaluations
        seconds = account.get("sampling_seconds", 0.0) / own * evaluations
        if seconds >= _MOMENT:
            notice(
                f"{what}: up to {evaluations:,.0f} evaluations of the score, some {seconds:.0f} s "
                f"({without} leaves it out)"
            )


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
