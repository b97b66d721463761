"""Devices: a mesh with an axis for rows of the data set and one for samples."""

import os
import re

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gdiff.errors import UserError, require

DATA, BATCH = "data", "batch"


def make_mesh(layout: str = "auto") -> Mesh:
    """Mesh with axes `data` (rows of the data set) and `batch` (samples).

    Args:
        layout: "auto" puts every device on `batch`, each with its own copy of the data;
            "data:4/batch:2" gives the sizes (a comma separates too, but Hydra wants that
            quoted); an axis left out has size 1. Devices beyond the product stay idle.

    Raises:
        UserError: the layout cannot be read, asks for more devices than there are, or leaves a
            process without any; or there are none of the platform that is asked for.
    """
    devices = all_devices()
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


def all_devices() -> list[jax.Device]:
    """The devices of all processes.

    Raises:
        UserError: JAX finds none of the platform that the environment names.
    """
    try:
        return jax.devices()
    except (RuntimeError, AssertionError) as error:
        reason = f" ({str(error).splitlines()[0]})" if str(error) else ""
        asked = os.environ.get("JAX_PLATFORMS", "")
        raise UserError(
            f"JAX finds no devices for JAX_PLATFORMS={asked!r}{reason}: set it to a platform that "
            "is here, such as cpu, or leave it out"
        ) from error


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Sharding of an array whose first axis runs over samples."""
    return NamedSharding(mesh, PartitionSpec(BATCH))


def place_rows(x: np.ndarray, mesh: Mesh, room: int = 0) -> jax.Array:
    """Put rows [n, ...] on the mesh, split over its `data` axis.

    The result has n, or `room` if that is more, rounded up to a multiple of that axis; the rows
    beyond n are zeros. Each device reads only its own rows of `x`, which may be a memory map.
    """
    shards = mesh.shape[DATA]
    per_shard = -(-max(x.shape[0], room) // shards)
    shape = (shards * per_shard, *x.shape[1:])

    def shard(index: tuple[slice, ...]) -> np.ndarray:
        start, stop, _ = index[0].indices(shape[0])
        rows = x[start : min(stop, x.shape[0])]
        missing = (stop - start) - rows.shape[0]
        if missing:
            rows = np.concatenate([rows, np.zeros((missing, *x.shape[1:]), x.dtype)])
        return rows

    return jax.make_array_from_callback(shape, NamedSharding(mesh, PartitionSpec(DATA)), shard)
