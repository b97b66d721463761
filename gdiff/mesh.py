"""Devices: a mesh with an axis for rows of the data set and one for samples."""

import ctypes
import platform
import re
from contextlib import suppress
from dataclasses import dataclass

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gdiff.cache import cache_dir
from gdiff.errors import UserError, require

DATA, BATCH = "data", "batch"
# Numbers of glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX, _NEVER = -1, -3, -8, 2**31 - 1


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """Devices and arithmetic of a run.

    Attributes:
        mesh: layout of the devices, see `make_mesh`.
        x64: compute in float64.
    """

    mesh: str = "auto"
    x64: bool = False

    def start(self) -> Mesh:
        """Set the arithmetic of this process and return the mesh."""
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
    """Have JAX keep what it compiles in the cache, for this machine alone, unless it does so."""
    if jax.config.jax_compilation_cache_dir is None:
        folder = cache_dir() / "programs" / platform.node()
        jax.config.update("jax_compilation_cache_dir", str(folder))


def make_mesh(layout: str = "auto") -> Mesh:
    """Mesh with axes `data` (rows of the data set) and `batch` (samples).

    Args:
        layout: "auto" puts every device on `batch`, each with its own copy of the data;
            "data:4/batch:2" gives the sizes (a comma separates too, but Hydra wants that
            quoted); an axis left out has size 1. Devices beyond the product stay idle.

    Raises:
        UserError: the layout cannot be read, or asks for more devices than there are.
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
