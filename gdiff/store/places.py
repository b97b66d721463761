"""Where gdiff keeps what it brings along."""

from pathlib import Path

# What a training writes first into its folder.
TRAINING = "train.json"


def config_dir() -> Path:
    """Folder of the configurations: inside the package if installed, beside it in a checkout."""
    package = Path(__file__).parents[1]
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"
