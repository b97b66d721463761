"""Memory of a contender, alone in a process of its own."""

import gc
import logging
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from gdiff.bench.contenders import Peer, Problem
from gdiff.dataset import DatasetSpec
from gdiff.memory import forget_peak, in_bytes, is_known
from gdiff.runtime import Runtime

log = logging.getLogger(__name__)

# Rows of a first problem, which loads the libraries and starts their threads.
_FEW = 64


class Memory(NamedTuple):
    """Bytes beyond the libraries and the data set as stored.

    Attributes:
        held: between calls.
        peak: at most, during calls.
    """

    held: int
    peak: int


def measure(
    peer: Peer, spec: DatasetSpec, runtime: Runtime, z: np.ndarray, sigma: np.ndarray
) -> Memory | None:
    """What a contender needs for queries z [k, b, d] at levels sigma [k].

    Returns:
        None where the system does not tell (it has to be Linux), or the process died, or a library
        of others failed there.
    """
    if not is_known():
        return None
    spawn = multiprocessing.get_context("spawn")  # a copy of this process would hold too much
    with ProcessPoolExecutor(1, spawn) as pool:
        try:
            return pool.submit(_alone, peer, spec, runtime, z, sigma).result()
        except Exception as error:
            if peer.package is None and not isinstance(error, BrokenProcessPool):
                raise
            log.info("%s", peer.name, exc_info=error)
    return None


def _alone(
    peer: Peer, spec: DatasetSpec, runtime: Runtime, z: np.ndarray, sigma: np.ndarray
) -> Memory:
    os.dup2(2, 1)  # stdout belongs to the result
    dataset = spec.load()
    np.max(dataset.x)  # pages of a memory map count once they are read
    few = replace(dataset, x=dataset.x[:_FEW], labels=None)
    peer.prepare(Problem(few, runtime))(z[0], float(sigma[0]))
    del few
    before = in_bytes("VmRSS")
    ask = peer.prepare(Problem(dataset, runtime))
    ask(z[0], float(sigma[0]))
    gc.collect()
    held = in_bytes("VmRSS")
    forget_peak()
    for queries, level in zip(z, sigma, strict=True):
        ask(queries, float(level))
    return Memory(held - before, in_bytes("VmHWM") - before)
