"""Samples of several runs from the same seed above the data points nearest to them.

    gdiff sample -m dataset=cifar10 score=full,pca_local_golden … hydra.sweep.dir=sweep
    python scripts/gallery.py sweep/0 sweep/1 -o gallery.png

The first screen of the README shows such a picture. Runs are of images of one shape.
"""

import argparse
from pathlib import Path

from gdiff import config, runs
from gdiff.figures.axes import INK, QUIET, empty_figure
from gdiff.figures.encode import encoded
from gdiff.figures.images import to_rgb
from gdiff.metrics.neighbours import nearest

_SIDE, _APART, _LEFT, _DPI = 72, 14, 192, 100  # pixels


def pairs(folder, count):
    """Name of a run's score, its first samples and the data points nearest to them."""
    run = runs.read(folder)
    samples = run.samples(count)
    if samples is None or samples.ndim != 4:
        raise SystemExit(f"error: {folder} has no images: give a finished run of some")
    dataset = config.load(folder, (), config.Sources.of(())).dataset.load()
    rows = dataset.rows(nearest(samples, dataset)).reshape(samples.shape)
    return run.settings["score"], samples, rows


def draw(rows, names):
    """Rows of images [n, h, w, c], each named, in pairs, as PNG bytes."""
    whole = max(1, round(_SIDE / rows[0].shape[2]))  # no pixel is larger than its neighbour
    rows = [to_rgb(images).repeat(whole, 1).repeat(whole, 2) for images in rows]
    count, tall, wide = rows[0].shape[:3]
    pairs = -(-len(rows) // 2)
    height = len(rows) * (tall + 2) + (pairs - 1) * _APART
    figure = empty_figure((_LEFT + count * (wide + 2)) / _DPI, height / _DPI, None, _DPI)
    below = height
    for k, (images, name) in enumerate(zip(rows, names, strict=True)):
        is_data = k % 2 == 1
        below -= tall + 2 + (_APART if k and not is_data else 0)
        look = {"color": QUIET if is_data else INK, "fontsize": 9 if is_data else 10}
        figure.text(0.01, (below + tall / 2) / height, name, va="center", **look)
        for column, image in enumerate(images):
            figure.figimage(image[::-1], _LEFT + column * (wide + 2), below, origin="lower")
    return encoded(figure, "png")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("-o", dest="output", type=Path, default=Path("gallery.png"))
    parser.add_argument("--count", type=int, default=8, help="samples of each run")
    options = parser.parse_args()
    rows, names = [], []
    for folder in options.folders:
        score, *images = pairs(folder, options.count)
        rows += images
        names += [f"score={score}", "nearest data points"]
    options.output.write_bytes(draw(rows, names))


if __name__ == "__main__":
    main()
