"""Seconds by phase of a run."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field

from gdiff.progress import track

log = logging.getLogger(__name__)


@dataclass
class Watch:
    """Seconds that one block took, once it has ended."""

    seconds: float = 0.0


@dataclass
class Clock:
    """Seconds by phase."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str, *, shown: bool = True) -> Iterator[Watch]:
        """Add the duration of the block to phase `name`, shown to the user if it is long."""
        watch, begin = Watch(), time.perf_counter()
        try:
            with track(name) if shown else nullcontext():
                yield watch
        finally:
            watch.seconds = time.perf_counter() - begin
            self.seconds[name] = self.seconds.get(name, 0.0) + watch.seconds
            log.info("%s: %.2f s", name, watch.seconds)
