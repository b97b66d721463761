"""gdiff: analytical diffusion, whose score is computed from the data set itself.

    import gdiff

    data = gdiff.load("digits")
    denoise = gdiff.scores.Exact().fit(data)
    x = gdiff.sample(denoise, gdiff.samplers.DDIM(), gdiff.schedules.EDM(steps=32), num=16)
    gdiff.picture(x, data)

Names are imported when they are first used, so that `import gdiff` and `gdiff --help` are instant.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gdiff import metrics, priors, processes, samplers, schedules, scores
    from gdiff.config import load_dataset as load
    from gdiff.dataset.array import from_array as Dataset  # noqa: N812
    from gdiff.denoiser import Denoiser, Posterior, from_numpy
    from gdiff.errors import UserError
    from gdiff.notebook import picture, sample

__version__ = "0.1.0"
__all__ = [
    "Dataset",
    "Denoiser",
    "Posterior",
    "UserError",
    "from_numpy",
    "load",
    "metrics",
    "picture",
    "priors",
    "processes",
    "sample",
    "samplers",
    "schedules",
    "scores",
]

# Where the names are that are no modules of this package.
_PLACES = {
    "Dataset": ("gdiff.dataset.array", "from_array"),
    "Denoiser": ("gdiff.denoiser", "Denoiser"),
    "Posterior": ("gdiff.denoiser", "Posterior"),
    "UserError": ("gdiff.errors", "UserError"),
    "from_numpy": ("gdiff.denoiser", "from_numpy"),
    "load": ("gdiff.config", "load_dataset"),
    "picture": ("gdiff.notebook", "picture"),
    "sample": ("gdiff.notebook", "sample"),
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'gdiff' has no attribute {name!r}")
    if name not in _PLACES:
        return import_module(f"gdiff.{name}")
    module, inner = _PLACES[name]
    globals()[name] = found = getattr(import_module(module), inner)
    return found


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
