"""What the system refuses is one line in every verb, and leaves nothing."""

import errno
import os
import re
import resource
from pathlib import Path

import jax
import pytest
from commands import SMALL, gdiff

from gdiff.cli import endings
from gdiff.errors import UserError

LONG = "x" * 300


pytestmark = pytest.mark.usefixtures("in_empty_folder")


def refused(*words):
    """The one line of a command that must fail and leave no trace."""
    before = sorted(Path.cwd().rglob("*"))
    result = gdiff(*words)
    assert result.code == 2, result
    assert re.fullmatch(r"error: [^\n]+\n", result.err), result.err
    assert result.out == ""
    assert sorted(Path.cwd().rglob("*")) == before
    return result.err


@pytest.mark.parametrize(
    "words",
    [
        ("sample", "-q", f"hydra.run.dir={LONG}"),
        ("sample", "-q", "-m", "seed=0,1", f"hydra.sweep.dir={LONG}"),
        ("sample", "-q", "dataset=array", f"dataset.path={LONG}.npy", "hydra.run.dir=r"),
        ("sample", "-q", "dataset=folder", f"dataset.path={LONG}", "hydra.run.dir=r"),
        ("sample", "--config-dir", LONG),
        ("sample", "--resume", LONG),
        ("evaluate", LONG),
        ("schedule", f"hydra.run.dir={LONG}"),
        ("plan", "tolerance=0.1", "dataset=array", f"dataset.path={LONG}.npy"),
        ("bench", "-o", f"{LONG}/x.json"),
        ("data", "info", "dataset=array", f"dataset.path={LONG}.npy"),
        ("data", "prepare", "synthetic", "--points", "3", "--resolution", "8", "-o", LONG),
    ],
    ids=lambda words: " ".join(words).replace(LONG, "LONG"),
)
def test_a_name_that_is_too_long_is_one_line(words):
    assert LONG in refused(*words)


@pytest.mark.parametrize("verb", ["sample", "evaluate"])
def test_a_folder_that_may_not_be_read_is_one_line(verb, monkeypatch):
    def refuse(path, *_):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr("gdiff.store.outputs.require_run", refuse)
    words = ("sample", "--resume", "r") if verb == "sample" else ("evaluate", "r")
    assert refused(*words) == (
        "error: r: Permission denied: change its permissions, or choose another path\n"
    )


@pytest.mark.parametrize("number", endings._REMEDIES)
def test_what_the_system_says_is_told_with_the_file_and_the_way_out(number):
    line = endings.error_line(OSError(number, os.strerror(number), "a/b"), "run 3: ")
    assert line.startswith(f"error: run 3: a/b: {os.strerror(number)}: ")
    assert endings.in_words(OSError(number, os.strerror(number))).startswith(os.strerror(number))


def test_other_errors_of_the_system_say_how_to_see_more():
    assert endings.in_words(OSError(errno.EIO, "Input/output error", b"a")) == (
        "a: Input/output error: GDIFF_DEBUG=1 shows where"
    )
    assert endings.in_words(OSError("own words")) == "own words"
    assert endings.in_words(UserError("own words")) == "own words"


def test_a_full_disk_before_the_run_begins_is_one_line_and_leaves_nothing(monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("hydra.core.utils._save_config", full)
    for words in (("hydra.run.dir=a/r",), ("-m", "seed=0,1", "hydra.sweep.dir=a/s")):
        folder = Path(words[-1].partition("=")[2]).absolute()
        assert refused("sample", "-q", *words) == (
            f"error: {folder}: No space left on device: make room there, or choose another path\n"
        )


def test_a_log_that_cannot_be_opened_is_one_line(monkeypatch):
    def refuse(path, *_, **__):
        raise PermissionError(errno.EACCES, "Permission denied", path)

    monkeypatch.setattr("logging.FileHandler._open", lambda self: refuse(self.baseFilename))
    assert "r/gdiff.log: Permission denied: change" in refused("sample", "-q", "hydra.run.dir=r")
    Path("r").mkdir()
    Path("r/config.yaml").write_text(gdiff("sample", "--dry-run").out)
    assert "r/gdiff.log: Permission denied: change" in refused("sample", "-q", "--resume", "r")


@pytest.fixture
def _small_files():
    """Files may have 20 kB, which are fewer than the samples need."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.usefixtures("_small_files")
def test_a_limit_of_file_sizes_fails_the_runs_of_a_sweep_in_one_line_each(monkeypatch):
    monkeypatch.setattr("gdiff.cli.launch._text", lambda _: "x" * 30_000)
    words = (*SMALL, "seed=0,1", "hydra.sweep.dir=s")
    result = gdiff("sample", "-q", "-m", *words)
    assert result.code == 2
    lines = result.err.splitlines()
    assert [line.partition(" cannot write")[0] for line in lines[:2]] == [
        "error: run 0:",
        "error: run 1:",
    ]
    assert lines[2:] == ["error: 2 of 2 runs failed: 0, 1"]


@pytest.mark.parametrize(
    "error", [AssertionError(), RuntimeError("Unable to initialize backend 'cuda':\nmore")]
)
def test_a_platform_that_is_not_here_is_one_line_and_leaves_no_run(error, monkeypatch):
    def fail(*_):
        raise error

    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    monkeypatch.setattr(jax, "devices", fail)
    job = ("dataset=moons", *SMALL[:3])
    for words in (("sample", "-q", *job, "hydra.run.dir=r"), ("info",), ("bench", *job)):
        assert "JAX finds no devices for JAX_PLATFORMS='cuda'" in refused(*words)


def test_a_working_folder_that_looks_like_a_reference_is_one_line(tmp_path, monkeypatch):
    folder = tmp_path / "${x}"
    folder.mkdir()
    refused("sample", "-q", f"hydra.run.dir={folder}/r")
    refused("sample", "-q", r"hydra.run.dir='\${x}/r'")
    monkeypatch.chdir(folder)
    for words in (("sample", "-q"), ("sample", "-q", "-m", "seed=0,1"), ("schedule",)):
        assert f"Hydra takes ${{ in {folder} for a reference" in refused(*words)
