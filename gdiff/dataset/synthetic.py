"""A large data set made from a small one: pictures with structure, to try out scale."""

from pathlib import Path

import numpy as np

from gdiff import memory
from gdiff.dataset.base import Dataset
from gdiff.errors import UserError, require
from gdiff.progress import track
from gdiff.store.files import replacing

# The shape of ImageNet at 64 pixels.
POINTS, RESOLUTION = 1_281_167, 64
_BLOCK = 512
# Side of a crop, and radius of the ellipse, in sides of the picture.
_CROP, _RADIUS = (0.5, 1.0), (0.2, 0.5)


def write(source: Dataset, path: Path, points: int, resolution: int, seed: int = 0) -> Path:
    """Write `points` pictures made of those of `source` as a .npy file, unless it is there.

    Each is a crop of one picture, and over it an ellipse with a crop of another one; both are
    flipped at random and resized by linear interpolation. Pictures that are large enough are never
    enlarged, so that detail is as fine as theirs. Picture i depends on i and `seed` only.

    Args:
        source: images [n, height, width, 1 or 3].
        path: [points, resolution, resolution, 3] uint8 will lie there once it is whole.

    Raises:
        UserError: the file cannot be written.
    """
    require(points >= 1, f"--points={points} must be at least 1")
    require(resolution >= 1, f"--resolution={resolution} must be at least 1")
    if path.is_file():
        return path
    require(not path.is_dir(), f"--output={path} is a folder: give a file in it")
    # A block is there in float32, twice, on the way to its bytes.
    memory.require_room(12 * 3 * _BLOCK * resolution**2, f"--resolution={resolution}")
    size = 3 * points * resolution**2
    memory.require_room(size, f"--points={points}", memory.of_disk(path), "disk")
    header = {
        "descr": "|u1",
        "fortran_order": False,
        "shape": (points, resolution, resolution, 3),
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file, track(f"writing {path.name}", points, "images") as progress:
            np.lib.format.write_array_header_1_0(file, header)
            for begin in range(0, points, _BLOCK):
                count = min(_BLOCK, points - begin)
                rng = np.random.default_rng([seed, begin])
                file.write(pictures(source, resolution, rng)[:count].tobytes())
                progress.advance(count)
    except MemoryError as error:
        raise UserError(f"{error}: lower --resolution={resolution}") from error
    except OSError as error:
        reason = f"{path} cannot be written ({error.strerror})"
        raise UserError(f"{reason}: give another file as --output") from error
    return path


def pictures(source: Dataset, resolution: int, rng: np.random.Generator) -> np.ndarray:
    """A block of pictures: [512, resolution, resolution, 3] uint8."""
    ground, figure = (_crops(source, resolution, rng) for _ in range(2))
    centre = rng.uniform(0.2, 0.8, (2, _BLOCK, 1))
    radius = rng.uniform(*_RADIUS, (2, _BLOCK, 1))
    place = (np.arange(resolution) + 0.5) / resolution
    down, across = ((place - centre) / radius) ** 2
    is_inside = down[:, :, None] + across[:, None, :] < 1
    values = np.where(is_inside[:, None], figure, ground)
    values = np.broadcast_to(values, (_BLOCK, 3, resolution, resolution))
    return np.rint(np.moveaxis(values, 1, -1)).astype(np.uint8)


def _crops(source: Dataset, resolution: int, rng: np.random.Generator) -> np.ndarray:
    """Flipped and resized crops of random pictures: [512, channels, …] float32 in 0 … 255."""
    x = source.x[np.sort(rng.integers(0, len(source), _BLOCK))][rng.permutation(_BLOCK)]
    values = source.to_model(np.moveaxis(x, -1, 1)) * 127.5 + 127.5
    enlarged = resolution / min(x.shape[1:3])
    side = rng.uniform(_CROP[0] if enlarged > 1 else max(enlarged, _CROP[0]), _CROP[1], _BLOCK)
    down, across = (
        _weights(size, resolution, side, rng.uniform(0, 1 - side)) for size in x.shape[1:3]
    )
    is_flipped = rng.random(_BLOCK) < 0.5
    across[is_flipped] = across[is_flipped, ::-1]
    return down[:, None] @ values @ across[:, None].swapaxes(2, 3)


def _weights(size: int, resolution: int, side: np.ndarray, begin: np.ndarray) -> np.ndarray:
    """Weights of linear interpolation along one axis: [b, resolution, size] float32."""
    place = begin[:, None] + side[:, None] * (np.arange(resolution) + 0.5) / resolution
    place = np.clip(place * size - 0.5, 0, size - 1)[:, :, None]
    return np.maximum(1 - np.abs(place - np.arange(size)), 0).astype(np.float32)
