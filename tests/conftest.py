"""Fixtures shared by all tests."""

import os
import signal
from pathlib import Path

# Small linear algebra on many threads crawls when other processes share the cores.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# Eight CPU devices, so that shardings are exercised on any machine; set before JAX starts.
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Tests neither read nor fill the user's cache; theirs is kept, for all workers and later runs.
os.environ["GDIFF_CACHE"] = str(Path(__file__).parents[1] / ".pytest_cache" / "gdiff")

import numpy as np
import pytest
from compiles import Compiles

# A shell has what it starts in the background ignore Ctrl-C, which processes under test inherit.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_configure(config: pytest.Config) -> None:
    has_workers = bool(config.getoption("tx", None))
    config.pluginmanager.register(Compiles(has_workers=has_workers))


@pytest.fixture
def undrawn(monkeypatch):
    """Plots are made but not drawn, which takes as long as all else of a small run."""
    blank = np.zeros((1, 1, 3), np.uint8)
    monkeypatch.setattr("gdiff.figures.encode.rendered", lambda figure: blank)


@pytest.fixture(scope="session")
def real_data_dir() -> Path:
    """Folder with prepared TFDS copies of MNIST and CIFAR-10, or skip.

    Taken from GDIFF_TEST_DATA, else `shared/tfds` beside the checkout.
    """
    default = Path(__file__).parents[2] / "shared" / "tfds"
    folder = Path(os.environ.get("GDIFF_TEST_DATA", default))
    if not (folder / "mnist").is_dir():
        pytest.skip(f"no prepared MNIST under {folder}; set GDIFF_TEST_DATA to a TFDS folder")
    return folder
