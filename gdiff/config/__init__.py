"""From Hydra's overrides to a typed experiment; the only package that knows Hydra and OmegaConf."""

from gdiff.config.compose import FREE, PLACES, Composer, composer
from gdiff.config.effect import require_consistent, without_effect
from gdiff.config.jobs import Place
from gdiff.config.sources import Sources
from gdiff.config.specs import build, config_dir, differences, load, load_dataset, to_yaml

__all__ = [
    "FREE",
    "PLACES",
    "Composer",
    "Place",
    "Sources",
    "build",
    "composer",
    "config_dir",
    "differences",
    "load",
    "load_dataset",
    "require_consistent",
    "to_yaml",
    "without_effect",
]
