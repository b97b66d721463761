"""Several processes that work on one run: the first writes and prints, the others help.

All of them go through the same steps in the same order. Whatever may differ between them, such as
what is on disk or how long something took, is found by the first one and told to the others.
"""

import ctypes
import os
import pickle
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Array

from gdiff.errors import UserError

T = TypeVar("T")

# A process that is silent for so long is taken for dead.
_HEARTBEAT_SECONDS = 25
# After so long it is said that the others are waited for.
_SILENCE_SECONDS = 10
# How long the others wait in the end for what the first does alone.
_PATIENCE_SECONDS = 7 * 24 * 3600
# How JAX says, in exceptions of several types, that another process does not answer.
_LOST = re.compile("gloo|nccl|coordination|heartbeat|unavailable|connection|socket", re.IGNORECASE)

_watched: set[int] = set()
_is_alone = False
_is_ending = False


def join(
    coordinator: str | None = None, process_id: int | None = None, num_processes: int | None = None
) -> None:
    """Meet the other processes of this run; to be called before JAX looks for devices.

    Args:
        coordinator: address of the first process and a free port there, `host:port`; without it
            JAX asks the environment (Slurm, Open MPI).
        process_id: of this process, 0 … num_processes - 1.
        num_processes: of the run.

    Raises:
        UserError: there is no such environment, or the others cannot be reached.
    """
    if jax.distributed.is_initialized():
        return
    if coordinator is not None:
        _require_reachable(coordinator, is_here=process_id == 0)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    if hasattr(jax.config, "jax_enable_preemption_service"):
        # It would swallow SIGTERM, by which schedulers end a job.
        jax.config.update("jax_enable_preemption_service", False)
    if os.environ.get("GDIFF_DEBUG") != "1":
        _silence_libraries()
        _catch_aborts()
    where = "" if coordinator is None else f" at runtime.coordinator={coordinator}"
    try:
        with _said_after(_SILENCE_SECONDS, f"waiting for the other processes of this run{where}"):
            jax.distributed.initialize(
                *(coordinator, num_processes, process_id),
                heartbeat_timeout_seconds=_HEARTBEAT_SECONDS,
                shutdown_timeout_seconds=_PATIENCE_SECONDS,
            )
    except ValueError as error:
        raise UserError(
            "runtime.distributed=true found no cluster in the environment: start it by srun or "
            "mpirun, or set runtime.coordinator, runtime.process_id and runtime.num_processes"
        ) from error
    except RuntimeError as error:
        raise UserError(
            f"the processes of this run did not meet ({str(error).splitlines()[0]}): start all of "
            "them, with the same runtime.coordinator"
        ) from error


def _require_reachable(coordinator: str, *, is_here: bool) -> None:
    """Raise `UserError` if an address is nowhere or, in the first process, its port is taken.

    JAX would wait for five minutes for the one, and crash with the other.
    """
    host, _, port = coordinator.rpartition(":")
    try:
        socket.getaddrinfo(host.strip("[]"), int(port))
    except (OSError, UnicodeError) as error:
        raise UserError(
            f"runtime.coordinator={coordinator}: there is no machine {host} ({error}): give the "
            "address of the first process"
        ) from error
    if not is_here:
        return
    try:
        with socket.socket() as attempt:
            attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            attempt.bind(("", int(port)))
    except OSError as error:
        raise UserError(
            f"runtime.coordinator={coordinator}: the port cannot be had on this machine "
            f"({error.strerror}): choose a free one"
        ) from error


@contextmanager
def _said_after(seconds: float, text: str) -> Iterator[None]:
    """Say on stderr what a block waits for, if it takes so long."""
    timer = threading.Timer(seconds, lambda: print(text, file=sys.stderr, flush=True))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def is_on() -> bool:
    """Whether this process is one of several."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def is_first() -> bool:
    """Whether this process is the one that writes and prints."""
    return not is_on() or jax.process_index() == 0


@contextmanager
def first_only() -> Iterator[None]:
    """For what the first process does without the others: it neither asks nor tells them."""
    global _is_alone
    before, _is_alone = _is_alone, True
    try:
        yield
    finally:
        _is_alone = before


def broadcast(find: Callable[[], T]) -> T:
    """What `find()` gives in the first process; it is called in that one only."""
    if _is_alone or not is_on():
        return find()
    content = pickle.dumps(find()) if is_first() else b""
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(content))))
    # Few different lengths, since each is compiled for.
    buffer = np.zeros(max(1024, 1 << (size - 1).bit_length()), np.uint8)
    buffer[: len(content)] = np.frombuffer(content, np.uint8)
    return pickle.loads(multihost_utils.broadcast_one_to_all(buffer)[:size].tobytes())


def all_processes(flag: bool) -> bool:
    """Whether `flag` holds in every process."""
    if _is_alone or not is_on():
        return flag
    return bool(multihost_utils.process_allgather(np.array(flag)).all())


def gathered(x: Array) -> np.ndarray:
    """All of an array that lies on the devices of several processes, in each of them."""
    if x.is_fully_addressable or x.is_fully_replicated:
        return np.asarray(x)
    return multihost_utils.process_allgather(x, tiled=True)


def leave() -> None:
    """End with the others, once the first has done what it does alone."""
    if jax.distributed.is_initialized():
        jax.distributed.shutdown()


def abandon(message: str, code: int) -> NoReturn:
    """Print and end at once, waiting for nobody: the others notice."""
    global _is_ending
    _is_ending = True
    if message:
        print(message, file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(code)


def lost(error: BaseException | None = None) -> str | None:
    """One line if an error means that another process is gone, else None."""
    if error is not None:
        is_of_jax = isinstance(error, (jax.errors.JaxRuntimeError, ValueError))
        if not (is_on() and is_of_jax and _LOST.search(str(error))):
            return None
    return (
        "error: another process of this run has ended or does not answer: see what it printed, "
        "then continue the run with --resume"
    )


def end_with(parent: int) -> None:
    """Have this process, if another one started it, end within a second of that one.

    What launchers start would go on by itself if the command were killed.

    Args:
        parent: number of the process that must not have ended.
    """
    if os.getpid() != parent and parent not in _watched:
        _watched.add(parent)
        threading.Thread(target=_end_after, args=(parent,), daemon=True).start()


def _end_after(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _silence_libraries() -> None:
    """Leave stdout and stderr to Python: libraries write of connections and stack traces there."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        stream.flush()
        descriptor = stream.fileno()
        setattr(sys, name, os.fdopen(os.dup(descriptor), "w", buffering=1))
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, descriptor)
        os.close(nowhere)


def _catch_aborts() -> None:
    """Turn an abort, JAX's way to end a process that has lost the others, into one line.

    It comes from a thread of JAX's own, while Python waits for the devices: only a handler in C is
    called then.
    """
    global _handler
    kind = ctypes.CFUNCTYPE(None, ctypes.c_int)

    def end(_: int) -> None:
        while _is_ending:  # Python is about to say why
            time.sleep(1)
        abandon(lost(), 1)

    _handler = kind(end)  # kept, or it would be freed
    ctypes.CDLL(None).signal(signal.SIGABRT, _handler)
