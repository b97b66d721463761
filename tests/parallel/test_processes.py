"""Several local processes that work on one run, over the loopback device."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import fields
import jax
import numpy as np
import pytest

from gdiff.errors import UserError
from gdiff.parallel import processes
from gdiff.runtime import Runtime
from gdiff.store.outputs import RunFolder

JOB = ["num_samples=24", "batch_size=8", "schedule.steps=8", "sampler=ddpm", "metrics=none"]
LONG = ["num_samples=1024", "batch_size=8", *JOB[2:]]
LOST = "error: another process of this run has ended or does not answer"


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def command(*words, devices=1):
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
    }
    return subprocess.Popen(
        [sys.executable, "-m", "gdiff", "sample", "-q", *words],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def start(count, *words, devices=1):
    """The processes of one run."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = ["runtime.distributed=true", f"runtime.coordinator=127.0.0.1:{port}"]
    place += [f"runtime.num_processes={count}"]
    return [
        command(*words, *place, f"runtime.process_id={i}", devices=devices) for i in range(count)
    ]


def outcomes(processes, timeout=300):
    """(exit code, stdout, stderr) of all; none is left behind."""
    try:
        deadline = time.monotonic() + timeout
        texts = [p.communicate(timeout=deadline - time.monotonic()) for p in processes]
        return [(p.returncode, *text) for p, text in zip(processes, texts, strict=True)]
    finally:
        for process in processes:
            process.kill()


def check_same(folder, *words, tolerance=1e-5):
    """Samples in a folder are those of one process with one device."""
    assert outcomes([command(*words, "hydra.run.dir=alone")])[0][0] == 0
    expected = RunFolder(Path("alone")).samples()
    assert np.abs(RunFolder(Path(folder)).samples() - expected).max() <= tolerance


def wait_for_samples(folder, processes):
    while not any((Path(folder) / "chunks").glob("*.npz")):
        assert all(process.poll() is None for process in processes), outcomes(processes)
        time.sleep(0.05)


def test_two_processes_with_half_of_the_rows_each_draw_the_samples_of_one():
    found = outcomes(start(2, *JOB, "hydra.run.dir=two", "runtime.mesh=data:2"))
    assert found == [(0, "two\n", ""), (0, "", "")]
    check_same("two", *JOB)
    assert sorted(path.name for path in Path().iterdir()) == ["alone", "two"]
    # How many processes there were does not belong to the run.
    assert Path("two/config.yaml").read_text() == Path("alone/config.yaml").read_text().replace(
        "mesh: auto", "mesh: data:2"
    )


def test_without_a_cluster_the_error_says_what_to_set():
    ((code, out, err),) = outcomes([command("runtime.distributed=true")])
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert "runtime.coordinator, runtime.process_id and runtime.num_processes" in err


@pytest.mark.parametrize("port", [0, 65536, 99999])
def test_a_port_that_there_is_not_is_refused(port):
    with pytest.raises(UserError, match="ports are 1 to 65535"):
        Runtime(distributed=True, coordinator=f"localhost:{port}", process_id=0, num_processes=2)


def test_a_coordinator_that_cannot_be_is_refused_before_anything_is_waited_for():
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        place = f"localhost:{taken.getsockname()[1]}"
        with pytest.raises(UserError, match=rf"{place}: the port cannot be had on this machine"):
            processes.join(place, 0, 2)
    with pytest.raises(UserError, match=r"there is no machine nowhere\.invalid"):
        processes.join("nowhere.invalid:1234", 1, 2)


def test_it_is_said_what_is_waited_for(capsys, monkeypatch):
    monkeypatch.setattr(processes, "_SILENCE_SECONDS", 0.05)
    monkeypatch.setattr(processes, "_silence_libraries", lambda: None)
    monkeypatch.setattr(processes, "_catch_aborts", lambda: None)
    monkeypatch.setattr(jax.config, "update", lambda *_: None)
    monkeypatch.setattr(jax.distributed, "initialize", lambda *_, **__: time.sleep(0.2))
    processes.join("localhost:1234", 1, 2)
    line = "waiting for the other processes of this run at runtime.coordinator=localhost:1234\n"
    assert capsys.readouterr().err == line
    monkeypatch.setattr(jax.distributed, "initialize", lambda *_, **__: None)
    processes.join("localhost:1234", 1, 2)
    time.sleep(0.1)
    assert capsys.readouterr().err == ""


def test_a_single_process_decides_and_is_told_by_itself():
    assert processes.is_first()
    assert not processes.is_on()
    assert processes.broadcast(lambda: 3) == 3
    assert not processes.all_processes(False)


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ["score=pca_local", "prior=gmm"],
        ["sampler.block_size=all"],
        ["schedule=las"],
    ],
)
def test_four_processes_with_two_devices_each(words):
    mesh = "runtime.mesh=data:4/batch:2"
    found = outcomes(start(4, *JOB, *words, "hydra.run.dir=four", mesh, devices=2))
    assert found == [(0, "four\n", ""), *[(0, "", "")] * 3]
    check_same("four", *JOB, *words)


@pytest.mark.slow
@pytest.mark.parametrize(
    "count, devices, mesh", [(2, 1, "batch:2"), (4, 2, "data:4/batch:2")], ids=["two", "four"]
)
def test_processes_measure_the_plan_of_the_golden_scan_together(count, devices, mesh):
    words = [*JOB[:-1], *fields.saved("fields.npy"), "score=golden", "trajectory=true"]
    run = start(count, *words, "hydra.run.dir=some", f"runtime.mesh={mesh}", devices=devices)
    assert outcomes(run) == [(0, "some\n", ""), *[(0, "", "")] * (count - 1)]
    # Where the rows are split, every device has a head of its own.
    check_same("some", *words, tolerance=1e-3 if "data" in mesh else 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("count,victim,resumed_by", [(2, 1, 1), (2, 0, 2), (4, 2, 2)])
def test_a_killed_process_ends_the_others_and_resume_completes_the_run(count, victim, resumed_by):
    processes = start(count, *LONG, "hydra.run.dir=run")
    wait_for_samples("run", processes)
    processes[victim].kill()
    found = outcomes(processes, timeout=60)
    assert found.pop(victim)[0] == -signal.SIGKILL
    for code, out, err in found:
        assert (code, out, err.count("\n")) == (1, "", 1)
        assert err.startswith(LOST)
    if resumed_by == 1:
        found = outcomes([command("--resume", "run")])
    else:
        found = outcomes(start(resumed_by, "--resume", "run"))
    assert found == [(0, "run\n", ""), *[(0, "", "")] * (resumed_by - 1)]
    check_same("run", *LONG)


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_process_that_hangs_ends_the_others_within_a_minute(victim):
    processes = start(2, *LONG, "hydra.run.dir=run")
    wait_for_samples("run", processes)
    processes[victim].send_signal(signal.SIGSTOP)
    ((code, out, err),) = outcomes([processes[1 - victim]], timeout=60)
    processes[victim].kill()
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert err.startswith(LOST)


@pytest.mark.slow
def test_an_error_of_the_first_process_ends_the_others():
    Path("taken").mkdir()
    Path("taken/paper.txt").write_text("mine")
    first, second = outcomes(start(2, *JOB, "hydra.run.dir=taken"), timeout=60)
    assert first[0] == 2
    assert "is not empty (it holds paper.txt)" in first[2]
    assert second[0] == 1
    assert second[2].startswith(LOST)
