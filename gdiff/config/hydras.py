"""What Hydra's own part of a configuration may ask for."""

import logging
import logging.handlers
import os
import re
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gdiff.config.specs import TARGET, flatten
from gdiff.errors import UserError, require

# Where the classes lie that Hydra itself may be made of; Optuna's samplers belong to its sweeper.
_OWN = re.compile(
    r"hydra_plugins\..+|hydra\._internal\.core_plugins\..+|hydra\.experimental\.callbacks\.\w+"
    r"|optuna\.(samplers|pruners|storages)\..+"
)
_LOGGING = re.compile(r"hydra\.(?:job|hydra)_logging\.(\w+)\..*?([^.]+)$")
# What logging may be made of: names of modules and of the class that is needed.
_CLASSES = {"handlers": logging.Handler, "formatters": logging.Formatter}
_OTHERS = ("colorlog.ColoredFormatter",)
_STREAMS = ("ext://sys.stdout", "ext://sys.stderr")
# A folder in a run folder, whose files have a dot in their names.
_FOLDER = re.compile(r"\.?[\w-]+")


def require_known(hydra: DictConfig) -> None:
    """Raise `UserError` where Hydra's part names what is neither Hydra's nor logging's own.

    Args:
        hydra: the configuration under `hydra`.
    """
    for key, node in flatten(hydra, "hydra.").items():
        value = "" if node is None else str(node)
        if key.endswith(f".{TARGET}"):
            require(
                _OWN.fullmatch(value) is not None,
                f"{key}={value} is not one of Hydra's own parts or plugins",
            )
        if found := _LOGGING.match(key):
            _require_logging(key, value, *found.groups())
    for part in ("job_logging", "hydra_logging"):
        given = OmegaConf.to_container(hydra[part], resolve=False)
        require("root" in given, f"hydra.{part} has no root: leave it in")
        for section in ("handlers", "formatters", "filters", "loggers"):
            is_whole = isinstance(given.get(section, {}), dict)
            require(is_whole, f"hydra.{part}.{section} must be settings by name: leave it out")
    for part, key in (("sweeper", "max_batch_size"), ("launcher", "n_jobs")):
        require(hydra[part] is not None, f"hydra.{part}=null starts no runs: leave it out")
        value = OmegaConf.select(hydra[part], key)
        is_some = value != 0 and (key == "n_jobs" or value is None or value > 0)
        require(is_some, f"hydra.{part}.{key}={value} must be at least 1")
    _require_own_names(hydra)


def _require_logging(key: str, value: str, section: str, name: str) -> None:
    """Raise `UserError` if a key of the logging starts or imports what is not logging's."""
    remedy = "is not one of logging's own: leave it out"
    if name in ("class", "()"):
        known = value in _OTHERS or _is_own_class(value, section, name)
        require(known, f"{key}={value} {remedy}")
    elif "://" in value:
        require(value in _STREAMS or value.startswith("cfg://"), f"{key}={value} {remedy}")


def _is_own_class(value: str, section: str, name: str) -> bool:
    """Whether a text names one of logging's classes, of the kind that is needed."""
    module, _, cls = value.rpartition(".")
    found = {"logging": logging, "logging.handlers": logging.handlers}.get(module)
    found, kind = getattr(found, cls, None), _CLASSES.get(section)
    return (
        name == "class" and kind is not None and isinstance(found, type) and issubclass(found, kind)
    )


def _require_own_names(hydra: DictConfig) -> None:
    """Raise `UserError` where a setting puts files outside the run folder."""
    values = OmegaConf.to_container(hydra, resolve=False)
    subdir, job = values["output_subdir"], values["job"]["name"]
    require(
        subdir is None or (_FOLDER.fullmatch(str(subdir)) is not None and subdir != "chunks"),
        f"hydra.output_subdir={subdir} must be null, or the name of a folder in the run folder",
    )
    require("/" not in str(job) and str(job) != "", f"hydra.job.name={job} must be a plain name")
    for key, part in (("hydra.run.dir", values["run"]), ("hydra.sweep.dir", values["sweep"])):
        require(part["dir"] != "", f"{key}= is empty: give a folder, or leave it out")


def path_of(cfg: DictConfig, key: str) -> Path:
    """An absolute path among Hydra's own settings."""
    try:
        given = OmegaConf.select(cfg, key, throw_on_missing=True)
        path = Path(os.path.expanduser(given)).absolute()
    except (OmegaConfBaseException, TypeError) as error:
        raise UserError(f"{key}: {str(error).splitlines()[0]}") from error
    require("${" not in str(path), f"{key}: Hydra takes ${{ in {path} for a reference")
    return path
