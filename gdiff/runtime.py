"""What a run computes with: devices, processes and arithmetic."""

import ctypes
import logging
import os
import platform
import re
from contextlib import suppress
from dataclasses import dataclass, replace

import jax
from jax.sharding import Mesh

from gdiff import rng
from gdiff.errors import UserError, require
from gdiff.parallel import processes
from gdiff.parallel.mesh import all_devices, make_mesh
from gdiff.store import programs
from gdiff.store.cache import cache_dir

log = logging.getLogger(__name__)

# How the variables begin by which JAX, its compilers and the libraries of linear algebra are set.
_SPEAKING = (
    *("JAX_", "XLA_", "LIBTPU_", "TF_XLA_", "TF_CUDNN_", "NVIDIA_TF32_", "CUBLAS_"),
    *("OMP_", "OPENBLAS_", "MKL_", "NPY_"),
)
# Numbers of glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX, _NEVER = -1, -3, -8, 2**31 - 1


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """Devices and arithmetic of a run.

    Attributes:
        mesh: layout of the devices of all processes, see `make_mesh`.
        x64: compute in float64.
        distributed: whether this is one of several processes that work on the run.
        coordinator: where the first of them is, `host:port`; without it and the next two, the
            environment tells (Slurm, Open MPI).
        process_id: number of this process, from 0.
        num_processes: how many there are.
    """

    mesh: str = "auto"
    x64: bool = False
    distributed: bool = False
    coordinator: str | None = None
    process_id: int | None = None
    num_processes: int | None = None

    def __post_init__(self) -> None:
        names = ("coordinator", "process_id", "num_processes")
        missing = [f"{name}=null" for name in names if getattr(self, name) is None]
        if len(missing) == len(names):
            return
        require(not missing, f"{' and '.join(missing)}: set all three of them, or none")
        require(self.distributed, "coordinator is without use: add distributed=true")
        require(
            re.fullmatch(r".+:\d+", self.coordinator) is not None,
            f"coordinator={self.coordinator} must be an address and a port, host:port",
        )
        port = int(self.coordinator.rpartition(":")[2])
        require(
            1 <= port <= 65535,
            f"coordinator={self.coordinator} has port {port}: ports are 1 to 65535",
        )
        require(
            self.num_processes >= 1,
            f"num_processes={self.num_processes} must be at least 1",
        )
        require(
            0 <= self.process_id < self.num_processes,
            f"process_id={self.process_id} must be between 0 and "
            f"{self.num_processes - 1}, one less than num_processes={self.num_processes}",
        )

    def join(self) -> None:
        """Meet the other processes, if there are to be any."""
        if self.distributed:
            processes.join(self.coordinator, self.process_id, self.num_processes)

    def without_processes(self) -> "Runtime":
        """What belongs to the run, and not to the processes that work on it."""
        return replace(
            self, distributed=False, coordinator=None, process_id=None, num_processes=None
        )

    def as_available(self) -> "Runtime":
        """Itself or, where this machine does not have its devices, with all that there are."""
        all_devices()  # without any there is nothing to go on with
        try:
            make_mesh(self.mesh)
        except UserError as error:
            log.warning("%s: going on with runtime.mesh=auto", error)
            return replace(self, mesh="auto")
        return self

    def start(self) -> Mesh:
        """Set the arithmetic of this process and return the mesh."""
        require(
            not self.distributed or jax.distributed.is_initialized(),
            "runtime.distributed=true is for gdiff sample: leave it out",
        )
        jax.config.update("jax_enable_x64", self.x64)
        rng.fix_switches()
        _keep_freed_memory()
        _keep_compiled_programs()
        return make_mesh(self.mesh)


def environment() -> dict[str, str]:
    """The variables that may change results, by rounding for the most part: name → value."""
    return {name: value for name, value in sorted(os.environ.items()) if name.startswith(_SPEAKING)}


def _keep_freed_memory() -> None:
    """Have glibc's malloc, if it is that, keep large blocks between the steps of a run.

    On CPU the temporary arrays of every step are allocated anew. By default the kernel would hand
    out and clear their pages each time, which takes up to half of the time of a fast step.
    """
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        for option, value in ((_ARENA_MAX, 1), (_MMAP_THRESHOLD, 2**30), (_TRIM_THRESHOLD, _NEVER)):
            mallopt(option, value)


def _keep_compiled_programs() -> None:
    """Have JAX keep what it compiles in the cache, for this machine alone, unless it does so.

    What it keeps may be damaged, by a full disk for example: then it is made again.

    Small programs too: a run has a dozen of them, which take half a second in all.
    """
    programs.mend()
    programs.forget_if_many()
    if jax.config.jax_compilation_cache_dir is None:
        folder = cache_dir() / "programs" / platform.node()
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
