"""Seconds by phase of a run."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field

from gdiff.memory import remedied
from gdiff.progress import track

log = logging.getLogger(__name__)


@dataclass
class Watch:
    """Seconds that one block took, once it has ended."""

    seconds: float = 0.0


@dataclass
class Clock:
    """Seconds by phase; those of a phase within another one are not the other's too."""

    seconds: dict[str, float] = field(default_factory=dict)
    # Of the phases that are going on, the seconds of those within.
    _within: list[float] = field(default_factory=list)

    @contextmanager
    def phase(self, name: str, *, shown: bool = True) -> Iterator[Watch]:
        """Add the duration of the block to phase `name`, shown to the user if it is long.

        Raises:
            UserError: memory ran out.
        """
        watch, begin = Watch(), time.perf_counter()
        self._within.append(0.0)
        try:
            with remedied(name), track(name) if shown else nullcontext():
                yield watch
        finally:
            watch.seconds = time.perf_counter() - begin
            own = watch.seconds - self._within.pop()
            if self._within:
                self._within[-1] += watch.seconds
            self.seconds[name] = self.seconds.get(name, 0.0) + own
            log.info("%s: %.2f s", name, own)
