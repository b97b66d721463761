"""The command line under test, in this process or in one of its own."""

import contextlib
import io
import logging
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from gdiff.cli import app

# Seconds rather than minutes: few small points, few steps.
SMALL = (
    *("dataset.subset=100", "num_samples=6", "schedule.steps=4", "runtime.mesh=batch:1"),
    "metrics.budget=false",
)


class Result(NamedTuple):
    """What a command ended with."""

    code: int
    out: str
    err: str

    @property
    def last(self) -> str:
        """The last line on stdout: the run folder, or the table of a sweep."""
        return self.out.splitlines()[-1]


def gdiff(*words: object) -> Result:
    """Run a command in this process, whose logging stays as it was."""
    out, err = io.StringIO(), io.StringIO()
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    # Configuring logging closes every handler there is; absl's takes pytest's stderr with it.
    known, logging._handlerList[:] = logging._handlerList[:], []
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            app([str(word) for word in words])
            code = 0
        except SystemExit as error:
            code = error.code or 0
        finally:
            for handler in set(root.handlers) - set(handlers):
                handler.close()
            root.handlers[:] = handlers
            logging._handlerList[:] = known
            root.setLevel(level)
    return Result(code, out.getvalue(), err.getvalue())


def sampled(job: Sequence[str], folder: Path | str, *words: str) -> Path:
    """The folder of a run of `gdiff sample` that came to its end."""
    result = gdiff("sample", "-q", *job, *words, f"hydra.run.dir={folder}")
    assert result.code == 0, result.err
    return Path(folder)


def start(*words: object, devices: int | None = None, **options) -> subprocess.Popen:
    """Start a command in a process of its own, with so many CPU devices; None: as many as here."""
    environment = dict(os.environ)
    if devices is not None:
        environment["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices}"
    return subprocess.Popen(
        [sys.executable, "-m", "gdiff", *map(str, words)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )
