"""A data set in host memory (or memory-mapped), and what every loader of one shares."""

import abc
import hashlib
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cached_property, partial
from pathlib import Path

import numpy as np

from gdiff.dataset.pages import blocks, first_bad_row, release
from gdiff.dataset.units import Change, is_far
from gdiff.errors import UserError, require
from gdiff.store import cache

_ALIGNMENT = 64  # bytes; what JAX on the CPU needs to use an array in place
_SUBSET_SEED = 0
# Bytes of rows beyond which those that are made from a file are kept in one.
_LARGE = 2**31
# Part of the key of these: to be raised when they change.
_VERSION = 1


@dataclass(frozen=True, eq=False)
class Dataset:
    """Points of a data set as they are stored, and the affine map to the model's coordinates.

    The model sees `(x - shift) / scale` (for 8-bit images: shift = scale = 127.5, so [-1, 1]).
    The map is applied inside the kernels, so that uint8 images stay uint8 in memory.

    Attributes:
        name: what to call it in tables.
        x: [n, *event], uint8 or float32, or float64 that only float64 tells apart; may be
            read-only, or a memory map.
        labels: [n] whole numbers, or None.
        class_names: one name per class, or None.
        class_codes: what the classes are called in the data, where that is not what people call
            them, as n02085620 is not; or None.
        shift, scale: the affine map; scale > 0.
        origin, unit: x holds (value - origin) / unit of the values of a file; the origin may have
            one number for each coordinate. Those of most files are stored as they are.
        centre, size: in the model's units, about where the points lie and how far they reach from
            there, if that is far from 0 or much less than 1.
        change: makes x of the values of a file, which are still in its place; `load` does that.
        whole: the data set of which these are the rows of one class; None for a whole one.
    """

    name: str
    x: np.ndarray
    labels: np.ndarray | None = None
    class_names: Sequence[str] | None = None
    class_codes: Sequence[str] | None = None
    shift: float = 0.0
    scale: float = 1.0
    origin: float | np.ndarray = 0.0
    unit: float = 1.0
    centre: float | np.ndarray = 0.0
    size: float = 1.0
    change: Change | None = None
    whole: "Dataset | None" = None

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

    def to_file(self, points: np.ndarray) -> np.ndarray:
        """Model coordinates [k, *event] → values as in the file that was read, float64."""
        shift, scale = self.to_file_map
        return shift + scale * np.asarray(points, np.float64)

    @property
    def to_file_map(self) -> tuple[float | np.ndarray, float]:
        """Shift and scale of the map from model coordinates to the values of the file."""
        return self.origin + self.unit * self.shift, self.unit * self.scale

    def values(self, index: slice | np.ndarray) -> np.ndarray:
        """Points `index` as in the file that was read: [k, *event]."""
        if self.unit == 1 and not np.any(self.origin):
            return self.x[index]
        return self.origin + self.unit * self.x[index].astype(np.float64)

    def rows(self, index: slice | np.ndarray) -> np.ndarray:
        """Points `index` in model coordinates: [k, *event] float32, or float64 if x is."""
        return self.to_model(self.x[index], np.result_type(self.x, np.float32))

    def vectors(self, index: slice | np.ndarray) -> np.ndarray:
        """Points `index` as they are stored: [k, dim]."""
        return self.x[index].reshape(-1, self.dim)

    def part(self, index: np.ndarray) -> "Dataset":
        """A copy of rows `index`, without labels, as a data set of its own."""
        return replace(self, x=chosen(self.x, index), labels=None)

    def of_class(self, number: int) -> "Dataset":
        """The rows of a class, at least one, as a data set that remembers the whole."""
        index = np.flatnonzero(self.labels == number)
        name = f"{self.name}, class {self.class_name(number)}"
        x = chosen(self.x, index)
        return replace(self, name=name, x=x, labels=self.labels[index], whole=self)

    def class_name(self, number: int) -> str:
        """What a class is called: its name, or its number where it has none."""
        return self.class_names[number] if self.class_names else str(number)

    def fingerprint(self) -> str:
        """Hash of every point, the type, the shape and the affine map; computed once.

        Name, labels and whether `x` is a memory map do not matter.
        """
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        facts = (self.x.shape, self.x.dtype.str, self.shift, self.scale)
        if self.unit != 1 or np.any(self.origin):
            facts += (np.asarray(self.origin).tolist(), self.unit)
        whole = hashlib.sha256(repr(facts).encode())

        def of_block(rows: slice) -> bytes:
            digest = hashlib.sha256(np.ascontiguousarray(self.x[rows])).digest()
            release(self.x)
            return digest

        # Blocks are read and hashed in threads: gigabytes would take long in one.
        with ThreadPoolExecutor() as pool:
            for digest in pool.map(of_block, blocks(self.x)):
                whole.update(digest)
        return whole.hexdigest()[:32]


class NothingHeldOutError(UserError):
    """A data set has no points besides those that it gives."""


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
            NothingHeldOutError: there are none.
        """
        raise NothingHeldOutError(
            f"{type(self).__name__} has no points held out, which schedule.loss_on=test asks for: "
            "use schedule.loss_on=train or a schedule.loss_file"
        )

    def load(self) -> Dataset:
        """The data set that the options describe: at least two points, finite, of a type of `x`.

        Raises:
            UserError: data that cannot be read or used, or options that do not fit it.
        """
        return usable(*self._chosen())

    def _chosen(self) -> tuple[Dataset, np.ndarray | None]:
        """Points, and which of them to keep; a loader may leave out the others itself."""
        data = self.read()
        return data, self._index(data)

    def load_held_out(self) -> Dataset:
        """Points of the same law that `load` leaves out: `held_out`, or all but the subset.

        Raises:
            NothingHeldOutError: there are none.
            UserError: there are some, and they cannot be read or used.
        """
        try:
            spec = self.held_out()
        except NothingHeldOutError:
            spec = None
        if spec is not None:
            return spec.load()
        if self.subset is None:
            raise NothingHeldOutError(
                f"{type(self).__name__} has no points held out: keep some aside by dataset.subset=N"
            )
        data, kept = self.read(), replace(self, subset=None)
        whole, own = kept._index(data), self._index(data)
        whole = np.arange(len(data)) if whole is None else whole
        rest = np.setdiff1d(whole, whole if own is None else own)
        if len(rest) < 2:
            raise NothingHeldOutError(
                f"dataset.subset={self.subset} keeps {len(rest)} points aside: lower it"
            )
        return usable(data, rest)

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
    """Rows `index` of a data set, or all: at least two points, as they are to be stored, finite.

    Rows are copied only where some are left out, and values only where they change.

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
    x, change = _as_stored(data, index), data.change
    require(
        change is not None or np.can_cast(kind, x.dtype) or not is_far(data.x),
        f"{name} holds {kind} values far from zero, which float32 does not tell apart: take the "
        "offset off, or make the data set by gdiff.Dataset(name, x)",
    )
    data = replace(data, x=x, labels=labels, change=None)
    if change is not None:
        data = replace(data, origin=change.origin, unit=change.unit)
    row = first_bad_row(data.x)
    if row is not None:
        row = row if index is None else int(index[row])
        raise UserError(f"{name} holds NaN or infinity, first in row {row}: remove such rows")
    return data


def _rows_of(data: Dataset, classes: list[int | str]) -> np.ndarray:
    """Rows whose label is in `classes`, each of which must occur."""
    wanted = class_numbers(data, "dataset.classes", classes)
    return np.flatnonzero(np.isin(data.labels, np.array(wanted, data.labels.dtype)))


def class_numbers(
    data: Dataset, key: str, classes: Sequence[int | str], why: str = ""
) -> list[int]:
    """Numbers of the classes named, each of which must occur.

    Args:
        data: whose classes they are.
        key: of the configuration, that names them.
        classes: names, codes or numbers.
        why: to be said where one does not occur.

    Raises:
        UserError: there are no labels, or no such class.
    """
    asked = f"{key}={classes}"
    require(data.labels is not None, f"{asked}: {data.name} has no labels; use {key}=null")
    names, codes = list(data.class_names or ()), list(data.class_codes or ())
    there = dict.fromkeys(np.unique(data.labels).tolist())

    def number(c: int | str) -> int:
        if isinstance(c, int):
            return c
        for known in (names, codes):
            if c in known:
                own = f"several classes {c!r}: give the number of one, see gdiff data info"
                require(known.count(c) == 1, f"{asked}: {data.name} has {own}")
                return known.index(c)
        near = get_close_matches(c, [*names, *codes], n=1)
        hint = f"did you mean {near[0]!r}?" if near else "see gdiff data info"
        raise UserError(f"{asked}: {data.name} has no class {c!r}; {hint}")

    wanted = list(map(number, classes))
    first, last = (0, len(names) - 1) if names else (min(there, default=0), max(there, default=-1))
    known = f"{last - first + 1} classes, numbered from {first} to {last}"
    if last - first > 2 * len(there):
        known = f"{len(there)} classes, numbered {', '.join(map(str, list(there)[:5]))}, …"
    for c, number in zip(classes, wanted, strict=True):
        is_known = number in there or first <= number <= last
        require(is_known, f"{asked}: {data.name} has {known}")
        require(number in there, f"{asked}: {data.name} has no points of class {c}{why}")
    return wanted


def _as_stored(data: Dataset, index: np.ndarray | None) -> np.ndarray:
    """Rows `index` of a data set, or all, as they are to be stored; x itself if nothing changes.

    NaN and infinity stay what they are. What is large and comes from a file becomes one in the
    cache, where it takes no memory.
    """
    x, change = data.x, data.change
    dtype = np.uint8 if x.dtype == np.uint8 else np.float32 if change is None else change.dtype
    if change is None and index is None and x.dtype == dtype:
        return x
    shape = (len(x) if index is None else len(index), *x.shape[1:])
    is_large = math.prod(shape) * np.dtype(dtype).itemsize > _LARGE
    if not (is_large and isinstance(x, np.memmap) and x.filename and Path(x.filename).is_file()):
        return chosen(x, index, dtype, change)
    file = Path(x.filename)
    marks = [x.dtype, dtype.__name__, *([] if change is None else [change.digest()])]
    marks += [] if index is None else [cache.digest(index)]
    key = cache.key("rows", _VERSION, cache.signature(file.parent, [file]), *shape, *marks)
    return cache.fill(key, shape, dtype, partial(_fill, x=x, index=index, change=change))


def chosen(
    x: np.ndarray,
    index: np.ndarray | None,
    dtype: np.typing.DTypeLike = None,
    change: Change | None = None,
) -> np.ndarray:
    """A copy of rows `index` of `x`, or of all, in blocks; in `dtype`, by default their own."""
    n = len(x) if index is None else len(index)
    out = _aligned_empty((n, *x.shape[1:]), x.dtype if dtype is None else dtype)
    _fill(out, x, index, change)
    return out


def _fill(out: np.ndarray, x: np.ndarray, index: np.ndarray | None, change: Change | None) -> None:
    with np.errstate(over="ignore"):
        for block in blocks(out):
            rows = block if index is None else index[block]
            out[block] = x[rows] if change is None else change(x[rows])
            release(x)


def _aligned_empty(shape: tuple[int, ...], dtype: np.typing.DTypeLike) -> np.ndarray:
    """An array with any content that JAX on the CPU need not copy."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    buffer = np.empty(size + _ALIGNMENT, np.uint8)
    start = -buffer.ctypes.data % _ALIGNMENT
    return buffer[start : start + size].view(dtype).reshape(shape)
