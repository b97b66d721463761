"""What data there is on this machine, what is in it, and how to fetch more."""

import contextlib
import importlib.util
import io
import os
import socket
import sys
import threading
import types
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit
from urllib.request import getproxies

import numpy as np

from gdiff.dataset import synthetic
from gdiff.dataset.base import Dataset, blocks
from gdiff.dataset.digits import Digits
from gdiff.dataset.images import one_line
from gdiff.dataset.tfds import Tfds, default_data_dir, file_formats, library, prepared, quiet
from gdiff.errors import UserError, require

_FORMAT = "array_record"
_NETWORK_SECONDS = 4.0
# What synthetic pictures are made of, the first that is there.
_SOURCES = "tiny_imagenet", "cifar10"
_PROBE = ("storage.googleapis.com", 443)


class Preset(NamedTuple):
    """A data set that has its own option of the group `dataset`.

    Attributes:
        about: what it is.
        points: how many, in the default split; None if the user's data or options say.
        shape: of one point; None likewise.
        tfds: its name as a prepared data set of TFDS, or None.
        key: the key without which it has no data, or None.
        is_listed: whether TFDS can prepare it.
    """

    about: str
    points: int | None
    shape: tuple[int, ...] | None
    tfds: str | None = None
    key: str | None = None
    is_listed: bool = True


PRESETS = {
    "digits": Preset("small handwritten digits, bundled", 1797, (8, 8, 1)),
    "mnist": Preset("handwritten digits", 60_000, (28, 28, 1), "mnist"),
    "fashion_mnist": Preset("pictures of clothes", 60_000, (28, 28, 1), "fashion_mnist"),
    "cifar10": Preset("photographs in 10 classes", 50_000, (32, 32, 3), "cifar10"),
    "celeb_a": Preset("faces", 162_770, (64, 64, 3), "celeb_a"),
    "imagenet64": Preset("ImageNet", 1_281_167, (64, 64, 3), "imagenet_resized/64x64"),
    "tiny_imagenet": Preset(
        "photographs in 200 classes",
        *(50_000, (64, 64, 3), "tiny_imagenet"),
        is_listed=False,
    ),
    "tfds": Preset("any image data set of TFDS", None, None, key="dataset.name"),
    "folder": Preset("images on disk", None, None, key="dataset.path"),
    "array": Preset(".npy or .npz file", None, None, key="dataset.path"),
    "moons": Preset("two half circles", 2000, (2,)),
    "swiss_roll": Preset("a spiral", 2000, (2,)),
    "gaussians": Preset("normal components on a circle", 2000, (2,)),
    "checkerboard": Preset("uniform on dark squares", 2000, (2,)),
    "two_points": Preset("-1 and +1 on a line", 2, (1,)),
}


class Row(NamedTuple):
    """A line of `gdiff data list`.

    Attributes:
        name: as in `dataset=name`.
        about: what it is.
        points, shape: how many points, and the shape of one; None where data or options say.
        ready: whether it can be used on this machine now.
        where: the folder it lies in, or what it needs.
    """

    name: str
    about: str
    points: int | None
    shape: tuple[int, ...] | None
    ready: bool
    where: str


class ClassRow(NamedTuple):
    """A class of a data set: both number and name, if it has one, may stand in dataset.classes."""

    number: int
    name: str | None
    points: int


class CodedClassRow(NamedTuple):
    """A class that the data call by a code, which may stand in dataset.classes too."""

    number: int
    name: str
    code: str
    points: int


def available(data_dir: Path | None = None) -> list[Row]:
    """All presets, and which of them are ready; imports neither TFDS nor any data.

    Args:
        data_dir: folder of prepared TFDS data sets; None for the default one.
    """
    data_dir = Path(os.path.expanduser(data_dir)) if data_dir else default_data_dir()
    return [_row(name, preset, data_dir) for name, preset in PRESETS.items()]


def describe(dataset: Dataset) -> dict[str, Any]:
    """Facts about a data set, in one pass over it.

    Returns:
        name, points, shape, dim, dtype, bytes, memory_mapped; min and max as in the file;
        mean_norm, the mean Euclidean norm in model coordinates; fingerprint.
    """
    low, high, norms = [], [], []
    for rows in blocks(dataset.x):
        values = dataset.values(rows)
        low.append(values.min())
        high.append(values.max())
        flat = dataset.rows(rows).reshape(-1, dataset.dim)
        norms.append(np.sqrt(np.einsum("nd,nd->n", flat, flat)))
    return {
        "name": dataset.name,
        "points": len(dataset),
        "shape": dataset.event_shape,
        "dim": dataset.dim,
        "dtype": str(dataset.x.dtype),
        "bytes": dataset.x.nbytes,
        "memory_mapped": isinstance(dataset.x, np.memmap),
        "min": min(low).item(),
        "max": max(high).item(),
        "mean_norm": float(np.concatenate(norms).mean(dtype=np.float64)),
        "fingerprint": dataset.fingerprint(),
    }


def classes(dataset: Dataset) -> list[ClassRow] | list[CodedClassRow]:
    """The classes that have points; none without labels."""
    if dataset.labels is None:
        return []
    names = dict(enumerate(dataset.class_names or ()))
    counted = np.unique(dataset.labels, return_counts=True)
    found = list(zip(*(column.tolist() for column in counted), strict=True))
    if codes := dataset.class_codes:
        return [CodedClassRow(c, names[c], codes[c], points) for c, points in found]
    return [ClassRow(c, names.get(c), points) for c, points in found]


def prepare(name: str, data_dir: Path | None = None) -> Path:
    """Download and prepare a TFDS data set, unless it is there already.

    Args:
        name: a preset (`imagenet64`) or a TFDS name (`imagenet_resized/64x64`).
        data_dir: where to put it; None for TFDS's default folder.

    Returns:
        The prepared folder.

    Raises:
        UserError: an unknown or local data set, no network, or whatever TFDS objects to.
    """
    preset = PRESETS.get(name)
    if preset and preset.tfds is None:
        need = f"give it by {preset.key}" if preset.key else "use it as it is"
        raise UserError(f"{name} needs no preparation: {need}")
    name = preset.tfds if preset else name
    data_dir = Path(os.path.expanduser(data_dir)) if data_dir else default_data_dir()
    folder = prepared(name, data_dir)
    if folder is not None:
        found = file_formats(folder)
        require(
            _FORMAT in found,
            f"{folder} holds {name} as {' and '.join(found)}, but {_FORMAT} is needed: choose "
            "another folder, or remove this one",
        )
        return folder
    require(
        preset is None or preset.is_listed,
        f"{name} is not in {data_dir}, and TensorFlow Datasets cannot prepare it: give the folder "
        "that it lies prepared in as dataset.data_dir=DIR",
    )
    with quiet():
        _check_known(name)
        _check_network(name)
        return _download(name, data_dir)


def prepare_synthetic(
    data_dir: Path | None = None,
    output: Path | None = None,
    points: int = synthetic.POINTS,
    resolution: int = synthetic.RESOLUTION,
) -> Path:
    """Write a large .npy file of pictures made from Tiny ImageNet, CIFAR-10 or digits.

    The first of them that is there is taken: what makes a coarse scan cheap or dear is how fine
    the detail of the pictures is, so those that need not be enlarged come first.

    Args:
        data_dir: folder of prepared TFDS data sets; None for the default one.
        output: the file; None for one in the folder `synthetic` of `data_dir`.
        points, resolution: how many pictures, and pixels a side; by default as ImageNet-64.

    Returns:
        The file, to be used as `dataset=array dataset.path=FILE`.

    Raises:
        UserError: it cannot be written.
    """
    data_dir = Path(os.path.expanduser(data_dir)) if data_dir else default_data_dir()
    if output is None:
        output = data_dir / "synthetic" / f"{points}x{resolution}x{resolution}.npy"
    found = (name for name in _SOURCES if prepared(name, data_dir) is not None)
    name = next(found, None)
    source = Digits() if name is None else Tfds(name=name, data_dir=data_dir)
    return synthetic.write(source.load(), Path(os.path.expanduser(output)), points, resolution)


def _row(name: str, preset: Preset, data_dir: Path) -> Row:
    ready, where = True, "built in"
    if preset.key:
        ready, where = False, f"give {preset.key}"
    elif preset.tfds:
        try:
            folder = prepared(preset.tfds, data_dir)
            ready = folder is not None and _FORMAT in file_formats(folder)
            how = f"run gdiff data prepare {name}" if preset.is_listed else "give dataset.data_dir"
            where = str(folder) if ready else how
        except UserError as error:
            ready, where = False, str(error)
    return Row(name, preset.about, preset.points, preset.shape, ready, where)


def _check_known(name: str) -> None:
    """TFDS looks for an unknown name on the network, for minutes."""
    tfds = library()
    known = tfds.list_builders(with_community_datasets=False)
    base = name.partition("/")[0].partition(":")[0]
    close = get_close_matches(base, [*known, *PRESETS], n=1)
    hint = f"did you mean {close[0]}?" if close else "see https://www.tensorflow.org/datasets"
    require(base in known, f"TFDS has no data set {base!r}: {hint}")


def _check_network(name: str) -> None:
    """A few seconds, where TFDS by itself would retry for minutes."""
    proxies = getproxies()
    proxy = urlsplit(proxies.get("https") or proxies.get("http") or "")
    address = (proxy.hostname, proxy.port or 80) if proxy.hostname else _PROBE
    reached = threading.Event()

    def connect() -> None:
        with (
            contextlib.suppress(OSError),
            socket.create_connection(address, timeout=_NETWORK_SECONDS),
        ):
            reached.set()
        done.set()

    # On a thread, because looking up a name has no time limit of its own.
    done = threading.Event()
    threading.Thread(target=connect, daemon=True).start()
    done.wait(_NETWORK_SECONDS)
    require(
        reached.is_set(),
        f"{name} cannot be downloaded: {address[0]} does not answer; prepare it on a machine with "
        "a network, copy the folder, and give its parent as dataset.data_dir=DIR",
    )


def _download(name: str, data_dir: Path) -> Path:
    tfds = library()
    # TFDS prints banners to stdout; its progress bars go to stderr.
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            _stand_in_for_tensorflow()
            builder = tfds.builder(name, data_dir=data_dir, file_format=_FORMAT)
            builder.download_and_prepare()
        except KeyboardInterrupt:
            raise
        except Exception as error:  # TFDS's builders raise anything
            raise UserError(
                f"TFDS could not prepare {name} in {data_dir} ({one_line(error)}): "
                "see https://www.tensorflow.org/datasets/catalog for what it needs"
            ) from error
    return Path(builder.data_dir)


def _stand_in_for_tensorflow() -> None:
    """Where TensorFlow is missing, give TFDS the few functions of it that preparing data uses.

    TFDS reads without TensorFlow, but opens downloaded archives and encodes arrays as image files
    through it; plain Python does both.
    """
    if importlib.util.find_spec("tensorflow") is not None:
        return
    from tensorflow_datasets.core.features.image_feature import _ImageEncoder
    from tensorflow_datasets.core.utils.lazy_imports_utils import tensorflow as lazy

    errors = ("UnimplementedError", "FailedPreconditionError", "PermissionDeniedError")
    module = types.ModuleType("tensorflow")
    module.__version__ = "2.99"
    module.io = types.SimpleNamespace(gfile=types.SimpleNamespace(GFile=open))
    module.compat = types.SimpleNamespace(as_text=str)
    module.errors = types.SimpleNamespace(
        **{error: type(error, (Exception,), {}) for error in (*errors, "AbortedError")}
    )
    # TFDS imports TensorFlow at its first use, made here; nobody else should find the stand-in.
    sys.modules["tensorflow"] = module
    try:
        _ = lazy.io
    finally:
        del sys.modules["tensorflow"]
    _ImageEncoder._encode_image = _encode_image


def _encode_image(encoder: Any, image: np.ndarray) -> bytes:
    """An array [height, width, channels] as the bytes of a file, as TFDS's own method does."""
    from PIL import Image

    with io.BytesIO() as file:
        flat = image[..., 0] if image.shape[-1] == 1 else image
        Image.fromarray(flat).save(file, format=encoder.encoding_format)
        return file.getvalue()
