"""PyTorch: the mean as one would write it, as attention, and the two matrix products."""

from types import ModuleType

import numpy as np

from gdiff.bench.peer import Ask, Peer, Problem, processors


def _torch() -> ModuleType:
    import torch

    torch.set_num_threads(processors())
    return torch


def _prepare_cdist(problem: Problem) -> Ask:
    torch = _torch()
    data = torch.from_numpy(problem.rows)

    def ask(z: np.ndarray, sigma: float) -> np.ndarray:
        with torch.inference_mode():
            distance = torch.cdist(torch.from_numpy(z), data)
            weights = torch.softmax(distance.square_().mul_(-0.5 / sigma**2), dim=1)
            return (weights @ data).numpy()

    return problem.centred(ask)


def _prepare_attention(problem: Problem) -> Ask:
    """Logits z·y/σ² - ‖y‖²/2σ²: keys and values are the data, and the norms a mask."""
    torch = _torch()
    data = torch.from_numpy(problem.rows)[None, None]
    half_norms = 0.5 * data.square().sum(-1)

    def ask(z: np.ndarray, sigma: float) -> np.ndarray:
        with torch.inference_mode():
            mask = (half_norms / -(sigma**2)).expand(1, len(z), -1)[None]
            mean = torch.nn.functional.scaled_dot_product_attention(
                torch.from_numpy(z)[None, None], data, data, attn_mask=mask, scale=sigma**-2
            )
            return mean[0, 0].numpy()

    return problem.centred(ask)


def _prepare_products(problem: Problem) -> Ask:
    torch = _torch()
    data = torch.from_numpy(problem.rows)

    def ask(z: np.ndarray, sigma: float) -> np.ndarray:
        with torch.inference_mode():
            return ((torch.from_numpy(z) @ data.T) @ data).numpy()

    return ask


CDIST = Peer("PyTorch cdist", _prepare_cdist, "torch")
ATTENTION = Peer("PyTorch attention", _prepare_attention, "torch")
PRODUCTS = Peer("2 products, PyTorch", _prepare_products, "torch", is_mean=False)
