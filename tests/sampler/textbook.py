"""One step of each method as its paper writes it, in scores; for tests, and independent of tables.

All take (denoise, z, sigma, s, noise, top): z at level sigma goes to level s < sigma; `noise` are
the standard normal vectors of the step and `top` is the first level of the grid. Only + - * / and
roots, so that they work with arrays of any kind of number.
"""

import itertools

import numpy as np

from .reference import shortened


def score(denoise, z, variance):
    return (denoise(z, np.sqrt(variance)) - z) / variance


def accelerated_sde(denoise, z, sigma, s, noise, top):
    h = sigma**2 - s**2
    z = z + np.sqrt(h / 2) * noise[0]
    return z + h * score(denoise, z, sigma**2) + np.sqrt(h / 2) * noise[1]


def srk(denoise, z, sigma, s, noise, top):
    h = sigma**2 - s**2
    end = np.sqrt(h) * noise[0]
    mean = end / 2 + np.sqrt(h / 12) * noise[1]
    return z + h * score(denoise, z + mean, sigma**2) + end


def heun(denoise, z, sigma, s, noise, top):
    slope = (z - denoise(z, sigma)) / sigma
    euler = z + (s - sigma) * slope
    return z + (s - sigma) * (slope + (euler - denoise(euler, s)) / s) / 2


def midpoint(denoise, z, sigma, s, noise, top):
    added = min(sigma**2 - s**2, top**2 - sigma**2)
    z = z + np.sqrt(added) * noise[0]
    high = sigma**2 + added
    length = high - s**2
    middle = z + length / 4 * score(denoise, z, high)
    return z + length / 2 * score(denoise, middle, high - length / 2)


def li_cai(denoise, z, sigma, s, noise, top, *, look, clip):
    rho, end = sigma**2, s**4 / sigma**2
    second = rho**2 / s**2
    if look == "ahead" or float(second) > float(top) ** 2 * (1 + 1e-8):
        second = s**2
    slope = score(denoise, z, rho)
    moved = z - (second - rho) / 2 * slope
    first_order = (rho - end) / 2 * slope
    change = slope - score(denoise, moved, second)
    correction = (rho - end) ** 2 / (4 * (second - rho)) * change
    if clip is not None:
        correction = shortened(correction, clip * np.linalg.norm(first_order, axis=1))
    return z + first_order + correction + np.sqrt(s**2 - end) * noise[0]


STEPS = {
    "accelerated_sde": accelerated_sde,
    "srk": srk,
    "heun": heun,
    "midpoint": midpoint,
    "li_cai": lambda *args, clip=1: li_cai(*args, look="ahead", clip=clip),
    "li_cai_back": lambda *args, clip=1: li_cai(*args, look="back", clip=clip),
}


def run(name, denoise, z, grid, noise):
    """All steps of a grid, of which one onto level 0 returns the mean; noise [K, N, n, dim]."""
    for k, (sigma, s) in enumerate(itertools.pairwise(grid)):
        z = STEPS[name](denoise, z, sigma, s, noise[k], grid[0]) if s > 0 else denoise(z, sigma)
    return z


def run_accelerated_ode(denoise, z, grid):
    """DDIM in x = z √ᾱ, plus the term of the README of Li et al.'s code, as printed there."""
    alpha = 1 / (1 + grid**2)
    x, previous = z * np.sqrt(alpha[0]), None
    for t, s in enumerate(range(1, len(grid))):
        root, to = np.sqrt(alpha[t]), np.sqrt(alpha[s])
        mean = denoise(x / root, grid[t])
        if grid[s] == 0:
            return mean
        noise = (x - root * mean) / np.sqrt(1 - alpha[t])
        x = to / root * x + (np.sqrt(1 - alpha[s]) - np.sqrt(1 - alpha[t]) * to / root) * noise
        if previous is not None:
            area = alpha[t] * np.sqrt(1 - alpha[s]) / to + np.arcsin(to)
            area = area - alpha[t] * np.sqrt(1 - alpha[t]) / root - np.arcsin(root)
            x = x + to / (alpha[t] - alpha[t - 1]) * area * (previous - noise)
        previous = noise
    return x / np.sqrt(alpha[-1])
