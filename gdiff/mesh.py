"""Devices: a mesh with an axis for rows of the data set and one for samples."""

import ctypes
import platform
import re
from contextlib import suppress
from dataclasses import dataclass, replace

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gdiff import distributed
from gdiff.cache import cache_dir
from gdiff.errors import UserError, require

DATA, BATCH = "data", "batch"
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
        missing = [f"runtime.{name}" for name in names if getattr(self, name) is None]
        if len(missing) == len(names):
            return
        require(not missing, f"{' and '.join(missing)} missing: set all three of them, or none")
        require(
            self.distributed, "runtime.coordinator is without use: add runtime.distributed=true"
        )
        require(
            re.fullmatch(r".+:\d+", self.coordinator) is not None,
            f"runtime.coordinator={self.coordinator} must be an address and a port, host:port",
        )
        require(
            self.num_processes >= 1,
            f"runtime.num_processes={self.num_processes} must be at least 1",
        )
        require(
            0 <= self.process_id < self.num_processes,
            f"runtime.process_id={self.process_id} must be between 0 and "
            f"{self.num_processes - 1}, one less than runtime.num_processes",
        )

    def join(self) -> None:
        """Meet the other processes, if there are to be any."""
        if self.distributed:
            distributed.join(self.coordinator, self.process_id, self.num_processes)

    def without_processes(self) -> "Runtime":
        """What belongs to the run, and not to the processes that work on it."""
        return replace(
            self, distributed=False, coordinator=None, process_id=None, num_processes=None
        )

    def start(self) -> Mesh:
        """Set the arithmetic of this process and return the mesh."""
        require(
            not self.distributed or jax.distributed.is_initialized(),
            "runtime.distributed=true is for gdiff sample: leave it out",
        )
        jax.config.update("jax_enable_x64", self.x64)
        _keep_freed_memory()
        _keep_compiled_programs()
        return make_mesh(self.mesh)


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

    Small programs too: a run has a dozen of them, which take half a second in all.
    """
    if jax.config.jax_compilation_cache_dir is None:
        folder = cache_dir() / "programs" / platform.node()
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def make_mesh(layout: str = "auto") -> Mesh:
    """Mesh with axes `data` (rows of the data set) and `batch` (samples).

    Args:
        layout: "auto" puts every device on `batch`, each with its own copy of the data;
            "data:4/batch:2" gives the sizes (a comma separates too, but Hydra wants that
            quoted); an axis left out has size 1. Devices beyond the product stay idle.

    Raises:
        UserError: the layout cannot be read, asks for more devices than there are, or leaves a
            process without any.
    """
    devices = jax.devices()
    sizes = {DATA: 1, BATCH: 1}
    if layout == "auto":
        sizes[BATCH] = len(devices)
    else:
        for part in re.split(r"[,/]", layout):
            found = re.fullmatch(rf"\s*({DATA}|{BATCH})\s*:\s*([1-9]\d*)\s*", part)
            if not found:
                raise UserError(
                    f"runtime.mesh={layout!r} is not a layout: use auto, or for example "
                    "data:4/batch:2"
                )
            sizes[found[1]] = int(found[2])
    count = sizes[DATA] * sizes[BATCH]
    require(
        count <= len(devices),
        f"runtime.mesh={layout!r} asks for {count} devices, and there are {len(devices)}",
    )
    idle = {device.process_index for device in devices[count:]}
    idle -= {device.process_index for device in devices[:count]}
    require(
        not idle,
        f"runtime.mesh={layout!r} leaves process {min(idle, default=0)} without a device: use all "
        f"{len(devices)}",
    )
    grid = np.array(devices[:count]).reshape(sizes[DATA], sizes[BATCH])
    return Mesh(grid, (DATA, BATCH))


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Sharding of an array whose first axis runs over samples."""
    return NamedSharding(mesh, PartitionSpec(BATCH))


def place_rows(x: np.ndarray, mesh: Mesh) -> jax.Array:
    """Put rows [n, ...] on the mesh, split over its `data` axis.

    The result has n rounded up to a multiple of that axis; the rows beyond n are zeros. Each
    device reads only its own rows of `x`, which may be a memory map.
    """
    shards = mesh.shape[DATA]
    per_shard = -(-x.shape[0] // shards)
    shape = (shards * per_shard, *x.shape[1:])

    def shard(index: tuple[slice, ...]) -> np.ndarray:
        start, stop, _ = index[0].indices(shape[0])
        rows = x[start : min(stop, x.shape[0])]
        missing = (stop - start) - rows.shape[0]
        if missing:
            rows = np.concatenate([rows, np.zeros((missing, *x.shape[1:]), x.dtype)])
        return rows

    return jax.make_array_from_callback(shape, NamedSharding(mesh, PartitionSpec(DATA)), shard)
