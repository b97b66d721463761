"""Data sets prepared by TensorFlow Datasets (TFDS), read without TensorFlow."""

import json
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from gdiff.dataset import images
from gdiff.dataset.base import Dataset, DatasetSpec
from gdiff.errors import UserError, require
from gdiff.store import cache

_INFO = "dataset_info.json"
_FORMAT = "array_record"
# Splits of the law of `train`, the first choice first.
_HELD_OUT = ("test", "validation")


@dataclass(frozen=True, kw_only=True)
class Tfds(DatasetSpec):
    """Images of a TFDS data set that lies prepared on disk, in the array_record format.

    The first image feature gives the points, the first class label the classes. If the names of
    these are codes, and the description of the data set says what they stand for ("n02085620
    Chihuahua; n02094433 Yorkshire terrier; …"), classes have both. Decoded images are kept in the
    cache until the prepared files change.

    Attributes:
        name: of the data set, with its configuration if it has several, and a version if not
            the newest one is meant: `mnist`, `imagenet_resized/64x64`, `mnist:3.0.1`.
        split: in TFDS's notation: `train`, `test`, `train[:10%]`, `train+test`.
        data_dir: folder of prepared data sets; None for $TFDS_DATA_DIR or ~/tensorflow_datasets.
        resolution: crop images to their central square and resize them to this many pixels a
            side; None keeps them as they are.
    """

    name: str | None = None
    split: str = "train"
    data_dir: Path | None = None
    resolution: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        require(bool(self.name), "name is missing: give a TFDS name, such as mnist")
        images.check_resolution(self.resolution)

    def held_out(self) -> "Tfds":
        """All of `test`, or of `validation` if need be, where the points are of `train` alone."""
        splits = {part.partition("[")[0].strip() for part in self.split.split("+")}
        others = [name for name in _HELD_OUT if name in self._splits(self._folder())]
        if splits != {"train"} or not others:
            return super().held_out()
        return replace(self, split=others[0], subset=None)

    def read(self) -> Dataset:
        """[n, height, width, channels] uint8."""
        return self._read(is_whole=True)

    def _chosen(self) -> tuple[Dataset, np.ndarray | None]:
        if self.subset is None:
            return super()._chosen()
        data = self._read(is_whole=False)
        # Those that were decoded may be the chosen ones alone.
        return data, None if len(data) == self.subset else self._index(data)

    def _read(self, *, is_whole: bool) -> Dataset:
        """All images or, unless these are in the cache, those of `subset` alone."""
        folder = self._folder()
        # Whatever is in the cache is loaded without importing TFDS, which takes a second.
        mark = cache.signature(folder, sorted(f for f in folder.iterdir() if f.is_file()))
        parts = (self.name, self.split, mark, self.resolution, images.DECODER)
        key = cache.key("images", *parts)
        x, labels, names = (cache.load(f"{key} {part}") for part in ("x", "labels", "names"))
        if x is None and not is_whole and labels is not None and names is not None and len(labels):
            index = self._rows(folder, len(labels), labels, names)
            x = cache.load(_key_of(key, index))
            labels = labels if x is None else labels[index]
        if x is None or labels is None or names is None:
            with quiet():
                x, labels, names = self._decode(folder, key, is_whole=is_whole)
        return self._described(folder, x, labels, names)

    def _described(
        self, folder: Path, x: np.ndarray, labels: np.ndarray, names: np.ndarray
    ) -> Dataset:
        """Images with what their folder says of their classes."""
        codes = names.tolist()
        words = _words_for(codes, _description(folder).get("description", ""))
        return Dataset(
            name=self.name if self.split == "train" else f"{self.name} {self.split}",
            x=x,
            labels=labels if len(labels) else None,
            class_names=tuple(words or codes) or None,
            class_codes=tuple(codes) if words else None,
            shift=127.5,
            scale=127.5,
        )

    def _folder(self) -> Path:
        """The prepared folder, checked as far as its own description goes."""
        data_dir = Path(os.path.expanduser(self.data_dir)) if self.data_dir else default_data_dir()
        folder = prepared(self.name, data_dir)
        if folder is None:
            raise UserError(
                f"{self.name} is not prepared in {data_dir}: give the folder of prepared data sets "
                f"as dataset.data_dir=DIR, or run: gdiff data prepare {self.name}"
            )
        found = file_formats(folder)
        require(
            _FORMAT in found,
            f"{self.name} in {folder} is prepared as {' and '.join(found)}, but {_FORMAT} is "
            f"needed: run gdiff data prepare {self.name} with another dataset.data_dir",
        )
        splits = self._splits(folder)
        for part in self.split.split("+"):
            require(
                part.partition("[")[0].strip() in (*splits, "all"),
                f"dataset.split={self.split!r}: {self.name} has the splits {', '.join(splits)}",
            )
        return folder

    @staticmethod
    def _splits(folder: Path) -> list[str]:
        """Names of those that are prepared."""
        return [split["name"] for split in _description(folder).get("splits", [])]

    def _decode(
        self, folder: Path, key: str, *, is_whole: bool
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Images, labels and class names (the latter two may be empty), kept in the cache."""
        tfds = library()
        try:
            builder = tfds.builder_from_directory(folder)
        except Exception as error:  # TFDS raises many kinds on damaged descriptions
            raise _damaged(folder, error) from error
        image_key, label_key = _feature_keys(builder.info.features, self.name)
        image = builder.info.features[image_key]
        try:
            source = builder.as_data_source(
                split=self.split,
                deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES,
                file_format=_FORMAT,
            )
            n = len(source)
        except (ValueError, AssertionError) as error:
            raise UserError(f"dataset.split={self.split!r}: {images.one_line(error)}") from error

        labels, names = np.zeros(0, np.int32), []
        if label_key:
            # A pass of its own, so that images found in the cache need no decoding for it.
            labels, names = _labels(source, label_key), builder.info.features[label_key].names
            if labels.max() < 0:  # how TFDS marks a split without labels
                labels, names = labels[:0], []
        cache.save(f"{key} labels", labels)
        cache.save(f"{key} names", np.array(names, str))

        index, of_all, names = np.arange(n), f"{key} x", np.array(names, str)
        if not is_whole:
            index = self._rows(folder, n, labels, names)
            labels = labels[index] if len(labels) else labels

        def encoded(rows: slice) -> list[bytes]:
            return [e[image_key].bytes_list.value[0] for e in _examples(source, index[rows])]

        def write(out: np.ndarray) -> None:
            name = f"{self.name} {self.split}"
            size = int(np.prod([side or 256 for side in image.shape]))
            images.decode_into(out, encoded, name, size=size, resolution=self.resolution)

        shape = (len(index), *self._shape(image.shape, encoded))
        images.require_room(shape, self.resolution)
        x = cache.fill(of_all if is_whole else _key_of(key, index), shape, np.uint8, write)
        return x, labels, names

    def _rows(self, folder: Path, n: int, labels: np.ndarray, names: np.ndarray) -> np.ndarray:
        """Numbers of the records that `classes` and `subset` choose of n."""
        none = np.broadcast_to(np.zeros((), np.uint8), (n, 1, 1, 1))
        index = self._index(self._described(folder, none, labels, names))
        return np.arange(n) if index is None else index

    def _shape(
        self, declared: tuple[int | None, ...], encoded: Callable[[slice], list[bytes]]
    ) -> tuple[int, int, int]:
        """Height, width and channels of the decoded images."""
        channels = 1 if declared[2] == 1 else 3
        if self.resolution is not None:
            return self.resolution, self.resolution, channels
        if None in declared[:2]:  # declared as varying: if they do, decoding will find out
            with images.blamed(f"image 0 of {self.name}"):
                return images.pixels(encoded(slice(0, 1))[0], channels).shape
        return *declared[:2], channels


def _key_of(key: str, index: np.ndarray) -> str:
    """Under which the images of some records are kept."""
    return f"{key} x of {cache.digest(index)}"


def library() -> ModuleType:
    """TFDS, imported when it is needed: that takes a second, and some machines do without.

    Raises:
        UserError: it is not installed.
    """
    try:
        import array_record  # noqa: F401  TFDS misses it only when it reads
        import tensorflow_datasets
    except ModuleNotFoundError as error:
        raise UserError(
            f"data sets of TFDS need the package {error.name}, which is not installed: pip install "
            "tensorflow-datasets array-record importlib_resources, or give the data as "
            "dataset=array dataset.path=FILE.npy"
        ) from error
    return tensorflow_datasets


def default_data_dir() -> Path:
    """Where TFDS prepares data sets: $TFDS_DATA_DIR, else ~/tensorflow_datasets."""
    own = os.environ.get("TFDS_DATA_DIR")
    return Path(os.path.expanduser(own or "~/tensorflow_datasets"))


def prepared(name: str, data_dir: Path) -> Path | None:
    """Folder of the newest prepared version of a TFDS data set, or None; imports nothing.

    Args:
        name: `mnist`, `imagenet_resized/64x64`, `mnist:3.0.1`; the configuration may be left out
            where only one is prepared.
        data_dir: the folder that holds it.
    """
    path, _, version = name.partition(":")
    try:
        found = _versions(data_dir / path, version)
        if not found and (data_dir / path).is_dir():
            configs = {
                folder.name: versions
                for folder in sorted((data_dir / path).iterdir())
                if (versions := _versions(folder, version))
            }
            require(
                len(configs) < 2,
                f"dataset.name={name}: {data_dir / path} holds {', '.join(configs)}: "
                f"name one, such as {path}/{next(iter(configs), '')}",
            )
            found = next(iter(configs.values()), [])
    except OSError as error:
        raise UserError(
            f"dataset.data_dir: {error.filename} cannot be read ({error.strerror})"
        ) from error
    return found[-1] if found else None


def file_formats(folder: Path) -> list[str]:
    """Formats in which a prepared folder holds its data, such as array_record or tfrecord."""
    info = _description(folder)
    return [info.get("fileFormat", "tfrecord"), *info.get("alternativeFileFormats", [])]


@contextmanager
def quiet() -> Iterator[None]:
    """Keep TFDS from logging remarks meant for its own developers."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _versions(folder: Path, version: str) -> list[Path]:
    """Prepared versions in `folder`, oldest first; only `version` if it is not empty."""
    if not folder.is_dir():
        return []
    found = [f for f in folder.iterdir() if re.fullmatch(r"\d+\.\d+\.\d+", f.name)]
    found = [f for f in found if (f / _INFO).is_file() and version in ("", f.name)]
    return sorted(found, key=lambda f: [int(number) for number in f.name.split(".")])


def _description(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / _INFO).read_text())
    except (OSError, ValueError) as error:
        raise _damaged(folder, error) from error


def _words_for(codes: Sequence[str], description: object) -> list[str]:
    """What the codes stand for, if a description says so of each; otherwise none."""
    parts = re.split(r"[;:\n]", description) if isinstance(description, str) else ()
    pairs = (part.strip().rstrip(".").split(maxsplit=1) for part in parts)
    known = dict(pair for pair in pairs if len(pair) == 2)
    return [known[code] for code in codes] if codes and known.keys() >= set(codes) else []


def _damaged(folder: Path, error: Exception) -> UserError:
    reason = images.one_line(error)
    return UserError(f"{folder} is damaged ({reason}): remove it and prepare the data set anew")


def _feature_keys(features: Mapping[str, Any], name: str) -> tuple[str, str | None]:
    """Names of the first image and of the first class label, which may be missing."""
    kinds = {key: type(feature).__name__ for key, feature in features.items()}
    image = next((key for key, kind in kinds.items() if kind == "Image"), None)
    listed = ", ".join(f"{key} ({kind})" for key, kind in kinds.items())
    require(image is not None, f"{name} has no images, but {listed}: choose another data set")
    dtype = np.dtype(features[image].np_dtype)
    require(dtype.kind == "u", f"{name} has {dtype} images: only whole numbers can be read")
    return image, next((key for key, kind in kinds.items() if kind == "ClassLabel"), None)


def _labels(source: Sequence[bytes], key: str) -> np.ndarray:
    """Class indices [n] int32 of all records."""
    labels, index = np.empty(len(source), np.int32), np.arange(len(source))
    for rows in images.batches(len(source)):
        examples = _examples(source, index[rows])
        labels[rows] = [example[key].int64_list.value[0] for example in examples]
    return labels


def _examples(source: Any, rows: np.ndarray) -> list[Mapping[str, Any]]:
    """Records by their numbers, as feature name → protobuf list, images still encoded."""
    # TFDS's own parser takes 85 µs a record, the generated protobuf class 5.
    from tensorflow_datasets.proto import tf_example_pb2

    try:
        records = source.__getitems__(rows.tolist())
        return [tf_example_pb2.Example.FromString(record).features.feature for record in records]
    except Exception as error:  # array_record and protobuf raise many kinds on damaged files
        raise _damaged(Path(source.dataset_info.data_dir), error) from error
