"""Who may work in a run folder, and which of its files are opened."""

import errno
import os
import subprocess
import sys
import time

import pytest

from gdiff.errors import UserError
from gdiff.store import outputs
from gdiff.store.outputs import RunFolder, vacant


@pytest.fixture
def run(tmp_path):
    with RunFolder.create(tmp_path / "run", "seed: 0\n") as run:
        yield run


def names(path):
    return sorted(p.name for p in path.rglob("*"))


def fail_in(path, error, *files):
    def work():
        with vacant(path, "hydra.run.dir"):
            for file in files:
                (path / file).parent.mkdir(parents=True, exist_ok=True)
                (path / file).write_text("")
            raise error

    with pytest.raises(type(error)):
        work()


def test_a_block_that_fails_without_results_leaves_no_trace(tmp_path):
    files = (".hydra/config.yaml", "config.yaml", "gdiff.log")
    fail_in(tmp_path / "a" / "b", UserError("bad"), *files)
    assert names(tmp_path) == []
    (tmp_path / "a").mkdir()
    fail_in(tmp_path / "a", UserError("bad"), *files)
    assert names(tmp_path) == ["a"], "the user's own folder stays"


def test_of_two_processes_that_claim_a_folder_at_once_one_gets_it_and_keeps_its_files(tmp_path):
    code = (
        "import pathlib, sys\n"
        "from gdiff.store.outputs import vacant\n"
        "sys.stdin.readline()\n"
        "with vacant(pathlib.Path(sys.argv[1]), 'hydra.run.dir'):\n"
        "    (pathlib.Path(sys.argv[1]) / 'config.yaml').write_text('')\n"
        "    print('mine', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    path = tmp_path / "a" / "b"
    both = [
        subprocess.Popen([sys.executable, "-c", code, path], text=True, **pipes) for _ in range(2)
    ]
    for process in both:
        process.stdin.write("go\n")
        process.stdin.flush()
    while not (ended := [p for p in both if p.poll() is not None]):
        time.sleep(0.01)
    (loser,) = ended
    (winner,) = set(both) - {loser}
    assert winner.stdout.readline() == "mine\n"
    assert names(path) == [".lock", "config.yaml"]
    out, err = loser.communicate()
    assert (out, err.splitlines()[-1].split(":")[0]) == ("", "gdiff.errors.UserError")
    winner.communicate()
    assert names(path) == ["config.yaml"]


def test_a_claim_holds_for_the_whole_block_and_is_not_taken_away_by_the_next(tmp_path):
    path = tmp_path / "a"
    with vacant(path, "hydra.run.dir"):
        with pytest.raises(UserError, match="another process"), vacant(path, "hydra.run.dir"):
            pass
        with RunFolder.create(path, "seed: 0\n", is_claimed=True):
            pass
        with pytest.raises(UserError, match="another process"), RunFolder.open(path):
            pass
    assert names(path) == ["config.yaml"]


def test_what_a_run_leaves_that_was_killed_before_it_began_is_vacant_but_stays(tmp_path):
    (tmp_path / ".hydra").mkdir()
    leftovers = (".hydra/config.yaml", ".lock", "config.yaml.partial", "gdiff.log")
    for name in leftovers:
        (tmp_path / name).write_text("")
    fail_in(tmp_path, UserError("bad"))
    assert names(tmp_path) == [".hydra", "config.yaml", "config.yaml.partial", "gdiff.log"]
    (tmp_path / ".lock").write_text("")
    with vacant(tmp_path, "hydra.run.dir"):
        pass


def test_a_lock_file_among_other_things_is_not_touched(tmp_path):
    (tmp_path / ".lock").write_text("mine")
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="not empty"), vacant(tmp_path, "hydra.run.dir"):
        pass
    assert (tmp_path / ".lock").read_text() == "mine"


def as_link(path, elsewhere):
    path.symlink_to(elsewhere)


def as_pipe(path, elsewhere):
    os.mkfifo(path)


def as_folder(path, elsewhere):
    path.mkdir()


NOT_PLAIN = pytest.mark.parametrize(
    "make, kind", [(as_link, "a link"), (as_pipe, "a named pipe"), (as_folder, "a folder")]
)
OPENED = [".lock", "gdiff.log", "config.yaml", "run.json", "metrics.json", "samples.npz"]
OPENED += [".hydra/config.yaml", "chunks/000000.npz"]


@NOT_PLAIN
@pytest.mark.parametrize("name", OPENED)
def test_a_file_of_a_run_folder_that_is_no_plain_file_is_refused(tmp_path, name, make, kind):
    thesis, folder = tmp_path / "thesis.txt", tmp_path / "run"
    thesis.write_text("mine")
    path = folder / name
    path.parent.mkdir(parents=True)
    if name != "config.yaml":
        (folder / "config.yaml").write_text("")
    make(path, thesis)
    with pytest.raises(UserError, match=rf"{name} is {kind}.*: remove it"), RunFolder.open(folder):
        pass
    assert thesis.read_text() == "mine"
    assert not (folder / ".lock").is_file() or name == ".lock"


@NOT_PLAIN
@pytest.mark.parametrize("name", [".lock", "gdiff.log", ".hydra/hydra.yaml"])
def test_what_a_killed_run_left_is_not_written_through(tmp_path, name, make, kind):
    (tmp_path / "thesis.txt").write_text("mine")
    path = tmp_path / "run" / name
    path.parent.mkdir(parents=True)
    make(path, tmp_path / "thesis.txt")
    with pytest.raises(UserError, match=rf"{name} is {kind}"):
        claim(tmp_path / "run")
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def claim(path):
    with vacant(path, "hydra.run.dir"):
        pytest.fail("the folder was taken")


@pytest.mark.parametrize("name", ["chunks", ".hydra"])
def test_a_folder_within_that_leads_elsewhere_is_refused(tmp_path, name):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.partial").write_text("mine")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("")
    (tmp_path / "run" / name).symlink_to(tmp_path / "mine")
    with (
        pytest.raises(UserError, match="is a link and not a folder"),
        RunFolder.open(tmp_path / "run"),
    ):
        pass
    assert names(tmp_path / "mine") == ["thesis.partial"]


@pytest.mark.parametrize("make", [as_link, as_pipe])
def test_writing_replaces_what_is_no_plain_file(run, tmp_path, make):
    (tmp_path / "thesis.txt").write_text("mine")
    for name in ("grid.png", "metrics.json.partial"):
        make(run.path / name, tmp_path / "thesis.txt")
    run.write_bytes("grid.png", b"new")
    run.write_json("metrics.json", {})
    assert (run.path / "grid.png").read_bytes() == b"new"
    assert (tmp_path / "thesis.txt").read_text() == "mine"


@NOT_PLAIN
def test_reading_what_is_no_plain_file_is_refused_at_once(tmp_path, make, kind):
    (tmp_path / "thesis.txt").write_text("{}")
    make(tmp_path / "run.json", tmp_path / "thesis.txt")
    with pytest.raises(UserError, match=rf"run\.json is {kind}"):
        outputs.read_json(tmp_path / "run.json")


def test_the_content_of_a_lock_file_stays(tmp_path):
    (tmp_path / ".lock").write_text("mine")
    with vacant(tmp_path, "hydra.run.dir"):
        assert (tmp_path / ".lock").read_text() == "mine"


def test_a_folder_named_like_a_half_written_file_is_left_alone_and_named(run):
    (run.path / "x.partial").mkdir()
    (run.path / "run.json.partial").mkdir()
    os.remove(run.path / ".lock")
    with RunFolder.open(run.path) as again:
        assert (run.path / "x.partial").is_dir()
        with pytest.raises(
            UserError, match=r"cannot write .*run\.json.*remove .*run\.json\.partial"
        ):
            again.write_json("run.json", {})


def test_a_file_system_without_locks_is_done_without(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    with vacant(tmp_path / "a", "hydra.run.dir"):
        pass
    assert names(tmp_path) == ["a"]


def test_results_survive_a_failure(tmp_path):
    fail_in(tmp_path / "a", UserError("disk full"), "config.yaml", "chunks/000000.npz")
    assert "000000.npz" in names(tmp_path)


def test_a_run_that_was_interrupted_can_be_continued_once_it_has_begun(tmp_path):
    fail_in(tmp_path / "a", KeyboardInterrupt(), ".hydra/config.yaml")
    assert names(tmp_path) == []
    fail_in(tmp_path / "a", KeyboardInterrupt(), "config.yaml")
    assert "config.yaml" in names(tmp_path)


@pytest.mark.parametrize("error", [UserError("bad"), OSError(28, "No space left on device")])
def test_a_full_disk_before_the_run_begins_leaves_no_trace(tmp_path, error):
    fail_in(tmp_path / "a" / "b", error, ".hydra/config.yaml", "config.yaml", "gdiff.log")
    assert names(tmp_path) == []


def test_a_lock_that_cannot_be_written_leaves_no_trace(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("gdiff.store.lock.open_plain", full)
    with pytest.raises(UserError, match=r"cannot write to the run folder .*No space left"):
        claim(tmp_path / "a" / "b")
    assert names(tmp_path) == []


def test_a_name_that_is_too_long_says_which_key_to_set(tmp_path):
    with pytest.raises(UserError, match=r"File name too long.*set hydra\.run\.dir"):
        claim(tmp_path / ("x" * 300))


def test_a_bug_leaves_the_log_to_look_at(tmp_path):
    fail_in(tmp_path / "a", ZeroDivisionError(), "gdiff.log")
    assert "gdiff.log" in names(tmp_path)


def test_a_folder_in_use_is_refused_with_the_way_on(tmp_path):
    (tmp_path / "config.yaml").write_text("")
    with (
        pytest.raises(UserError, match=rf"hydra\.run\.dir.*--resume {tmp_path}"),
        vacant(tmp_path, "hydra.run.dir"),
    ):
        pass
    with (
        pytest.raises(UserError, match=r"it is not a folder.*set hydra\.run\.dir"),
        vacant(tmp_path / "config.yaml", "hydra.run.dir"),
    ):
        pass
