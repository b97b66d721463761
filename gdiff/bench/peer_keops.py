"""KeOps: a lazy Gaussian reduction, which never has the matrix of distances in memory."""

import numpy as np

from gdiff.bench.peer import Ask, Peer, Problem


def _prepare(problem: Problem) -> Ask:
    import pykeops
    from pykeops.numpy import LazyTensor

    pykeops.set_verbose(False)
    data = LazyTensor(problem.rows[None, :, :])

    def ask(z: np.ndarray, sigma: float) -> np.ndarray:
        # A level as an array is a parameter of the compiled program; 1.0 would be part of it.
        factor = LazyTensor(np.array([-0.5 / sigma**2], np.float32))
        logits = ((LazyTensor(z[:, None, :]) - data) ** 2).sum(-1) * factor
        return logits.sumsoftmaxweight(data, axis=1, backend="CPU")

    return problem.centred(ask)


REDUCTION = Peer("KeOps", _prepare, "pykeops")
