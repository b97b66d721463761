"""Arrays in NumPy's own files."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from gdiff.dataset.base import Dataset, DatasetSpec, blocks, first_bad_row, usable
from gdiff.dataset.images import one_line
from gdiff.errors import UserError, require, require_one_of

_DATA_KEYS = ("x", "images")
_LABEL_KEYS = ("y", "labels", "label")
SCALES = ("auto", "none")


@dataclass(frozen=True, kw_only=True)
class Array(DatasetSpec):
    """A .npy file, read as a memory map, or an array of an .npz file, read into memory.

    Images are [n, height, width, channels], or [n, height, width] for one channel; vectors are
    [n, dim]; [n] is taken for vectors of one number. uint8 and float32 stay as they are stored;
    any other type of number is converted to float32 in memory, so large data should be stored
    as one of the two. Files are never unpickled.

    Attributes:
        path: the file.
        key: name of the array in an .npz file; by default its only array, or "x" or "images".
            Integers under "y", "labels" or "label" are the class indices.
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
        path = self.path.expanduser()
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
        shift, scale = _affine(x, self.scale, asked)
        return Dataset(name=path.stem, x=x, labels=labels, shift=shift, scale=scale)

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
            x = file[found[0]]
            label_key = next((name for name in _LABEL_KEYS if name in file.files), None)
            if label_key in (None, found[0]):
                return x, None
            return x, _as_labels(file[label_key], len(np.atleast_1d(x)), f"{path}: {label_key}")


def from_array(
    name: str, x: ArrayLike, labels: ArrayLike | None = None, *, scale: str = "auto"
) -> Dataset:
    """A data set from an array in memory.

    Args:
        name: what to call it in tables.
        x: [n, dim] or [n] vectors, [n, height, width] or [n, height, width, channels] images, of
            any type of number. uint8 and float32 stay as they are; others become float32.
        labels: [n] class indices.
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
    shift, factor = _affine(x, scale, name)
    if labels is not None:
        labels = _as_labels(np.asarray(labels), len(x), f"{name}: labels")
    return usable(Dataset(name, x, labels, shift=shift, scale=factor))


def _affine(x: np.ndarray, scale: str, asked: str) -> tuple[float, float]:
    """Shift and scale that map stored values to those of the model."""
    if scale == "none" or x.dtype.kind not in "buif" or not x.size:
        return 0.0, 1.0
    if x.dtype == np.uint8:
        return 127.5, 127.5
    # The range of all rows, so that a subset is scaled like the whole.
    ends = np.array([(x[rows].min(), x[rows].max()) for rows in blocks(x)], np.float64)
    low, high = float(ends[:, 0].min()), float(ends[:, 1].max())
    if not np.isfinite(high - low):
        row = first_bad_row(x)
        raise UserError(f"{asked} holds NaN or infinity, first in row {row}: remove such rows")
    return (high + low) / 2, (high - low) / 2 or 1.0


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
    """[n] int32, or None for what is not class indices (targets of a regression, one-hot rows)."""
    require(
        len(np.atleast_1d(y)) == n,
        f"{where} has {len(np.atleast_1d(y))} rows for {n} points: one label a point is needed",
    )
    return y.reshape(n).astype(np.int32) if y.dtype.kind in "iu" and y.size == n else None
