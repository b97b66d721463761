"""From a file's values to rows that float32 tells apart, whatever their unit and their offset.

Differences are taken in the file's own type and scaled by powers of two in float64; what is left
is near 1 and near 0, and only then rounded to float32. Data whose unit and offset are ordinary
need none of this and stay as they are stored.
"""

import math
from dataclasses import dataclass

import numpy as np

from gdiff.dataset.pages import blocks, first_bad_row
from gdiff.errors import UserError
from gdiff.progress import notice
from gdiff.store import cache

# Units in which float32 has no trouble with squares, their sums and their rounding errors.
_LEAST_UNIT, _LARGEST_UNIT = 2.0**-20, 2.0**30
# Beyond, float32 holds no squares, and soon not the values.
_LEAST = 2.0**-100
# Less is another unit than that of values near 1, and as many widths away is another origin.
_SMALL = 1 / 16
# Offsets beyond so many half widths are taken off before values are rounded.
_OFFSET = 64
# Rows that tell masks from pictures.
_SOME = 256
# Numbers of rows that are compared at once.
_AT_ONCE = 4096
# As few different values between the least and the greatest are worth a warning.
FEW_VALUES = 2**13
# Beyond so many widths from zero float32 has fewer.
_FAR = 2**24 / FEW_VALUES


@dataclass(frozen=True, eq=False)
class Change:
    """Values → (value - low) / 2^exponent - middle, in float64 or better, then `dtype`.

    Attributes:
        low: [] or [dim], in the values' own type; none of them is less, if they are integers.
        middle: [] or [dim] float64, in the new unit.
        exponent: of the new unit.
        origin: [] or [dim] float64: the value that becomes 0.
        dtype: of the result.
    """

    low: np.ndarray
    middle: float | np.ndarray
    exponent: int
    origin: float | np.ndarray
    dtype: type = np.float32

    @property
    def unit(self) -> float:
        """2^exponent."""
        return math.ldexp(1.0, self.exponent)

    def digest(self) -> str:
        """Hash of all of it, for the keys of what is made by it."""
        numbers = (self.low, self.middle, np.asarray(self.origin), np.array(self.exponent))
        return cache.digest(*map(np.asarray, numbers))

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """The new values, of the same shape."""
        if values.dtype.kind == "f":
            kind = np.promote_types(values.dtype, np.float64)
            scaled = np.ldexp(values.astype(kind), -self.exponent)
            scaled -= np.ldexp(self.low.astype(kind), -self.exponent)
        else:
            # Exact also where the difference of two int64 is none.
            steps = values.astype(np.uint64) - self.low.astype(np.uint64)
            scaled = np.ldexp(steps.astype(np.float64), -self.exponent)
        return (scaled - self.middle).astype(self.dtype)


@dataclass(frozen=True, eq=False)
class Map:
    """The affine map of stored values to the model's, and how values of a file become stored ones.

    The model sees (stored - shift) / scale.

    Attributes:
        shift, scale: of the map.
        centre, size: in the model's units, [] or [dim] and []: about where the points lie and how
            far they reach from there, if that is far from 0 or much less than 1.
        change: as above; None where nothing changes but the type.
    """

    shift: float
    scale: float
    centre: float | np.ndarray = 0.0
    size: float = 1.0
    change: Change | None = None


def as_they_are(x: np.ndarray, name: str) -> Map:
    """The map that leaves values [n, *event] of any real type as they are."""
    if x.dtype.kind not in "iuf" or x.dtype.itemsize == 1 or not x.size:
        return Map(0.0, 1.0)
    low, high = _checked_ends(x, name)
    width, reach = _width_and_reach(low, high)
    middle = (_wide(low) / 2 + _wide(high) / 2).astype(np.float64)
    is_away = _SMALL * np.max(np.abs(middle)) > width > 0
    centre, size = (middle, width / 2) if is_away else (0.0, reach)
    size = size if 0 < size < _SMALL else 1.0
    lies_far = reach > _FAR * width > 0 and x.dtype not in (np.float32, np.float16)
    is_wide = lies_far or not (reach == 0 or _LEAST <= reach <= 1 / _LEAST)
    if not is_wide and (reach == 0 or _LEAST_UNIT <= reach <= _LARGEST_UNIT):
        return Map(0.0, 1.0, centre, size)
    exponent = 0 if is_wide else math.frexp(reach)[1]
    low = np.zeros((), x.dtype) if x.dtype.kind == "f" else low.min()
    middle = -math.ldexp(float(low), -exponent)
    dtype = np.float64 if is_wide else np.float32
    change = Change(low, middle, exponent, 0.0, dtype)
    return Map(0.0, math.ldexp(1.0, -exponent), centre, size, change)


def to_unit_range(x: np.ndarray, name: str) -> Map:
    """The map of values [n, *event] of any real type to [-1, 1]; of 0 … 255, if they are uint8.

    Where the columns of a table are much farther from each other than any of them is wide, each
    is centred by itself.
    """
    if x.dtype == np.uint8:
        some = x[np.linspace(0, len(x) - 1, min(len(x), _SOME)).astype(int)]
        if some.size and some.max() <= 1:
            notice(f"{name} holds 0 and 1, both black where 255 is white: store it as bool")
        return Map(127.5, 127.5)
    if x.dtype.kind not in "buif" or not x.size:
        return Map(0.0, 1.0)
    # The range of all rows, so that a subset is scaled like the whole.
    lows, highs = _checked_ends(x, name)
    low, high = lows.min(), highs.max()
    halves, half = _half(highs, lows), float(_half(high, low))
    widest = float(halves.max())
    if widest > 0 and half > _FAR * widest:
        low, half = lows, halves
    else:
        middle = float(_wide(low) / 2 + _wide(high) / 2)
        widest = half
        is_near = abs(middle) <= _OFFSET * (half or 1.0)
        if is_near and (half == 0 or _LEAST_UNIT <= half <= _LARGEST_UNIT):
            return Map(middle, half or 1.0)
    exponent = math.frexp(widest)[1] if widest else 0
    middle = np.ldexp(half, -exponent)
    change = Change(low, middle, exponent, (_wide(low) + half).astype(np.float64))
    return Map(0.0, math.ldexp(widest, -exponent) or 1.0, change=change)


def is_far(x: np.ndarray) -> bool:
    """Whether values [n, *event] lie so far from zero that float32 has few in between."""
    with np.errstate(invalid="ignore"):  # of infinities, which are not far
        width, reach = _width_and_reach(*_ends(x))
    return reach > _FAR * width > 0


def _width_and_reach(low: np.ndarray, high: np.ndarray) -> tuple[float, float]:
    """The largest range of a column, and the largest value."""
    reach = max(np.max(np.abs(_wide(low))), np.max(np.abs(_wide(high))))
    return 2 * float(np.max(_half(high, low))), float(reach)


def _ends(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Least and greatest values in their own type: [dim] of the columns of a table, else []."""
    low, high = (_extreme(x[:1], find) for find in (np.minimum, np.maximum))
    for rows in blocks(x):
        low = np.minimum(low, _extreme(x[rows], np.minimum))
        high = np.maximum(high, _extreme(x[rows], np.maximum))
    return low, high


def _extreme(x: np.ndarray, find: np.ufunc) -> np.ndarray:
    """The least or greatest value, of each column of a table."""
    if x.ndim != 2:
        return find.reduce(x, axis=None)
    beside = max(1, _AT_ONCE // x.shape[1])
    if not x.flags.c_contiguous or len(x) < beside:
        return find.reduce(x, axis=0)
    # Rows side by side first: on short ones NumPy is up to thirty times slower.
    whole = len(x) // beside * beside
    lanes = find.reduce(x[:whole].reshape(-1, beside * x.shape[1]), axis=0)
    return find.reduce(np.concatenate([lanes.reshape(beside, -1), x[whole:]]), axis=0)


def _checked_ends(x: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
    """The same; warns where the type has lost what was between them.

    Raises:
        UserError: NaN or infinity among them.
    """
    low, high = _ends(x)
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        row = first_bad_row(x)
        raise UserError(f"{name} holds NaN or infinity, first in row {row}: remove such rows")
    if x.dtype.kind == "f":
        _warn_of_few_values(low, high, name)
    return low, high


def _warn_of_few_values(low: np.ndarray, high: np.ndarray, name: str) -> None:
    """Say that a type has few values between two that lie far from zero, and not whole ones."""
    low, high = np.atleast_1d(low), np.atleast_1d(high)
    step = np.spacing(np.maximum(np.abs(low), np.abs(high))).astype(np.float64)
    count = np.maximum(2 * _half(high, low) / step, 1)
    are_whole = (step <= 1) & (low == np.rint(low)) & (high == np.rint(high))
    few = min(FEW_VALUES, 2.0 ** (np.finfo(low.dtype).nmant - 2))
    is_lost = (high > low) & (count < few) & ~are_whole
    if is_lost.any():
        j = int(np.argmax(is_lost))
        notice(
            f"{name}: {low.dtype} tells only {count[j] + 1:.0f} values apart from {low[j]:.10g} to "
            f"{high[j]:.10g}, so that points may have become equal: store such data as float64, or "
            "less an offset and in another unit"
        )


def _wide(x: np.ndarray) -> np.ndarray:
    """In float64, or in what is wider."""
    return x.astype(np.promote_types(x.dtype, np.float64))


def _half(high: np.ndarray, low: np.ndarray) -> np.ndarray:
    """(high - low) / 2 ≥ 0 without overflow or cancellation: float64, or what is wider."""
    if high.dtype.kind == "f":
        return _wide(high) / 2 - _wide(low) / 2
    with np.errstate(over="ignore"):  # so that it is exact also for negative ones
        return (high.astype(np.uint64) - low.astype(np.uint64)).astype(np.float64) / 2
