"""Images on disk: one subfolder a class, or all in one folder."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gdiff.dataset import images
from gdiff.dataset.base import Dataset, DatasetSpec
from gdiff.errors import UserError, require
from gdiff.store import cache


@dataclass(frozen=True, kw_only=True)
class Folder(DatasetSpec):
    """Image files (png, jpg, jpeg, bmp, webp, gif) of a folder, or of its subfolders.

    Subfolders with images are classes, numbered in the order of their sorted names. Hidden files
    are left out. The data is grey if every file is, else RGB. Decoded images are kept in the
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
        root = self.path.expanduser()
        try:
            files, labels, class_names = _list(root)
            mark = cache.signature(root, files)
        except OSError as error:
            raise UserError(
                f"dataset.path={self.path}: {error.filename} cannot be read ({error.strerror})"
            ) from error
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
        sizes, grey = zip(*images.headers(files, root.name), strict=True)
        other = next((i for i, size in enumerate(sizes) if size != sizes[0]), None)
        if other is not None and self.resolution is None:
            raise UserError(
                f"dataset.path={self.path} holds images of several sizes "
                f"({files[0].relative_to(root)} is {sizes[0][1]}x{sizes[0][0]}, "
                f"{files[other].relative_to(root)} is {sizes[other][1]}x{sizes[other][0]}): "
                f"give dataset.resolution, such as {min(map(min, sizes))}"
            )
        channels = 1 if all(grey) else 3
        height, width = sizes[0] if self.resolution is None else (self.resolution, self.resolution)

        def write(out: np.ndarray) -> None:
            size = channels * int(np.median([height * width for height, width in sizes]))
            images.decode_into(
                out, files.__getitem__, root.name, size=size, resolution=self.resolution
            )

        return cache.fill(key, (len(files), height, width, channels), np.uint8, write)


def _list(root: Path) -> tuple[list[Path], np.ndarray | None, tuple[str, ...] | None]:
    """Image files below `root`, and their labels and class names where there are subfolders."""
    require(root.is_dir(), f"dataset.path={root} is not a folder: give the folder of images")
    flat = _images_in(root)
    folders = sorted(f for f in root.iterdir() if f.is_dir() and not f.name.startswith("."))
    classes = {folder.name: found for folder in folders if (found := _images_in(folder))}
    require(
        not (flat and classes),
        f"dataset.path={root} holds images ({', '.join(f.name for f in flat[:2])}) beside folders "
        f"of images ({', '.join(list(classes)[:2])}): leave it only one of the two",
    )
    if flat:
        return flat, None, None
    if not classes:
        deeper = [f for f in folders if any(_images_in(g) for g in f.iterdir() if g.is_dir())]
        hint = f"give dataset.path={deeper[0]}" if deeper else f"use {', '.join(images.SUFFIXES)}"
        raise UserError(f"dataset.path={root} and its subfolders hold no images: {hint}")
    counts = [len(found) for found in classes.values()]
    labels = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    return [file for found in classes.values() for file in found], labels, tuple(classes)


def _images_in(folder: Path) -> list[Path]:
    with os.scandir(folder) as entries:
        names = sorted(
            entry.name
            for entry in entries
            if entry.name.lower().endswith(images.SUFFIXES)
            and not entry.name.startswith(".")
            and not entry.is_dir()
        )
    return [folder / name for name in names]
