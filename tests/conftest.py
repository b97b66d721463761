"""Fixtures shared by all tests."""

import os
import signal
from pathlib import Path

# Small linear algebra on many threads crawls when other processes share the cores.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# Four CPU devices, so that shardings are exercised on any machine; set before JAX starts. Of two
# flags of a name the last one counts.
os.environ["XLA_FLAGS"] = (
    f"--xla_force_host_platform_device_count=4 {os.environ.get('XLA_FLAGS', '')}".strip()
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Tests neither read nor fill the user's cache; theirs is kept, for all workers and later runs.
os.environ["GDIFF_CACHE"] = str(Path(__file__).parents[1] / ".pytest_cache" / "gdiff")
# Compiled programs are shared by all workers and by the processes that they start.
os.environ["JAX_COMPILATION_CACHE_DIR"] = os.path.join(os.environ["GDIFF_CACHE"], "programs")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

import jax
import numpy as np
import pytest
from compiles import Compiles
from jaxtyping import install_import_hook
from shapes import COMPUTING

from gdiff.store import programs

if os.environ.get("GDIFF_TEST_SHAPES"):
    install_import_hook(COMPUTING, "shapes.checked")

# A shell has what it starts in the background ignore Ctrl-C, which processes under test inherit.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_configure(config: pytest.Config) -> None:
    has_workers = bool(config.getoption("tx", None))
    config.pluginmanager.register(Compiles(has_workers=has_workers))


# Folders about numerics and memory: they test what users run, and so do slow tests.
_OPTIMIZED = {"score", "kernels", "parallel", "gpu"}
_QUICK = "JAX_DISABLE_MOST_OPTIMIZATIONS"


@pytest.hookimpl(tryfirst=True)  # before the fixtures, which compile too
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Most of the time of tests is the compiler's: it leaves most optimizations out of the rest."""
    is_quick = item.path.parent.name not in _OPTIMIZED and not any(
        map(item.get_closest_marker, ("optimized", "slow"))
    )
    if os.environ.get(_QUICK) == str(int(is_quick)):
        return
    os.environ[_QUICK] = str(int(is_quick))  # for processes that it starts, and JAX if still unused
    if hasattr(jax.config, _QUICK.lower()):
        jax.config.update(_QUICK.lower(), is_quick)
        jax.clear_caches()  # what is compiled already would be taken as it is


def pytest_runtest_teardown() -> None:
    """Tests of one process compile more than the system lets it map."""
    programs.forget_if_many()


@pytest.fixture
def in_empty_folder(tmp_path, monkeypatch):
    """The current folder is an empty one, so that runs go there."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def silent(monkeypatch):
    """No progress is shown, however long it takes."""
    monkeypatch.setattr("gdiff.progress._SHOW_AFTER_SECONDS", 3600.0)


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
