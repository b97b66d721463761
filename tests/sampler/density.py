"""Exact propagation of one-dimensional densities through a table of coefficients, for tests."""

import numpy as np
from scipy.interpolate import CubicSpline


class Mixture:
    """A Gaussian mixture on the line: its noised density and its exact denoiser."""

    def __init__(self, weights, means, deviations):
        self.weights, self.means, self.deviations = map(np.asarray, (weights, means, deviations))

    def _parts(self, z, sigma):
        """[n, components] weighted densities of z = x_0 + sigma ε."""
        variance = self.deviations**2 + sigma**2
        exponent = -((z[:, None] - self.means) ** 2) / (2 * variance)
        return self.weights * np.exp(exponent) / np.sqrt(2 * np.pi * variance)

    def density(self, z, sigma):
        """[n] density of the law at noise level sigma."""
        return self._parts(z, sigma).sum(1)

    def denoise(self, z, sigma):
        """[n] mean of x_0 given z."""
        variance = self.deviations**2 + sigma**2
        parts = self._parts(z, sigma) + 1e-300
        means = (self.deviations**2 * z[:, None] + sigma**2 * self.means) / variance
        return (parts * means).sum(1) / parts.sum(1)


class Line:
    """An equidistant grid on the line, wide enough that densities vanish at its ends.

    Maps, which may have kinks, are followed by the mass below every point, noise by convolution
    through the Fourier transform. Both are accurate far beyond what tests of samplers need.
    """

    def __init__(self, half_width=18.0, points=2**13):
        self.z = np.linspace(-half_width, half_width, points, endpoint=False)
        self.spacing = self.z[1] - self.z[0]
        self._frequency = 2 * np.pi * np.fft.rfftfreq(points, self.spacing)

    def push(self, density, image, lag=0.0):
        """Density of T(z + lag), for T increasing with values `image` on the grid."""
        inside = np.clip(self.z - lag, self.z[0], self.z[-1])
        mass = CubicSpline(self.z, density).antiderivative()(inside)
        edges = np.append(self.z, self.z[-1] + self.spacing) - self.spacing / 2
        below = CubicSpline(image, mass)(np.clip(edges, image[0], image[-1]))
        averages = np.diff(below) / self.spacing
        # the average over a cell is a convolution, too
        cell = np.sinc(self._frequency * self.spacing / (2 * np.pi))
        return np.fft.irfft(np.fft.rfft(averages) / cell, len(self.z))

    def blur(self, density, deviation):
        """Density after adding independent N(0, deviation²)."""
        damping = np.exp(-0.5 * (deviation * self._frequency) ** 2)
        return np.fft.irfft(np.fft.rfft(density) * damping, len(self.z))

    def total_variation(self, p, q):
        """Half of the integral of |p - q|."""
        return 0.5 * self.spacing * np.abs(p - q).sum()


def propagate(line, law, steps):
    """Density at the end of a table without memory, started from the exact law at its sigma[0].

    Args:
        line: the grid.
        law: the data law, with `density` and `denoise` as those of `Mixture`.
        steps: the table; no row looks back beyond its step.
    """
    density = law.density(line.z, steps.sigma[0])
    before = np.zeros_like(steps.c) if steps.before is None else steps.before
    for begin, end in zip(steps.ends[:-1], steps.ends[1:], strict=True):
        # z' = T(u) + q ξ, where u = z + p ξ is the first point at which the denoiser is evaluated
        value, outputs, p, q = line.z, [], before[begin], -before[begin]
        for row in range(begin, end):
            assert row == begin or not np.any(q)  # later points are functions of u
            outputs = [law.denoise(value, steps.sigma[row]), *outputs]
            value = _moved(steps, row, [value], outputs)
            q = steps.a[row, 0] * q + steps.c[row]
            q[np.abs(q) < 1e-14] = 0
        density = _noisy_push(line, density, value, p, q)
    return density


def _noisy_push(line, density, image, p, q):
    """Density of T(z + p ξ) + q ξ with one ξ ~ N(0, I) for both."""
    if p @ q == 0:
        return line.blur(line.push(line.blur(density, np.linalg.norm(p)), image), np.linalg.norm(q))
    # Given q ξ = y, p ξ has mean slope y and the variance that is left.
    slope = (p @ q) / (q @ q)
    density = line.blur(density, np.linalg.norm(p - slope * q))
    node, width = np.arange(-8, 9), np.linalg.norm(q)
    weights = np.exp(-(node**2) / 2)
    parts = (line.push(density, image + y, lag=slope * y) for y in width * node)
    return sum(w * part for w, part in zip(weights / weights.sum(), parts, strict=True))


def _moved(steps, row, states, outputs):
    """z' of a row without its noise, with the bounded part cut."""

    def dot(a, b):
        ahead = sum(w * x for w, x in zip(a[row], states, strict=False))
        return ahead + sum(w * x for w, x in zip(b[row], outputs, strict=False))

    moved = dot(steps.a, steps.b)
    if steps.clip is None:
        return moved
    part, bound = dot(steps.clip.a, steps.clip.b), dot(steps.clip.bound_a, steps.clip.bound_b)
    return moved - part + np.clip(part, -abs(bound), abs(bound))


def transport(line, law, steps):
    """Density at the end of a table without noise, with any memory, by one map from the start.

    Args:
        line, law: as in `propagate`.
        steps: the table; c = 0.
    """
    value, states, outputs = line.z, [], []
    for row, sigma in enumerate(steps.sigma):
        states = [value, *states]
        outputs = [law.denoise(value, sigma), *outputs]
        value = _moved(steps, row, states, outputs)
    return line.push(law.density(line.z, steps.sigma[0]), value)
