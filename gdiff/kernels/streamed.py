"""Rows that stay on the host, for data sets larger than the device or larger than memory.

A scan asks for its rows chunk by chunk. Here a chunk comes from the host, in its stored type, and
threads read the next ones while the device works on it. Rows that stand out come one by one.
"""

import math
import os
import threading
import weakref
from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

import equinox as eqx
import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Int

from gdiff import memory
from gdiff.parallel.mesh import DATA, place_rows
from gdiff.progress import Progress

AUTO, DEVICE, HOST = "auto", "device", "host"
ROWS = (AUTO, DEVICE, HOST)
# Share of the memory up to which rows are kept there.
_SHARE = 1 / 3
# What is read ahead for each device: at least one chunk, at most so many of so many bytes in all.
_MOST_AHEAD, _AHEAD_BYTES = 8, 2**26
# Threads that read chunks, and single rows: several keep a disk busy.
_CHUNK_READERS, _ROW_READERS = 2, 16
# Bytes of single rows that one thread reads.
_GATHERED_BYTES = 2**18

_sources: "weakref.WeakSet[Source]" = weakref.WeakSet()


def placed(x: np.ndarray, mesh: Mesh, where: str, room: int = 0) -> "Array | Streamed":
    """Rows of x [n, …] on the devices, split over the mesh axis `data`, or left on the host.

    Args:
        x: as stored; may be a memory map, in any order.
        where: "device", "host", or "auto": on the host if x takes more than a third of the
            device's memory or, on CPU, is a memory map of more than a third of the machine's.
        room: on the devices there are at least so many rows, with zeros beyond those of x.
    """
    is_far = where == HOST or (where == AUTO and not _fits(x, mesh))
    return Streamed.of(x, mesh) if is_far else place_rows(x.reshape(len(x), -1), mesh, room)


def rest() -> None:
    """Have all rows on the host rest: compiled programs keep them alive beyond their run."""
    for source in list(_sources):
        source.rest()


def part(rows: "Array | Streamed", start: Int[Array, ""], size: int) -> Array:
    """Rows start … start + size - 1 of this device: [size, d] as stored."""
    if isinstance(rows, Streamed):
        return rows.part(start, size)
    return jax.lax.dynamic_slice_in_dim(rows, start, size)


class Streamed(eqx.Module):
    """Stands for the rows of one device inside of `shard_map`, where they are on the host.

    Attributes:
        source: where they are, those of all devices.
        count: of rows per device.
    """

    source: "Source" = eqx.field(static=True)
    count: int = eqx.field(static=True)

    @classmethod
    def of(cls, x: np.ndarray, mesh: Mesh) -> "Streamed":
        """Rows of x [n, …], to be split over the mesh axis `data`."""
        streams = mesh.shape[DATA]
        return cls(Source(x, streams), -(-len(x) // streams))

    @property
    def shape(self) -> tuple[int, int]:
        """Rows of one device, numbers of a row."""
        return self.count, self.source.dim

    @property
    def dtype(self) -> np.dtype:
        """As stored."""
        return self.source.x.dtype

    def part(self, start: Int[Array, ""], size: int) -> Array:
        """Rows start … start + size - 1: [size, d]."""
        read = partial(self.source.part, size=size, count=self.count)
        return self._called(read, (size,), start)

    def __getitem__(self, index: Int[Array, "..."]) -> Array:
        """Rows of any numbers: [..., d]."""
        return self._called(partial(self.source.rows, count=self.count), index.shape, index)

    def _called(self, read: partial, shape: tuple[int, ...], index: Array) -> Array:
        result = jax.ShapeDtypeStruct((*shape, self.shape[1]), self.dtype)
        device = jax.lax.axis_index(DATA)
        return jax.pure_callback(read, result, device, index, vmap_method="sequential")


class Source:
    """Rows on the host, read in chunks with some read ahead, or one by one.

    Chunks that were read last are kept, for devices that work on the same rows side by side.

    Args:
        x: [n, …], d numbers a row; a memory map is read through its file where that has its rows
            in a piece, as pages that are mapped into this process count as its memory.
        streams: how many devices read at a time, each its own rows.
    """

    def __init__(self, x: np.ndarray, streams: int) -> None:
        self.x, self.streams = x, streams
        self.dim = math.prod(x.shape[1:])
        self.progress: Progress | None = None
        self._file, self._offset = _file_of(x)
        if self._file:
            weakref.finalize(self, self._file.close)
        self._lock = threading.Lock()
        self._start()
        _sources.add(self)

    def _start(self) -> None:
        self._chunks: OrderedDict[tuple[int, int], Future] = OrderedDict()
        self._chunk_readers = ThreadPoolExecutor(_CHUNK_READERS * self.streams, "chunks")
        self._row_readers = ThreadPoolExecutor(_ROW_READERS, "rows")

    def rest(self) -> None:
        """Let go of threads and of what they have read, until more is wanted."""
        with self._lock:
            pools = self._chunk_readers, self._row_readers
            self._start()
        for pool in pools:
            pool.shutdown(wait=False, cancel_futures=True)

    def part(self, device: Array, start: Array, *, size: int, count: int) -> np.ndarray:
        """Rows of a device's `count` rows: [size, d], zeros beyond the end of the data."""
        first, start = int(device) * count, int(start)
        ahead = int(np.clip(_AHEAD_BYTES // self._bytes(size), 1, _MOST_AHEAD))
        wanted = [start]
        for _ in range(ahead):
            # The last chunk of a scan starts early; the first one of the next scan follows it.
            is_last = wanted[-1] + size >= count
            wanted.append(0 if is_last else min(wanted[-1] + size, count - size))
        with self._lock:
            for begin in dict.fromkeys(wanted):
                key = first + begin, size
                if key not in self._chunks:
                    self._chunks[key] = self._chunk_readers.submit(self._read, *key)
                self._chunks.move_to_end(key)
            chunk = self._chunks[first + start, size]
            while len(self._chunks) > 2 * self.streams * (ahead + 1):
                self._chunks.popitem(last=False)
        if self.progress:
            self.progress.advance(min(size, len(self.x)))
        return chunk.result()

    def rows(self, device: Array, index: Array, *, count: int) -> np.ndarray:
        """Rows of a device by their numbers there, of any shape: [..., d]."""
        index = np.asarray(index)
        # Padding is never asked for but where a place is not used.
        numbers = np.minimum(int(device) * count + index.reshape(-1), len(self.x) - 1)
        out = np.empty((len(numbers), self.dim), self.x.dtype)
        step = max(1, _GATHERED_BYTES // self._bytes(1))

        def gather(begin: int) -> None:
            for place in range(begin, min(begin + step, len(numbers))):
                self._read_into(out[place : place + 1], numbers[place])

        list(self._row_readers.map(gather, range(0, len(numbers), step)))
        return out.reshape(*index.shape, -1)

    def _bytes(self, rows: int) -> int:
        return rows * self.dim * self.x.dtype.itemsize

    def _read(self, begin: int, size: int) -> np.ndarray:
        out = np.empty((size, self.dim), self.x.dtype)
        held = max(0, min(size, len(self.x) - begin))
        self._read_into(out[:held], begin)
        out[held:] = 0
        return out

    def _read_into(self, out: np.ndarray, begin: int) -> None:
        """Rows from `begin` on."""
        if self._file is None:
            out[:] = self.x[begin : begin + len(out)].reshape(len(out), -1)
            return
        buffer = memoryview(out).cast("B")
        place = self._offset + self._bytes(int(begin))
        while buffer:
            done = os.preadv(self._file.fileno(), [buffer], place)
            if done == 0:
                raise EOFError(f"{self._file.name} is shorter than when this run began")
            buffer, place = buffer[done:], place + done


def _file_of(x: np.ndarray) -> tuple:
    """The open file of a memory map and where x begins in it; (None, 0) for other arrays."""
    root = x
    while isinstance(getattr(root, "base", None), np.memmap):
        root = root.base
    is_file = isinstance(root, np.memmap) and isinstance(root.filename, (str, Path))
    if not (is_file and x.flags.c_contiguous and hasattr(os, "preadv")):
        return None, 0
    try:
        file = open(root.filename, "rb", buffering=0)  # noqa: SIM115 as long as the source lives
    except OSError:  # it has been removed since
        return None, 0
    return file, root.offset + x.ctypes.data - root.ctypes.data


def _fits(x: np.ndarray, mesh: Mesh) -> bool:
    """Whether there is ample memory for the rows; those that are in memory fit on CPU.

    Depends on the machine alone, so that a run goes on as it began.
    """
    limit = (mesh.local_devices[0].memory_stats() or {}).get("bytes_limit")
    if limit is not None:
        return x.nbytes / mesh.shape[DATA] <= _SHARE * limit
    return not isinstance(x, np.memmap) or x.nbytes <= _SHARE * memory.of_host()
