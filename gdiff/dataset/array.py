"""Arrays in NumPy's own files."""

import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from gdiff.dataset.base import Dataset, DatasetSpec, usable
from gdiff.dataset.images import one_line
from gdiff.dataset.units import Map, as_they_are, to_unit_range
from gdiff.errors import UserError, require, require_one_of

_DATA_KEYS = ("x", "images")
_LABEL_KEYS = ("y", "labels", "label")
SCALES = ("auto", "none")


@dataclass(frozen=True, kw_only=True)
class Array(DatasetSpec):
    """A .npy file, read as a memory map, or an array of an .npz file, read into memory.

    Images are [n, height, width, channels], or [n, height, width] for one channel; vectors are
    [n, dim]; [n] is taken for vectors of one number. uint8 and float32 stay as they are stored,
    and are not copied; any other type of number becomes float32, and so do values that are
    extremely large or small, or far from zero: see `gdiff.dataset.units`. What is made of a large
    file lies in the cache. Files are never unpickled.

    Attributes:
        path: the file.
        key: name of the array in an .npz file; by default its only array, or "x" or "images".
            Whole numbers under "y", "labels" or "label" are the classes.
        scale: "auto" maps 0..255 (uint8), or the least and greatest value (other types), to
            [-1, 1]; "none" takes values as they are.
    """

    path: Path | None = None
    key: str | None = None
    scale: str = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.path is not None, "path is missing: give the .npy or .npz file")
        require_one_of("scale", self.scale, SCALES)

    def read(self) -> Dataset:
        """Points in their stored type."""
        path = Path(os.path.expanduser(self.path))
        asked = f"dataset.path={self.path}"
        require(path.is_file(), f"{asked} is not a file: give a .npy or .npz file")
        try:
            x, labels = (self._npz if path.suffix.lower() == ".npz" else self._npy)(path)
        except UserError:
            raise
        except Exception as error:  # NumPy and zipfile raise many kinds on damaged files
            if "Object arrays" in str(error) or "Python objects" in str(error):
                reason = "holds pickled Python objects, which are not read: store plain numbers"
            else:
                reason = f"cannot be read ({one_line(error)}): give a whole .npy or .npz file"
            raise UserError(f"{asked} {reason}") from error
        x = _as_points(x, asked)
        return _mapped(Dataset(path.stem, x, labels), self.scale, asked)

    def _npy(self, path: Path) -> tuple[np.ndarray, None]:
        require(
            self.key is None, f"dataset.key={self.key!r} is for .npz files, and {path} is not one"
        )
        return np.lib.format.open_memmap(path, mode="r"), None

    def _npz(self, path: Path) -> tuple[np.ndarray, np.ndarray | None]:
        with np.lib.npyio.NpzFile(path, allow_pickle=False) as file:
            names = [name for name in file.files if name not in _LABEL_KEYS]
            wanted = [self.key] if self.key else names if len(names) == 1 else _DATA_KEYS
            found = [name for name in wanted if name in file.files]
            require(
                bool(found),
                f"dataset.path={self.path} holds the arrays {', '.join(file.files) or '(none)'}"
                f"{f', not {self.key}' if self.key else ''}: name one by dataset.key",
            )
            x = self._member(file, found[0])
            label_key = next((name for name in _LABEL_KEYS if name in file.files), None)
            if label_key in (None, found[0]):
                return x, None
            y = self._member(file, label_key)
            return x, _as_labels(y, len(np.atleast_1d(x)), f"{path}: {label_key}")

    def _member(self, file: np.lib.npyio.NpzFile, name: str) -> np.ndarray:
        member = file[name]
        # Of what does not begin like an array NumPy gives the bytes.
        require(
            isinstance(member, np.ndarray),
            f"dataset.path={self.path}: {name} is not an array: name another by dataset.key",
        )
        return member


def from_array(
    name: str, x: ArrayLike, labels: ArrayLike | None = None, *, scale: str = "auto"
) -> Dataset:
    """A data set from an array in memory.

    Args:
        name: what to call it in tables.
        x: [n, dim] or [n] vectors, [n, height, width] or [n, height, width, channels] images, of
            any type of number. uint8 and float32 stay as they are; others become float32.
        labels: [n] classes, whole numbers.
        scale: "auto" maps 0..255 (uint8), or the least and greatest value (other types), to
            [-1, 1], the range of pictures; "none" takes values as they are.

    Raises:
        UserError: what is not such an array, or holds NaN or infinity, or fewer than two points.
    """
    require_one_of("scale", scale, SCALES)
    try:
        x = np.asarray(x)
    except ValueError as error:
        raise UserError(f"{name} is not an array ({one_line(error)})") from error
    x = _as_points(x, name)
    if labels is not None:
        labels = _as_labels(np.asarray(labels), len(x), f"{name}: labels")
    return usable(_mapped(Dataset(name, x, labels), scale, name))


def _mapped(data: Dataset, scale: str, asked: str) -> Dataset:
    """With the map to the model's values that `scale` asks for."""
    found: Map = (as_they_are if scale == "none" else to_unit_range)(data.x, asked)
    return replace(data, **vars(found))


def _as_points(x: np.ndarray, asked: str) -> np.ndarray:
    """[n, *event] without a copy: a missing axis is added at the end of [n] and [n, h, w]."""
    require(
        1 <= x.ndim <= 4,
        f"{asked} has shape {x.shape}: give [n, dim], [n, height, width] or "
        "[n, height, width, channels]",
    )
    require(
        not (x.ndim == 4 and x.shape[1] in (1, 3) and x.shape[3] not in (1, 2, 3, 4)),
        f"{asked} has shape {x.shape}, channels first: store it as [n, height, width, channels] "
        "with np.moveaxis(x, 1, -1)",
    )
    return x[..., None] if x.ndim in (1, 3) else x


def _as_labels(y: np.ndarray, n: int, where: str) -> np.ndarray | None:
    """[n] whole numbers, or None for what is none (targets of a regression, one-hot rows)."""
    require(
        len(np.atleast_1d(y)) == n,
        f"{where} has {len(np.atleast_1d(y))} rows for {n} points: one label a point is needed",
    )
    if y.size != n or y.dtype.kind not in "biuf":
        return None
    y = y.reshape(n)
    if y.dtype.kind == "f":
        # Beyond the largest, not every whole number is one of the type.
        largest = min(2.0 ** (np.finfo(y.dtype).nmant + 1), 2.0**53)
        if not np.all((y == np.rint(y)) & (np.abs(y) <= largest)):
            return None
        y = y.astype(np.int64)
    least, most = int(y.min(initial=0)), int(y.max(initial=0))
    is_short = np.iinfo(np.int32).min <= least and most <= np.iinfo(np.int32).max
    return y.astype(np.int32) if is_short else y
