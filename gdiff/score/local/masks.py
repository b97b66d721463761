"""Local masks: which coordinates each coordinate of a point is denoised from, by noise level.

A mask is a d × d table of bits. It has no regular shape, but outputs that lie close to each other
look at almost the same inputs. So outputs are put together in *blocks*, and for each block the
tables list the inputs at which its outputs differ; inputs that they have in common are kept apart.
"""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple
from weakref import WeakKeyDictionary

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt

from gdiff.dataset import Dataset
from gdiff.progress import track
from gdiff.score.local.filters import Rows, filters
from gdiff.score.local.filters import room as filters_room
from gdiff.store import cache

# Pixels of a block, with all their channels: 8 × 8, or 4 × 4 where masks are narrow, and a larger
# block would look at many more inputs than each of its outputs.
_PIXELS, _FEW_PIXELS = 64, 16
# Share of all inputs that a small block looks at, above which masks are wide.
_WIDE = 0.2
# Bits of a word.
WORD = 32
# Inputs that follow each other, at most, which are listed all or none, as they are read together:
# in large blocks, and in small ones.
_RUN, _SHORT_RUN = 64, 16
# Inputs that are summed together: enough for a product to keep the cores of a CPU busy.
_LANES, _FEW_LANES = 512, 256
# Cost of a pass over the inputs of a block, in those of an input of one output in a product.
_PASS = 4
# More noise levels than this share masks.
_MOST_LEVELS = 32
_DEFAULT_RANGE = (0.01, 100.0)
# Share of the largest diagonal of W below which rows are not divided by theirs.
_SMALLEST_DIAGONAL = 0.01
# Rows of the filter at a time.
_ROWS = 512
# Part of the key: to be raised when what is stored changes.
_VERSION = 3
# Masks of the data sets in memory: a class after the other asks for those of the whole.
_KNOWN: WeakKeyDictionary[Dataset, dict[tuple, "MasksByWidth"]] = WeakKeyDictionary()


def masks(rows: Rows, dim: int, threshold: float) -> np.ndarray:
    """The masks at one noise level (Lukoianov et al., arXiv 2509.09672): bits [d, ⌈d / 8⌉].

    With the Wiener filter W of the data and M_mn = W_mn / W_mm, output m is denoised from the
    inputs n with |M_mn| ≥ threshold · max |M|, the maximum being over the whole matrix. Where W_mm
    is below a hundredth of the largest, as it is for pixels that are almost constant, M_mn = W_mn;
    such an output may look at nothing, and is denoised to its mean. The released code draws that
    line at 1e-6. With it a few such pixels of MNIST make max |M| so large that no other looks even
    at itself; for pixels that all vary the two are the same.

    Args:
        rows: of W.
        dim: d.
        threshold: between 0 and 1.

    Returns:
        For each output its inputs as packed bits.
    """
    bits = np.empty((dim, -(-dim // 8)), np.uint8)
    parts = [np.arange(i, min(i + _ROWS, dim)) for i in range(0, dim, _ROWS)]
    diagonal, most = np.empty(dim), np.empty(dim)
    for index in parts:
        of_part = rows(index)
        diagonal[index] = of_part[np.arange(len(index)), index]
        most[index] = np.abs(of_part).max(axis=1)
    unit = np.where(diagonal < _SMALLEST_DIAGONAL * diagonal.max(), 1.0, diagonal)
    least = threshold * np.max(most / unit)
    for index in parts:
        bits[index] = np.packbits(np.abs(rows(index)) >= least * unit[index, None], axis=1)
    return bits


class Masks(eqx.Module):
    """Masks of several noise levels, by blocks of outputs.

    Attributes:
        log_sigma: [s] increasing.
        outputs: [blocks, m] coordinates of the outputs of a block; some may repeat at the end.
        places: [d] where a coordinate is among all outputs.
        inputs: [s, blocks, w] inputs at which the outputs of a block differ, increasing, in runs
            of `run`; some others among them.
        words: [s, blocks, w, m / 32] which outputs look at this input, one bit for each; 0 beyond
            the last input.
        counts: [s, blocks] number of inputs, in units of `lanes`.
        common: [s, blocks, d] inputs at which all outputs of a block look, unless listed above.
        has_common: [s] whether there are any.
        shares: [s, blocks, d] share of a block's outputs that look at an input.
        own: [s, d] whether a coordinate looks at itself.
        run: inputs that are listed together.
        lanes: inputs that are summed together.
    """

    log_sigma: Float[Array, " s"]
    outputs: Int[Array, "blocks m"]
    places: Int[Array, " d"]
    inputs: Int[Array, "s blocks w"]
    words: UInt[Array, "s blocks w words"]
    counts: Int[Array, "s blocks"]
    common: Bool[Array, "s blocks d"]
    has_common: Bool[Array, " s"]
    shares: Float[Array, "s blocks d"]
    own: Bool[Array, "s d"]
    run: int = eqx.field(static=True)
    lanes: int = eqx.field(static=True)

    @classmethod
    def of(
        cls, tables: Sequence["_Table"], levels: Sequence[float], outputs: np.ndarray
    ) -> "Masks":
        """From the tables of some levels, by the same blocks of outputs."""
        dtype = np.dtype(jnp.result_type(float))
        places = np.empty(len(tables[0].own), np.int32)
        places[outputs.ravel()[::-1]] = np.arange(outputs.size, dtype=np.int32)[::-1]
        width = max(table.inputs.shape[1] for table in tables)
        tables = [table.padded(width) for table in tables]
        return cls(
            log_sigma=jnp.asarray(np.log(levels), dtype),
            outputs=jnp.asarray(outputs),
            places=jnp.asarray(places),
            inputs=jnp.asarray(np.stack([table.inputs for table in tables])),
            words=jnp.asarray(np.stack([table.words for table in tables])),
            counts=jnp.asarray(np.stack([table.counts for table in tables])),
            common=jnp.asarray(np.stack([table.common for table in tables])),
            has_common=jnp.asarray([bool(table.common.any()) for table in tables]),
            shares=jnp.asarray(np.stack([table.shares for table in tables]), dtype),
            own=jnp.asarray(np.stack([table.own for table in tables])),
            run=tables[0].run,
            lanes=tables[0].lanes,
        )

    def nearest(self, sigma: Float[Array, " b"]) -> Int[Array, " b"]:
        """The level nearest to each sigma, by the ratio of the two."""
        return jnp.argmin(jnp.abs(jnp.log(sigma)[:, None] - self.log_sigma), axis=1)


class MasksByWidth(eqx.Module):
    """Masks of all noise levels of a run: wide ones in large blocks, narrow ones in small blocks.

    Attributes:
        groups: of levels; one, if all masks are wide or all narrow.
    """

    groups: tuple[Masks, ...]

    @classmethod
    def of(cls, dataset: Dataset, sigmas: Sequence[float], threshold: float) -> "MasksByWidth":
        """Masks for up to 32 levels, or for 32 in geometric progression that cover more.

        Those of a class are those of the whole data set, and the same object.
        """
        dataset = dataset.whole or dataset
        levels = _levels(sigmas)
        asked = (threshold, np.dtype(jnp.result_type(float)), *levels.tolist())
        known = _KNOWN.setdefault(dataset, {})
        if asked not in known:
            key = cache.key("local-mask", _VERSION, dataset.fingerprint(), threshold)
            known[asked] = cls(_groups(dataset, levels, threshold, key))
        return known[asked]

    @staticmethod
    def room(n: int, d: int, sigmas: Sequence[float]) -> int:
        """Bytes of memory that the masks of n points of d numbers take, most of it to make them."""
        return filters_room(n, d) + len(_levels(sigmas)) * d * d // 6


def _groups(
    dataset: Dataset, levels: np.ndarray, threshold: float, key: str | None
) -> tuple[Masks, ...]:
    d, filters_of = dataset.dim, functools.cache(lambda: filters(dataset))
    outputs = [_outputs(dataset.event_shape, size) for size in (_PIXELS, _FEW_PIXELS)]
    found = [], []
    with track(f"local masks of {dataset.name}", len(levels), "levels") as progress:
        for sigma in levels.tolist():
            bits = cache.cached(
                f"{key} {sigma!r}",
                lambda sigma=sigma: masks(filters_of()(sigma), d, threshold),
            )
            seen = np.stack([np.bitwise_or.reduce(bits[block]) for block in outputs[1]])
            is_narrow = int(np.bitwise_count(seen).sum()) <= _WIDE * d * len(seen)
            sizes = (_SHORT_RUN, _FEW_LANES) if is_narrow else (_RUN, _LANES)
            found[is_narrow].append((_Table.of(bits, outputs[is_narrow], *sizes), sigma))
            progress.advance()
    pairs = zip(found, outputs, strict=True)
    return tuple(Masks.of(*zip(*each, strict=True), of) for each, of in pairs if each)


class _Table(NamedTuple):
    """One level of `Masks`."""

    inputs: np.ndarray
    words: np.ndarray
    counts: np.ndarray
    common: np.ndarray
    shares: np.ndarray
    own: np.ndarray
    run: int
    lanes: int

    @classmethod
    def of(cls, bits: np.ndarray, outputs: np.ndarray, run: int, lanes: int) -> "_Table":
        """From the bits [d, ⌈d / 8⌉] of all outputs, and which of them are a block."""
        d, (count, m) = len(bits), outputs.shape
        run = math.gcd(d, run)

        def looks(block: int) -> np.ndarray:
            """[m, d] whether an output looks at an input."""
            return np.unpackbits(bits[outputs[block]], axis=1, count=d)

        shares = np.stack([looks(block).mean(axis=0) for block in range(count)])
        seen, common = shares > 0, shares == 1
        mixed = seen & ~common
        # Common inputs cost another pass over them; where it does not pay, they are listed too.
        fewer = _counts(seen, lanes) - _counts(mixed, lanes)
        if m * lanes * fewer.sum() <= _PASS * d * count:
            mixed, common = seen, np.zeros_like(common)
        listed = mixed.reshape(count, -1, run).any(axis=2).repeat(run, axis=1)
        counts = _counts(listed, lanes)
        width = min(d, max(1, counts.max()) * lanes)
        inputs = np.argsort(~listed, axis=1, kind="stable")[:, :width]
        words = np.empty((count, width, m // WORD), np.uint32)
        for block in range(count):
            own = np.where(mixed[block], looks(block), 0)[:, inputs[block]].astype(np.uint32)
            places = np.arange(WORD, dtype=np.uint32)[:, None]
            words[block] = np.sum(own.reshape(-1, WORD, width) << places, axis=1).T
        padding = (0, -width % lanes)
        index = np.arange(d)
        return cls(
            np.pad(inputs.astype(np.int16 if d <= 2**15 else np.int32), ((0, 0), padding)),
            np.pad(words, ((0, 0), padding, (0, 0))),
            counts,
            common,
            shares,
            (bits[index, index // 8] >> (7 - index % 8) & 1).astype(bool),
            run,
            lanes,
        )

    def padded(self, width: int) -> "_Table":
        """The same with lists of that many inputs."""
        more = (0, width - self.inputs.shape[1])
        return self._replace(
            inputs=np.pad(self.inputs, ((0, 0), more)),
            words=np.pad(self.words, ((0, 0), more, (0, 0))),
        )


def _counts(listed: np.ndarray, lanes: int) -> np.ndarray:
    """Inputs per block [blocks, d] → [blocks], in units of `lanes`."""
    return -(-listed.sum(axis=1, dtype=np.int32) // lanes)


def _levels(sigmas: Sequence[float]) -> np.ndarray:
    given = np.unique(np.asarray(sigmas, np.float64))
    if 0 < len(given) <= _MOST_LEVELS:
        return given
    low, high = (given[0], given[-1]) if len(given) else _DEFAULT_RANGE
    return np.geomspace(low, high, _MOST_LEVELS)


def _outputs(event_shape: tuple[int, ...], size: int) -> np.ndarray:
    """Coordinates by blocks, near ones together: [blocks, m], padded by repeating.

    The pixels of an image are taken along a Z-order curve, so that a block of 64 is a square
    of 8 × 8 pixels with all channels. Other points are cut into runs of coordinates.
    """
    is_image = len(event_shape) == 3
    height, width, channels = event_shape if is_image else (1, int(np.prod(event_shape)), 1)
    row, column = np.divmod(np.arange(height * width), width)
    code = np.zeros(height * width, np.int64)
    for bit in range(16 if is_image else 0):
        code |= (row >> bit & 1) << (2 * bit + 1) | (column >> bit & 1) << (2 * bit)
    pixels = np.argsort(code, kind="stable")
    size = min(len(pixels), size)
    pixels = np.pad(pixels, (0, -len(pixels) % size), mode="edge").reshape(-1, size, 1)
    outputs = (pixels * channels + np.arange(channels)).reshape(len(pixels), -1)
    return np.pad(outputs, ((0, 0), (0, -outputs.shape[1] % WORD)), mode="edge").astype(np.int32)
