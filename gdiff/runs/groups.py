"""Runs that differ in their seeds alone, averaged."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from gdiff.runs.differ import differing
from gdiff.runs.past import PastRun

SEED = "seed"


class Mean(NamedTuple):
    """An average over seeds.

    Attributes:
        value: the mean.
        error: its standard error; None of a single number.
        count: how many numbers.
    """

    value: float
    error: float | None
    count: int


class Group(NamedTuple):
    """Complete runs that share all settings but the seed.

    Attributes:
        settings: those in which groups differ: key → value, as text; None where there is none.
        runs: of the group.
    """

    settings: dict[str, str | None]
    runs: list[PastRun]

    @property
    def seeds(self) -> str:
        """Of its runs, as text."""
        return ",".join(str(run.settings.get(SEED, "")) for run in self.runs)

    def mean(self, metric: str) -> Mean | None:
        """Of a metric; None where no run has it."""
        return mean([run.metrics[metric] for run in self.runs if metric in run.metrics])


def mean(numbers: Sequence[float]) -> Mean | None:
    """The mean of numbers, and its standard error; None of no numbers."""
    if not numbers:
        return None
    count, average = len(numbers), math.fsum(numbers) / len(numbers)
    if count == 1:
        return Mean(average, None, 1)
    spread = math.fsum((x - average) ** 2 for x in numbers) / (count - 1)
    return Mean(average, math.sqrt(spread / count), count)


def seeds_apart(runs: Sequence[PastRun]) -> list[Group]:
    """Complete runs by their settings without the seed, in the order of the runs."""
    differences = [d for d in differing(runs) if d.key != SEED]
    found: dict[tuple[str | None, ...], Group] = {}
    for place, run in enumerate(runs):
        if run.is_done:
            values = tuple(d.values[place] for d in differences)
            names: Mapping[str, str | None] = dict(
                zip((d.key for d in differences), values, strict=True)
            )
            found.setdefault(values, Group(dict(names), [])).runs.append(run)
    return list(found.values())
