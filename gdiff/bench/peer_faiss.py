"""FAISS: the softmax over the nearest rows, found exactly or by inverted lists."""

import math
from typing import Any

import numpy as np

from gdiff.bench.peer import Ask, Peer, Problem, processors

NEAREST = 1000  # rows that are weighed
PROBED = 16  # lists that are searched, of √n


def _prepare_exact(problem: Problem) -> Ask:
    import faiss

    return _nearest(faiss.IndexFlatL2(problem.dataset.dim), problem)


def _prepare_inverted(problem: Problem) -> Ask:
    import faiss

    faiss.omp_set_num_threads(processors())
    dim, lists = problem.dataset.dim, math.isqrt(len(problem.dataset))
    index = faiss.IndexIVFFlat(faiss.IndexFlatL2(dim), dim, lists)
    index.cp.min_points_per_centroid = 1  # else it warns about small data
    index.train(problem.rows)
    index.nprobe = PROBED
    return _nearest(index, problem)


def _nearest(index: Any, problem: Problem) -> Ask:
    import faiss

    faiss.omp_set_num_threads(processors())
    index.add(problem.rows)
    rows = problem.rows
    count = min(NEAREST, len(rows))

    def ask(z: np.ndarray, sigma: float) -> np.ndarray:
        distances, found = index.search(z, count)
        # Where the lists hold fewer rows, the rest is numbered -1.
        logits = np.where(found < 0, np.inf, distances) * (-0.5 / sigma**2)
        mean = np.empty_like(z)
        for query, (row, logit) in enumerate(zip(found, logits, strict=True)):
            weights = np.exp(logit - logit.max())
            heavy = weights > 1e-8 * weights.max()
            mean[query] = weights[heavy] @ rows[row[heavy]] / weights[heavy].sum()
        return mean

    return problem.centred(ask)


EXACT = Peer(f"FAISS exact k={NEAREST}", _prepare_exact, "faiss-cpu")
INVERTED = Peer(f"FAISS IVF k={NEAREST}", _prepare_inverted, "faiss-cpu")
