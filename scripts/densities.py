"""What a sampler does to densities on the line: exact, without random numbers, in float64.

The laws are mixtures of Gaussians, whose denoiser is known. A table of coefficients carries the
density at its first noise level to its last one: maps of the line are followed by the mass below
every point, noise by convolution through the Fourier transform. With the exact law there this gives
total variations and divergences far below what samples could show.
"""

import numpy as np
from scipy.interpolate import CubicSpline
from scipy.special import ndtr


class Mixture:
    """A mixture of Gaussians on the line, at any noise level."""

    def __init__(self, weights, means, deviations):
        self.weights, self.means, self.deviations = map(np.array, (weights, means, deviations))

    def density(self, z, sigma):
        """[n] of z = x_0 + sigma ε."""
        return self._parts(z, sigma).sum(1)

    def denoise(self, z, sigma):
        """[n] posterior mean of x_0."""
        parts = self._parts(z, sigma) + 1e-300
        gain = self.deviations**2 / (self.deviations**2 + sigma**2)
        return (parts * (gain * z[:, None] + (1 - gain) * self.means)).sum(1) / parts.sum(1)

    def score(self, z, sigma):
        return (self.denoise(z, sigma) - z) / sigma**2

    def below(self, z, sigma):
        """[n] distribution function."""
        deviations = np.hypot(self.deviations, sigma)
        return ndtr((z[:, None] - self.means) / deviations) @ self.weights

    def quantile(self, mass, sigma):
        """[n] where the distribution function has the values `mass`, by bisection."""
        reach = 12 * (np.abs(self.means).max() + self.deviations.max() + sigma)
        low, high = np.full_like(mass, -reach), np.full_like(mass, reach)
        for _ in range(70):
            middle = (low + high) / 2
            is_below = self.below(middle, sigma) < mass
            low, high = np.where(is_below, middle, low), np.where(is_below, high, middle)
        return (low + high) / 2

    def information(self, sigma):
        """Mean square of the score, by quadrature."""
        reach = np.abs(self.means).max() + 9 * np.hypot(self.deviations.max(), sigma)
        z = np.linspace(-reach, reach, 1001)
        return (z[1] - z[0]) * (self.density(z, sigma) @ self.score(z, sigma) ** 2)

    def _parts(self, z, sigma):
        """[n, components] weighted densities."""
        variance = self.deviations**2 + sigma**2
        exponent = -((z[:, None] - self.means) ** 2) / (2 * variance)
        return self.weights * np.exp(exponent) / np.sqrt(2 * np.pi * variance)


class Line:
    """An equidistant grid on the line, wide enough that densities vanish at its ends.

    Points may be in a unit of their own at each noise level, as y = z / scale: a grid for
    y = z / √(1 + sigma²) need not be as wide as the first level, and fine for the last one.
    """

    def __init__(self, reach=10.0, points=2**12):
        self.y = np.linspace(-reach, reach, points, endpoint=False)
        self.spacing = self.y[1] - self.y[0]
        self._frequency = 2 * np.pi * np.fft.rfftfreq(points, self.spacing)

    def law(self, law, sigma, scale=1.0):
        """Density of z / scale at a noise level."""
        return scale * law.density(scale * self.y, sigma)

    def push(self, density, image, lag=0.0):
        """Density of T(y + lag), for T increasing with values `image` on the grid; kinks may be."""
        inside = np.clip(self.y - lag, self.y[0], self.y[-1])
        mass = CubicSpline(self.y, density).antiderivative()(inside)
        edges = np.append(self.y, self.y[-1] + self.spacing) - self.spacing / 2
        below = CubicSpline(image, mass)(np.clip(edges, image[0], image[-1]))
        averages = np.diff(below) / self.spacing
        # The average over a cell is a convolution, too.
        cell = np.sinc(self._frequency * self.spacing / (2 * np.pi))
        return np.fft.irfft(np.fft.rfft(averages) / cell, len(self.y))

    def blur(self, density, deviation):
        """Density after adding independent N(0, deviation²)."""
        if deviation == 0:
            return density
        damping = np.exp(-0.5 * (deviation * self._frequency) ** 2)
        return np.fft.irfft(np.fft.rfft(density) * damping, len(self.y))

    def total_variation(self, p, q):
        """Half of the integral of |p - q|."""
        return 0.5 * self.spacing * np.abs(p - q).sum()

    def divergence(self, p, q):
        """KL(p ‖ q) = ∫ p log(p/q) - p + q, whose integrand is never negative."""
        is_inside = (p > 1e-14) & (q > 1e-14)
        p, q = p[is_inside], q[is_inside]
        return self.spacing * np.sum(p * np.log(p / q) - p + q)


def follow(line, law, steps, scale=None):
    """Density at the end of a table, from the exact law at its first level.

    Args:
        line: the grid.
        law: of the data, with `density` and `denoise`.
        steps: the table. With noise, no row may look back beyond its step.
        scale: [K + 1] units of z at the levels of the grid; 1 by default.
    """
    return (propagate if steps.is_stochastic else transport)(line, law, steps, scale)


def transport(line, law, steps, scale=None):
    """`follow` for a table without noise, with any memory: by one map from start to end."""
    first, last = (1.0, 1.0) if scale is None else (scale[0], scale[-1])
    end = moved(law, steps, 0, len(steps.sigma), first * line.y)
    return line.push(line.law(law, steps.sigma[0], first), end / last)


def propagate(line, law, steps, scale=None):
    """`follow` step by step."""
    scale = np.ones(steps.count + 1) if scale is None else scale
    density = line.law(law, steps.sigma[0], scale[0])
    before = np.zeros_like(steps.c) if steps.before is None else steps.before
    for k, (begin, end) in enumerate(zip(steps.ends[:-1], steps.ends[1:], strict=True)):
        # z' = T(u) + q ξ, where u = z + p ξ is the first point at which the denoiser is evaluated.
        p, q, image = before[begin], -before[begin], scale[k] * line.y
        for row in range(begin, end):
            assert row == begin or not np.any(q), "a later evaluation sees noise of its own"
            q = steps.a[row, 0] * q + steps.c[row]
            q[np.abs(q) < 1e-14] = 0
        image = moved(law, steps, begin, end, image)
        density = _noisy_push(line, density, image / scale[k + 1], p / scale[k], q / scale[k + 1])
    return density


def _noisy_push(line, density, image, p, q):
    """Density of T(y + p ξ) + q ξ with one ξ ~ N(0, I) for both."""
    if p @ q == 0:
        return line.blur(line.push(line.blur(density, np.linalg.norm(p)), image), np.linalg.norm(q))
    # Given q ξ = shift, p ξ has mean slope·shift and the variance that is left.
    slope = (p @ q) / (q @ q)
    density = line.blur(density, np.linalg.norm(p - slope * q))
    node, width = np.arange(-8, 9), np.linalg.norm(q)
    weights = np.exp(-(node**2) / 2)
    parts = (line.push(density, image + shift, lag=slope * shift) for shift in width * node)
    return sum(w * part for w, part in zip(weights / weights.sum(), parts, strict=True))


def moved(law, steps, begin, end, z):
    """Points [n] after some rows of a table, without its noise or memory of earlier rows."""
    states, outputs = [], []

    def dot(a, b):
        """Of a row."""
        return sum(
            weight * value
            for weights, values in ((a[row], states), (b[row], outputs))
            for weight, value in zip(weights, values, strict=False)
        )

    for row in range(begin, end):
        states = [z, *states][: steps.a.shape[1]]
        outputs = [law.denoise(z, steps.sigma[row]), *outputs][: steps.b.shape[1]]
        z = dot(steps.a, steps.b)
        if steps.clip is not None:
            part, bound = dot(*steps.clip[:2]), np.abs(dot(*steps.clip[2:]))
            z = z - part + np.clip(part, -bound, bound)
    return z
