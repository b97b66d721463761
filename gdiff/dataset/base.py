"""A data set in host memory (or memory-mapped), and what every loader of one shares."""

import abc
import hashlib
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cached_property

import numpy as np

from gdiff.dataset.pages import release
from gdiff.errors import UserError, require

_BLOCK_BYTES = 16 * 2**20
_ALIGNMENT = 64  # bytes; what JAX on the CPU needs to use an array in place
_SUBSET_SEED = 0


def blocks(x: np.ndarray, size: int = _BLOCK_BYTES) -> Iterator[slice]:
    """Slices over the rows of `x`, each of about `size` bytes of it.

    When the next one is asked for, the pages of a memory map that were read are given back.
    """
    rows = max(1, size // max(1, x.nbytes // max(1, len(x))))
    for start in range(0, len(x), rows):
        yield slice(start, min(start + rows, len(x)))
        release(x)


def first_bad_row(x: np.ndarray) -> int | None:
    """The first row of `x` that holds NaN or infinity, or None; reads a memory map in blocks."""
    if x.dtype.kind != "f":
        return None
    for block in blocks(x):
        finite = np.isfinite(x[block])
        if not finite.all():
            return block.start + int(np.argmin(finite.reshape(len(finite), -1).all(axis=1)))
    return None


@dataclass(frozen=True, eq=False)
class Dataset:
    """Points of a data set as they are stored, and the affine map to the model's coordinates.

    The model sees `(x - shift) / scale` (for 8-bit images: shift = scale = 127.5, so [-1, 1]).
    The map is applied inside the kernels, so that uint8 images stay uint8 in memory.

    Attributes:
        name: what to call it in tables.
        x: [n, *event], uint8 or float32; may be read-only, or a memory map.
        labels: [n] int32 class indices, or None.
        class_names: one name per class, or None.
        shift, scale: the affine map; scale > 0.
    """

    name: str
    x: np.ndarray
    labels: np.ndarray | None = None
    class_names: Sequence[str] | None = None
    shift: float = 0.0
    scale: float = 1.0

    def __len__(self) -> int:
        return self.x.shape[0]

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one point: (height, width, channels) for images, (dim,) for vectors."""
        return self.x.shape[1:]

    @property
    def dim(self) -> int:
        """Number of coordinates of one point."""
        return int(np.prod(self.event_shape))

    @property
    def is_image(self) -> bool:
        """Whether a point is a picture [height, width, channels]."""
        return len(self.event_shape) == 3

    def to_model(self, stored: np.ndarray, dtype: np.typing.DTypeLike = np.float32) -> np.ndarray:
        """Stored values → model coordinates, same shape, in `dtype`."""
        real = np.dtype(dtype).type
        return (stored.astype(real) - real(self.shift)) / real(self.scale)

    def rows(self, index: slice | np.ndarray) -> np.ndarray:
        """Points `index` in model coordinates: [k, *event] float32."""
        return self.to_model(self.x[index])

    def fingerprint(self) -> str:
        """Hash of every point, the type, the shape and the affine map; computed once.

        Name, labels and whether `x` is a memory map do not matter.
        """
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        whole = hashlib.sha256(
            repr((self.x.shape, self.x.dtype.str, self.shift, self.scale)).encode()
        )

        def of_block(rows: slice) -> bytes:
            digest = hashlib.sha256(np.ascontiguousarray(self.x[rows])).digest()
            release(self.x)
            return digest

        # Blocks are read and hashed in threads: gigabytes would take long in one.
        with ThreadPoolExecutor() as pool:
            for digest in pool.map(of_block, blocks(self.x)):
                whole.update(digest)
        return whole.hexdigest()[:32]


@dataclass(frozen=True, kw_only=True)
class DatasetSpec(abc.ABC):
    """Options common to all data sets; a subclass says where the points come from.

    Attributes:
        subset: keep only this many points, drawn once with a fixed seed; None keeps all.
        classes: keep only these classes of a labelled data set, by index or by name; None keeps
            all.
    """

    subset: int | None = None
    classes: list[int | str] | None = None

    def __post_init__(self) -> None:
        require(
            self.subset is None or self.subset >= 2,
            f"subset={self.subset} must be at least 2",
        )
        require(self.classes != [], "classes=[] keeps nothing: name a class, or use null")
        require(
            all(type(c) in (int, str) for c in self.classes or ()),
            f"classes={self.classes} is not a list of numbers or names, such as [0, cat]",
        )

    @abc.abstractmethod
    def read(self) -> Dataset:
        """All points, before `classes` and `subset` are applied; x of any numeric type."""

    def held_out(self) -> "DatasetSpec":
        """Points of the same law that are not among these.

        Raises:
            UserError: there are none.
        """
        raise UserError(
            f"{type(self).__name__} has no points held out, which schedule.loss_on=test asks for: "
            "use schedule.loss_on=train or a schedule.loss_file"
        )

    def load(self) -> Dataset:
        """The data set that the options describe: at least two points, uint8 or float32, finite.

        Raises:
            UserError: data that cannot be read or used, or options that do not fit it.
        """
        data = self.read()
        return usable(data, self._index(data))

    def _index(self, data: Dataset) -> np.ndarray | None:
        """Rows to keep, in stored order, or None for all."""
        index = None
        if self.classes is not None:
            index = _rows_of(data, self.classes)
        if self.subset is not None:
            n = len(data) if index is None else len(index)
            left = "" if index is None else f" in dataset.classes={self.classes}"
            require(
                self.subset <= n,
                f"dataset.subset={self.subset} is more than the {n} points of {data.name}{left}",
            )
            # The start of one fixed permutation, so that a smaller subset lies in a larger one.
            chosen = np.sort(np.random.default_rng(_SUBSET_SEED).permutation(n)[: self.subset])
            index = chosen if index is None else index[chosen]
        return None if index is None or len(index) == len(data) else index


def usable(data: Dataset, index: np.ndarray | None = None) -> Dataset:
    """Rows `index` of a data set, or all: at least two points, uint8 or float32, finite.

    Rows are copied only where some are left out, and values only where their type changes.

    Raises:
        UserError: there are no such rows.
    """
    name, kind = data.name, data.x.dtype
    require(kind.kind in "buif", f"{name} holds {kind} values: store plain real numbers")
    require(data.dim > 0, f"{name} has empty points, of shape {data.event_shape}")
    n = len(data) if index is None else len(index)
    count = "only one point" if n == 1 else f"{n} points"
    require(n >= 2, f"{name} has {count} to use: give it at least 2")
    labels = data.labels if data.labels is None or index is None else data.labels[index]
    data = replace(data, x=as_stored(data.x, index), labels=labels)
    row = first_bad_row(data.x)
    if row is not None:
        row = row if index is None else int(index[row])
        raise UserError(f"{name} holds NaN or infinity, first in row {row}: remove such rows")
    return data


def _rows_of(data: Dataset, classes: list[int | str]) -> np.ndarray:
    """Rows whose label is in `classes`, each of which must occur."""
    asked = f"dataset.classes={classes}"
    require(
        data.labels is not None, f"{asked}: {data.name} has no labels; use dataset.classes=null"
    )
    names = list(data.class_names or ())

    def number(c: int | str) -> int:
        if isinstance(c, int):
            return c
        if c in names:
            return names.index(c)
        near = get_close_matches(c, names, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "see gdiff data info"
        raise UserError(f"{asked}: {data.name} has no class {c!r}; {hint}")

    wanted = list(map(number, classes))
    n = len(names) or int(data.labels.max(initial=-1)) + 1
    require(
        all(0 <= c < n for c in wanted),
        f"{asked}: {data.name} has {n} classes, numbered from 0 to {n - 1}",
    )
    for c, number in zip(classes, wanted, strict=True):
        is_there = bool(np.any(data.labels == number))
        require(is_there, f"{asked}: {data.name} has no points of class {c}")
    return np.flatnonzero(np.isin(data.labels, wanted))


def as_stored(x: np.ndarray, index: np.ndarray | None) -> np.ndarray:
    """Rows `index` of `x`, or all, as uint8 or else float32; `x` itself if nothing changes.

    NaN and infinity stay what they are. A copy is made in blocks.
    """
    if index is None and x.dtype in (np.uint8, np.float32):
        return x
    n = len(x) if index is None else len(index)
    out = _aligned_empty((n, *x.shape[1:]), np.uint8 if x.dtype == np.uint8 else np.float32)
    with np.errstate(over="ignore"):
        for block in blocks(out):
            out[block] = x[block if index is None else index[block]]
            release(x)
    return out


def _aligned_empty(shape: tuple[int, ...], dtype: np.typing.DTypeLike) -> np.ndarray:
    """An array with any content that JAX on the CPU need not copy."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    buffer = np.empty(size + _ALIGNMENT, np.uint8)
    start = -buffer.ctypes.data % _ALIGNMENT
    return buffer[start : start + size].view(dtype).reshape(shape)
