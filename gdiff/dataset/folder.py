"""Images on disk: one subfolder a class, or all in one folder."""

import mimetypes
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gdiff.dataset import images
from gdiff.dataset.base import Dataset, DatasetSpec
from gdiff.errors import UserError, require
from gdiff.progress import notice
from gdiff.store import cache

# What systems put into folders of pictures.
_OF_SYSTEMS = ("Thumbs.db", "desktop.ini")


@dataclass(frozen=True, kw_only=True)
class Folder(DatasetSpec):
    """Image files (png, jpg, jpeg, bmp, webp, gif) of a folder, or of its subfolders.

    Subfolders with images are classes, numbered in the order of their sorted names, numbers by
    their values. Hidden files are left out; what else is left out is counted. The data is grey if
    every file is, else RGB; for the values see `images.white_of`. Decoded images are kept in the
    cache until a file is added, removed or changed.

    Attributes:
        path: the folder.
        resolution: crop images to their central square and resize them to this many pixels a
            side; None keeps them as they are, if all have one size.
    """

    path: Path | None = None
    resolution: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.path is not None, "path is missing: give the folder of images")
        images.check_resolution(self.resolution)

    def read(self) -> Dataset:
        """[n, height, width, 1 or 3] uint8, sorted by class and file name."""
        root = Path(os.path.expanduser(self.path))
        try:
            files, labels, class_names, left_out = _list(root)
            mark = cache.signature(root, files)
        except OSError as error:
            raise UserError(
                f"dataset.path={self.path}: {error.filename} cannot be read ({error.strerror})"
            ) from error
        if left_out:
            notice(f"dataset.path={self.path}: {_counted(left_out)} left out")
        name = root.resolve().name
        key = cache.key("images", name, mark, self.resolution, images.DECODER)
        x = cache.load(key)
        return Dataset(
            name=name,
            x=self._decode(root, files, key) if x is None else x,
            labels=labels,
            class_names=class_names,
            shift=127.5,
            scale=127.5,
        )

    def _decode(self, root: Path, files: list[Path], key: str) -> np.ndarray:
        sizes, is_grey, is_deep = zip(*images.headers(files, root.name), strict=True)
        other = next((i for i, size in enumerate(sizes) if size != sizes[0]), None)
        if other is not None and self.resolution is None:
            raise UserError(
                f"dataset.path={self.path} holds images of several sizes "
                f"({files[0].relative_to(root)} is {sizes[0][1]}x{sizes[0][0]}, "
                f"{files[other].relative_to(root)} is {sizes[other][1]}x{sizes[other][0]}): "
                f"give dataset.resolution, such as {min(map(min, sizes))}"
            )
        channels = 1 if all(is_grey) else 3
        height, width = sizes[0] if self.resolution is None else (self.resolution, self.resolution)
        shape = (len(files), height, width, channels)
        images.require_room(shape, self.resolution)

        def write(out: np.ndarray) -> None:
            size = channels * int(np.median([height * width for height, width in sizes]))
            white = images.white_of(files, is_deep, root.name, size)
            options = {"size": size, "resolution": self.resolution, "white": white}
            images.decode_into(out, files.__getitem__, root.name, **options)

        return cache.fill(key, shape, np.uint8, write)


class _Found(NamedTuple):
    """Image files, their labels and class names where there are subfolders, and what is no part.

    What is left out is counted by kinds: suffixes, and images in deeper folders.
    """

    files: list[Path]
    labels: np.ndarray | None
    class_names: tuple[str, ...] | None
    left_out: Counter[str]


def _list(root: Path) -> _Found:
    """What is below `root`."""
    require(root.is_dir(), f"dataset.path={root} is not a folder: give the folder of images")
    left_out: Counter[str] = Counter()
    flat, folders = _look(root, left_out)
    classes, deeper = {}, []
    for folder in folders:
        found, below = _look(folder, left_out)
        if found:
            classes[folder.name] = found
        deeper += [(each, count) for each in below if (count := _images_below(each))]
    require(
        not (flat and classes),
        f"dataset.path={root} holds images ({', '.join(f.name for f in flat[:2])}) beside folders "
        f"of images ({', '.join(list(classes)[:2])}): leave it only one of the two",
    )
    if not flat and not classes:
        hint = f"use {', '.join(images.SUFFIXES)}"
        if deeper:
            hint = f"give dataset.path={deeper[0][0].parent}"
        elif left_out:
            hint = f"{_counted(left_out)} left out; {hint}"
        raise UserError(f"dataset.path={root} and its subfolders hold no images: {hint}")
    if deeper:
        left_out["in deeper folders"] = sum(count for _, count in deeper)
    if flat:
        return _Found(flat, None, None, left_out)
    counts = [len(found) for found in classes.values()]
    labels = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    return _Found([f for found in classes.values() for f in found], labels, (*classes,), left_out)


def _look(folder: Path, left_out: Counter[str]) -> tuple[list[Path], list[Path]]:
    """Image files and folders in a folder, sorted; other files, unless of text, are counted."""
    files, folders = [], []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(".") or entry.name in _OF_SYSTEMS:
                continue
            if entry.is_dir():
                folders.append(entry.name)
            elif _is_image(entry.name):
                files.append(entry.name)
            elif (mimetypes.guess_type(entry.name)[0] or "image/").startswith("image/"):
                suffix = os.path.splitext(entry.name)[1].lower()
                left_out[suffix or "without a suffix"] += 1
    return [folder / f for f in sorted(files)], [folder / f for f in sorted(folders, key=_order)]


def _order(name: str) -> tuple[int, int, str]:
    """Numbers come first, by their values."""
    return (0, int(name), name) if name.isdecimal() else (1, 0, name)


def _is_image(name: str) -> bool:
    return name.lower().endswith(images.SUFFIXES) and not name.startswith(".")


def _images_below(folder: Path) -> int:
    """How many images a folder and those within hold."""
    total = 0
    for _, folders, names in os.walk(folder):
        folders[:] = [each for each in folders if not each.startswith(".")]
        total += sum(map(_is_image, names))
    return total


def _counted(left_out: Counter[str]) -> str:
    """All, and how many of each kind: 3 files (2 .tif, 1 .jfif) are."""
    total = left_out.total()
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(left_out.items()))
    return f"{total} {'file' if total == 1 else 'files'} ({kinds}) {'is' if total == 1 else 'are'}"
