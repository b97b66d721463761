"""Drivers, which run a method's table: one row after the other, or blocks of rows in parallel."""

from collections.abc import Callable

from jax.sharding import Mesh

from gdiff.sampler.blocks import Blocks, Driving
from gdiff.sampler.drivers.parallel import ParallelEngine
from gdiff.sampler.drivers.sequential import Engine


def driver(
    denoiser: Callable[..., object],
    blocks: Blocks,
    driving: Driving,
    mesh: Mesh | None = None,
    guess: Callable[..., object] | None = None,
) -> Engine | ParallelEngine:
    """What runs a sampler's blocks with a denoiser: sequential for a block size of 1.

    Args:
        denoiser: any function of (z [b, *event], sigma [b]): see `gdiff.denoiser.as_denoiser`.
        blocks: the method's table on a grid, and how it is cut.
        driving: how steps are run; any sampler.
        mesh: the devices; None for one.
        guess: denoiser that sweeps start from; without one they start from the state before.
    """
    if driving.block_size == 1:
        return Engine(denoiser, blocks.steps, mesh)
    return ParallelEngine(denoiser, blocks, driving, mesh, guess)
