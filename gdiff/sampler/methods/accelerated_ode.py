"""The accelerated deterministic sampler of Li et al."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gdiff.sampler.base import SamplerSpec
from gdiff.sampler.steps import Steps


@dataclass(frozen=True, kw_only=True)
class AcceleratedODE(SamplerSpec):
    """DDIM with the noise extrapolated from the previous step (Li et al., arXiv 2403.03852).

    This is the form of the authors' experiments (README of their code), with one evaluation a
    step; their theorem is on a form with two. The noise ε = (z - D) / sigma is taken to be linear
    in ᾱ = 1 / (1 + sigma²) and integrated exactly, since dz/dsigma = ε:
    z' = z + (s - sigma) ε + w (ε - ε_previous), with
    w = [arctan s - arctan sigma - ᾱ (s - sigma)] / (ᾱ - ᾱ_previous); the first step has w = 0.
    """

    is_multistep: ClassVar[bool] = True

    def table(self, sigma: np.ndarray) -> Steps:
        """Coefficients on a grid [K + 1]; the previous state and the previous output."""
        sigma, s, before = sigma[:-1], sigma[1:], sigma[:-2]
        w, past = np.zeros_like(s), np.ones_like(s)
        past[1:] = before
        w[1:] = _overshoot(sigma[1:], s[1:]) / _rise(before, sigma[1:])
        return Steps(
            sigma=sigma,
            a=np.stack([(s + w) / sigma, -w / past], axis=1),
            b=np.stack([(sigma - s - w) / sigma, w / past], axis=1),
        )


def _overshoot(sigma: np.ndarray, s: np.ndarray) -> np.ndarray:
    """Integral from sigma to s of ᾱ less its value at sigma; s < sigma, so it is negative."""
    angle = (sigma - s) / (1 + sigma * s)  # tangent of arctan sigma - arctan s
    square = sigma * (sigma - s) ** 2 / ((1 + sigma * s) * (1 + sigma**2))
    square_of, series = angle**2, -1 / 9
    for weight in (1 / 7, -1 / 5, 1 / 3):
        series = weight + series * square_of
    series = angle**3 * series
    curved = np.where(angle < 0.02, series, angle - np.arctan(angle))  # a difference cancels
    return curved - square


def _rise(sigma: np.ndarray, s: np.ndarray) -> np.ndarray:
    """By how much ᾱ is larger at s than at sigma."""
    return (sigma - s) * (sigma + s) / ((1 + sigma**2) * (1 + s**2))
