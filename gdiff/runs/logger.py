"""Finished runs, handed to TensorBoard or MLflow for those who keep theirs there."""

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from gdiff.errors import require
from gdiff.runs.past import PastRun

NONE = "none"
# Packages that are needed, and the extras that install them, by logger.
_NEEDED = {"tensorboard": "tensorboardX", "mlflow": "mlflow"}
LOGGERS = (NONE, *_NEEDED)
# In the run folder, so that `tensorboard --logdir outputs` finds the events of all runs.
_EVENTS = "tensorboard"
_LONGEST = 500  # letters of a setting, in MLflow
_PICTURES = ("grid.png", "neighbours.png", "score_error.png", "budget.png")


def require_installed(logger: str) -> None:
    """Raise `UserError` unless what a logger, one of `LOGGERS`, needs is there."""
    package = _NEEDED.get(logger)
    require(
        package is None or importlib.util.find_spec(package) is not None,
        f"logger={logger} needs {package}: pip install 'gdiff[{logger}]', in a checkout "
        f"pip install -e '.[{logger}]'",
    )


def log(run: PastRun, logger: str) -> None:
    """Hand over a run's settings, metrics and pictures, once it is complete.

    TensorBoard's events go to `tensorboard/` in the run folder; MLflow's to where its own
    variables say (MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME), else to its default.

    Args:
        run: the run.
        logger: one of `LOGGERS`.

    Raises:
        UserError: the logger's package is not installed.
    """
    require_installed(logger)
    if logger != NONE:
        _WRITERS[logger](run)


def _to_tensorboard(run: PastRun) -> None:
    from PIL import Image
    from tensorboardX import SummaryWriter

    with SummaryWriter(str(run.folder / _EVENTS)) as writer:
        for name, value in run.metrics.items():
            writer.add_scalar(name, value, 0)
        rows = (f"| {key} | {value} |" for key, value in run.settings.items())
        writer.add_text("settings", "\n".join(("| key | value |", "|---|---|", *rows)), 0)
        for path in _pictures(run):
            with Image.open(path) as picture:
                pixels = np.asarray(picture.convert("RGB"))
            writer.add_image(path.stem, pixels, 0, dataformats="HWC")


def _to_mlflow(run: PastRun) -> None:
    import mlflow

    with mlflow.start_run(run_name=run.name):
        mlflow.log_params({key: str(value)[:_LONGEST] for key, value in run.settings.items()})
        mlflow.log_metrics(run.metrics)
        mlflow.set_tag("folder", str(run.folder.absolute()))
        for path in _pictures(run):
            mlflow.log_artifact(str(path))


def _pictures(run: PastRun) -> Iterator[Path]:
    """Those that the run has left."""
    return (run.folder / name for name in _PICTURES if run.picture(name) is not None)


_WRITERS: dict[str, Callable[[PastRun], None]] = {
    "tensorboard": _to_tensorboard,
    "mlflow": _to_mlflow,
}
