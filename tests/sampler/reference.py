"""Slow and plain float64 drivers of a table of coefficients, for tests."""

import numpy as np


def run(steps, denoiser, z, noise=None):
    """Samples at the end of a table.

    Args:
        steps: the table, K steps.
        denoiser: (z [n, dim], sigma) → [n, dim].
        z: [n, dim] samples at the first noise level.
        noise: [K, N, n, dim] standard normal numbers; None for a method without noise.
    """
    states, outputs = [], []
    for row, sigma in enumerate(steps.sigma):
        draws = [] if noise is None else noise[steps.step[row]]
        before = [] if steps.before is None else steps.before[row]
        states = [z, *states][: steps.a.shape[1]]
        outputs = [denoiser(z + dot(before, draws), sigma), *outputs][: steps.b.shape[1]]
        z = dot(steps.a[row], states) + dot(steps.b[row], outputs) + dot(steps.c[row], draws)
        if steps.clip is not None:
            a, b, bound_a, bound_b = (weights[row] for weights in steps.clip)
            part = dot(a, states) + dot(b, outputs)
            bound = dot(bound_a, states) + dot(bound_b, outputs)
            z = z - part + shortened(part, np.linalg.norm(bound, axis=1))
    return z


def dot(weights, values):
    """Σ_i weights_i values_i, over as many as there are of both."""
    return sum(w * value for w, value in zip(weights, values, strict=False))


def shortened(vectors, limits):
    """Vectors [n, dim] cut to lengths of at most `limits` [n]."""
    lengths = np.linalg.norm(vectors, axis=1)
    return vectors * np.minimum(1, limits / np.where(lengths > 0, lengths, 1))[:, None]


def gaussian_denoiser(mean, variance):
    """Posterior mean of x_0 ~ N(mean, variance), in one dimension or coordinate by coordinate."""
    return lambda z, sigma: (variance * z + sigma**2 * mean) / (variance + sigma**2)


def gaussian_law(steps, mean, variance):
    """Mean and variance at the end of a table, started from the exact law, for Gaussian data.

    The denoiser is affine, so the states, the outputs and the noise of a row are jointly
    Gaussian. The noise must be used in one row of a step only, and nothing be clipped.
    """
    assert steps.clip is None
    states, outputs, draws = steps.a.shape[1], steps.b.shape[1], steps.c.shape[1]
    size = states + outputs + draws  # z_0 …, D_0 …, ξ_0 …
    before = np.zeros_like(steps.c) if steps.before is None else steps.before
    law_mean, law_cov = np.zeros(size), np.zeros((size, size))
    law_mean[0], law_cov[0, 0] = mean, variance + steps.sigma[0] ** 2
    for sigma, a, b, c, first in zip(steps.sigma, steps.a, steps.b, steps.c, before, strict=True):
        noise = slice(states + outputs, None)
        law_mean[noise], law_cov[noise], law_cov[:, noise] = 0, 0, 0
        law_cov[noise, noise] = np.eye(draws)
        gain = variance / (variance + sigma**2)
        evaluate = np.eye(size)  # the place of D_0 is free until now
        evaluate[states] = np.concatenate([[gain], np.zeros(states - 1 + outputs), gain * first])
        law_mean, law_cov = evaluate @ law_mean, evaluate @ law_cov @ evaluate.T
        law_mean[states] += (1 - gain) * mean
        move = np.zeros((size, size))
        move[0] = np.concatenate([a, b, c])
        move[1:states, : states - 1] = np.eye(states - 1)
        move[states + 1 : states + outputs, states : states + outputs - 1] = np.eye(outputs - 1)
        law_mean, law_cov = move @ law_mean, move @ law_cov @ move.T
    return law_mean[0], law_cov[0, 0]
