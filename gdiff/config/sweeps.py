"""Hydra's sweeps: which folders their runs take, and how one that was cut off is gone on with."""

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_loader import ConfigLoader
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from gdiff.config.words import key_of
from gdiff.errors import UserError, require
from gdiff.store.yamls import require_plain_yaml

# An interval, as optimising sweepers take it.
_INTERVAL = re.compile(r"=interval\((.*)\)$")
# What Hydra writes into a sweep's folder before the first run.
_RECORD = "multirun.yaml"
# A last folder name that no two runs share.
_NUMBERED = re.compile(r"\$\{hydra[.:]job\.(num|id)\}[^/]*$")
# Words about Hydra that a sweep's folder may bring by itself: they start nothing and write nowhere
# else. Those about its folder are said anew.
_HARMLESS = re.compile(
    r"hydra\.sweep\.subdir|hydra\.job\.config\.override_dirname\..*|hydra\.sweeper\.params\..*"
    r"|hydra\.sweeper\.max_batch_size|hydra\.launcher\.n_jobs"
)
_SAID_ANEW = ("hydra.sweep.dir", "hydra.searchpath", "hydra.mode")


class Sweep(NamedTuple):
    """What a sweep was begun with.

    Attributes:
        words: its overrides, but for the folder.
        cwd: where the command was given.
    """

    words: list[str]
    cwd: Path


def recorded(folder: Path, given: Sequence[str], free: Sequence[str]) -> Sweep:
    """What to go on with in the folder of a sweep.

    Args:
        folder: of the sweep.
        given: overrides of the command that continues it.
        free: keys that these may change.

    Raises:
        UserError: the record is damaged, the overrides are about another sweep, or the folder
            alone asks for parts of Hydra that could start programs.
    """
    path = folder / _RECORD
    try:
        require_plain_yaml(path)
        record = OmegaConf.load(path)
        found = OmegaConf.to_container(OmegaConf.select(record, "hydra.overrides"))
        words = [str(word) for part in ("task", "hydra") for word in found[part]]
        cwd = Path(OmegaConf.select(record, "hydra.runtime.cwd"))
    except (OSError, ValueError, TypeError, KeyError, YAMLError, OmegaConfBaseException) as error:
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(f"{path} is not the record of a sweep: {first}") from error
    ours = {key_of(word) for word in given}
    for word in given:
        is_free = key_of(word) in free or key_of(word).startswith("hydra")
        require(
            is_free or word in words,
            f"{folder} is not a sweep with {word}: leave it out to continue the sweep",
        )
    kept = [word for word in words if key_of(word) not in {*_SAID_ANEW, *ours}]
    for word in kept:
        is_harmless = not key_of(word).startswith("hydra") or _HARMLESS.fullmatch(key_of(word))
        require(
            bool(is_harmless or word == "hydra/launcher=joblib"),
            f"{folder} was begun with {word}: say so again if it is to be continued with that",
        )
    return Sweep([*kept, *given], cwd if cwd.is_dir() else Path.cwd())


def require_whole(words: Sequence[str], hints_of: Callable[[str], set]) -> None:
    """Raise `UserError` if a sweep would try fractions of what is a whole number.

    Args:
        words: overrides of the sweep.
        hints_of: types of a key.
    """
    for word in words:
        found, key = _INTERVAL.search(word), key_of(word)
        hints = set() if found is None else hints_of(key)
        if found is not None and hints and hints <= {int, int | None}:
            raise UserError(f"{word} gives fractions, and {key} is whole: {key}=range({found[1]})")


def require_own_folders(cfg: DictConfig, loader: ConfigLoader, folder: Path) -> None:
    """Raise `UserError` unless every run of a sweep has a folder of its own, inside the sweep's.

    Args:
        cfg: the sweep's configuration.
        loader: Hydra's.
        folder: of the sweep.
    """
    subdir = str(OmegaConf.to_container(cfg.hydra.sweep)["subdir"])
    remedy = "use for example '${hydra.job.num}'"
    require(
        "${" in subdir,
        f"hydra.sweep.subdir={subdir} is the same folder for all runs: {remedy}",
    )
    outside = f"hydra.sweep.subdir={subdir} leads out of the sweep's folder: {remedy}"
    require(".." not in Path(subdir).parts and not Path(subdir).is_absolute(), outside)
    is_numbered = _NUMBERED.search(subdir) is not None
    is_basic = cfg.hydra.sweeper._target_.endswith(f".{BasicSweeper.__name__}")
    if not is_basic:
        require(is_numbered, f"hydra.sweep.subdir={subdir} has no number of the run: {remedy}")
        return
    jobs = _jobs(cfg, loader)
    require(bool(jobs), "the sweep has no runs: one of its overrides has no values")
    if is_numbered:
        return
    taken: dict[str, int] = {}
    for number, place in enumerate(_folders(cfg, loader, jobs)):
        path = os.path.normpath(folder / place)
        require(Path(path).is_relative_to(folder) and Path(path) != folder, outside)
        if path in taken:
            raise UserError(
                f"hydra.sweep.subdir={subdir} gives runs {taken[path]} and {number} the same "
                f"folder, {place}: {remedy}"
            )
        taken[path] = number
    for path, number in taken.items():
        above = next((str(p) for p in Path(path).parents if str(p) in taken), None)
        require(
            above is None,
            f"hydra.sweep.subdir={subdir} puts run {number} into the folder of another: {remedy}",
        )


def _jobs(cfg: DictConfig, loader: ConfigLoader) -> list[list[str]]:
    """The overrides of every run of the basic sweeper."""
    params = [f"{key}={value}" for key, value in (cfg.hydra.sweeper.params or {}).items()]
    words = [*params, *OmegaConf.to_container(cfg.hydra.overrides.task, resolve=False)]
    parsed = OverridesParser.create(config_loader=loader).parse_overrides(words)
    return BasicSweeper.split_arguments(parsed, None)[0]


def _folders(cfg: DictConfig, loader: ConfigLoader, jobs: list[list[str]]) -> list[str]:
    """Where the basic sweeper will put its runs, in the sweep's folder."""
    hydra = HydraConfig.instance()
    before = hydra.cfg
    found = []
    try:
        for number, job in enumerate(jobs):
            one = loader.load_sweep_config(cfg, list(job))
            with open_dict(one):
                one.hydra.job.id = one.hydra.job.num = number
            hydra.set_config(one)
            found.append(str(OmegaConf.select(one, "hydra.sweep.subdir")))
    finally:
        hydra.cfg = before
    return found
