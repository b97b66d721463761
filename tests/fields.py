"""Smooth random fields: pictures that leave the golden scan something to save."""

import numpy as np

from gdiff.dataset import Dataset


def pictures(n=600, side=12, channels=3, seed=0):
    """Pictures [n, side, side, channels] uint8 whose spectrum falls as that of photographs does."""
    rng = np.random.default_rng(seed)
    white = rng.standard_normal((n, side, side, channels))
    white = 0.5 * white + white.mean(axis=3, keepdims=True)  # colours go together
    frequency = side * np.fft.fftfreq(side)
    amplitude = 1 / (1 + frequency[:, None] ** 2 + frequency**2)
    x = np.fft.ifft2(np.fft.fft2(white, axes=(1, 2)) * amplitude[:, :, None], axes=(1, 2)).real
    return (127.5 + 45 * x / x.std()).clip(0, 255).astype(np.uint8)


def dataset(n=600, **options):
    """The same as a data set."""
    return Dataset("fields", pictures(n, **options), shift=127.5, scale=127.5)


def saved(path, n=600, **options):
    """The same in a file, and the words that name it."""
    np.save(path, pictures(n, **options))
    return ["dataset=array", f"dataset.path={path}"]
