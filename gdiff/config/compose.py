"""Hydra: overrides are composed to a configuration, runs and sweeps are started."""

import re
import typing
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import configure_log
from hydra.errors import HydraException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from gdiff.config.effect import require_consistent
from gdiff.config.hydras import path_of, require_known
from gdiff.config.jobs import Job, task, undone
from gdiff.config.sources import Sources
from gdiff.config.specs import (
    PATHS,
    ROOTS,
    TARGET,
    above,
    build,
    config_dir,
    differences,
    field_names,
    fields_of,
    flatten,
    groups_of,
    kind_of,
    load,
    no_key,
    no_option,
    to_yaml,
)
from gdiff.config.sweeps import Sweep, recorded, require_own_folders, require_whole
from gdiff.config.words import as_typed, key_of, quoted, shown
from gdiff.errors import UserError, require
from gdiff.experiment import Experiment
from gdiff.store.yamls import first_comment

# What logging says of a configuration of its own.
_OF_LOGGING = re.compile("Unable to (configure|add|set)|Unsupported version|dictionary doesn't")
# Where the data of a run lie, and how they are held: the samples depend on what they are alone.
PLACES = ("score.rows", *PATHS)
# Hydra's own settings that do nothing for one run.
_OF_SWEEPS = re.compile(r"hydra[./](sweep|sweeper|launcher)(\.|$)")
# Hydra's own settings that are text.
_TEXTS = ("hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir", "hydra.job.name")
# What may be another when a run is continued: also who works on it, and how much at a time.
FREE = (
    "batch_size",
    "report",
    "plots",
    "logger",
    *PLACES,
    "runtime.mesh",
    "runtime.distributed",
    "runtime.coordinator",
    "runtime.process_id",
    "runtime.num_processes",
)


class About(NamedTuple):
    """An option of a group, and what its file says of it."""

    option: str
    about: str


class Composer:
    """Hydra with gdiff's configurations, for as long as the block of `composer` lasts.

    Attributes:
        sources: what `build` takes.
        kind: what is composed: `Experiment` or `Training`.
    """

    def __init__(self, own_dirs: Sequence[Path], sources: Sources, kind: type) -> None:
        self.sources, self.kind = sources, kind
        self._hydra = GlobalHydra.instance().hydra
        self._own_dirs = own_dirs
        paths = ",".join(quoted(f"file://{path.absolute()}") for path in own_dirs)
        self._own = [f"hydra.searchpath=[{paths}]"] if paths else []

    def compose(self, overrides: Sequence[str], mode: RunMode = RunMode.RUN) -> DictConfig:
        """The configuration with Hydra's own part under `hydra`.

        Raises:
            UserError: an override cannot be read, or names what does not exist.
        """
        overrides = self._words(overrides)
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("error", message="provider=hydra.searchpath")
                root, words = ROOTS[self.kind], [*self._own, *overrides]
                cfg = self._hydra.compose_config(
                    root, words, run_mode=mode, with_log_configuration=False
                )
        except Exception as error:  # Hydra and its parsers raise many kinds on what users write
            raise UserError(self._explain(error, overrides)) from error
        asked = cfg.hydra.mode or mode
        require(asked == mode, f"hydra.mode={asked.name} is given by -m or its absence: leave out")
        with self._explained(overrides):
            require_known(cfg.hydra)
        for word in overrides:
            is_of_sweeps = _OF_SWEEPS.match(key_of(word)) is not None
            require(
                mode == RunMode.MULTIRUN or not is_of_sweeps,
                f"{word} is about a sweep: add -m to gdiff sample, or leave it out",
            )
            require(
                mode == RunMode.RUN or key_of(word) != "hydra.run.dir",
                f"{word} is about one run: a sweep has its folder by hydra.sweep.dir",
            )
        return cfg

    def experiment(self, overrides: Sequence[str]) -> Any:
        """The typed experiment, or training, that the overrides describe."""
        return self.plan(overrides)[0]

    def resumed(self, folder: Path, overrides: Sequence[str]) -> Experiment:
        """The experiment of a run folder, with another batch size, devices, processes or place of
        the data if given.

        Raises:
            UserError: another override is not what the run began with.
        """
        keys = {word: key_of(word) for word in overrides}
        free = [word.lstrip("+") for word, key in keys.items() if key in FREE]
        experiment = load(folder, free, self.sources)
        fixed = set(keys.values()).difference(FREE)
        if fixed:
            found = set(differences(experiment, self.experiment(overrides))).difference(FREE)
            # An option of `experiment` may set any key.
            asked = {k for k in found if "experiment" in fixed or not fixed.isdisjoint(above(k))}
            others = {key.removesuffix(f".{TARGET}") for key in asked}
            named = sorted(key for key in others if others.isdisjoint(above(key)[1:]))
            require(
                not named,
                f"{folder} was begun with another {', '.join(named)}: leave the overrides out to "
                "continue it, or start a new run",
            )
        return experiment

    def choice(self, group: str, overrides: Sequence[str], mode: RunMode = RunMode.RUN) -> str:
        """The option of a group that the overrides choose."""
        return self.compose(overrides, mode).hydra.runtime.choices[group]

    def with_parts(
        self, overrides: Sequence[str], choices: Mapping[str, str], experiment: Experiment
    ) -> list[str]:
        """Overrides that give the parts of an experiment, and for all else what they gave before.

        Args:
            overrides: words of the user's, from which those about other options are dropped.
            choices: group → option.
            experiment: its parts of these groups, and its score, are meant.
        """
        replaced = [g for g, option in choices.items() if self.choice(g, overrides) != option]
        words = [w for w in overrides if key_of(w).partition(".")[0] not in replaced]
        words += [
            f"{g}={option}" for g, option in choices.items() if self.choice(g, words) != option
        ]
        groups = (*choices, "score")
        has, wants = (
            {
                key: value
                for key, value in flatten(cfg).items()
                if key.partition(".")[0] in groups and not key.endswith(TARGET)
            }
            for cfg in (_task_part(self.compose(words)), OmegaConf.create(to_yaml(experiment)))
        )
        gone = [key for key in has if key not in wants]
        other = {key: wants[key] for key in has if key in wants and has[key] != wants[key]}
        words = [word for word in words if key_of(word) not in {*gone, *other}]
        return [
            *words,
            *(f"~{key}" for key in gone),
            *(f"{k}={shown(v)}" for k, v in other.items()),
        ]

    def about(self, group: str) -> list[About]:
        """The options of a group, with those of the user.

        Raises:
            UserError: there is no such group.
        """
        if group not in self._groups():
            raise UserError(no_key(group, self._groups()))
        found = {
            path.stem: first_comment(path)
            for folder in (config_dir(), *self._own_dirs)
            for path in (folder / group).glob("*.yaml")
        }
        return [About(name, found.get(name, "")) for name in self._options(group)]

    def plan(self, overrides: Sequence[str]) -> tuple[Any, Path]:
        """The typed experiment, or training, and, by hydra.run.dir, the folder of its run."""
        cfg = self.compose(overrides)
        experiment = build(_task_part(cfg), self.sources, self.kind)
        if isinstance(experiment, Experiment):
            require_consistent(experiment, overrides)
        return experiment, path_of(cfg, "hydra.run.dir")

    def score_keys(self, overrides: Sequence[str]) -> set[str]:
        """Keys of the score that the overrides choose, whatever their values are."""
        return field_names(self.compose(overrides).score, "score", self.sources)

    def sweep_dir(self, overrides: Sequence[str]) -> Path:
        """The folder of a sweep, by hydra.sweep.dir."""
        cfg = self.compose(overrides, RunMode.MULTIRUN)
        require_whole(overrides, self._hints_of)
        folder = path_of(cfg, "hydra.sweep.dir")
        with self._explained(overrides):
            require_own_folders(cfg, self._hydra.config_loader, folder)
        return folder

    def resumed_sweep(self, folder: Path, overrides: Sequence[str]) -> Sweep:
        """What a sweep was begun with, and in which folder the paths of its overrides begin.

        Raises:
            UserError: it cannot be continued, or its runs choose one another.
        """
        sweep = recorded(folder, self._words(overrides), FREE)
        sweeper = self.choice("hydra/sweeper", sweep.words, RunMode.MULTIRUN)
        require(
            sweeper == "basic",
            f"{folder} is a sweep by hydra/sweeper={sweeper}, whose next runs follow from the "
            "last: continue its runs one by one",
        )
        return sweep

    def run(self, job: Job, overrides: Sequence[str], folder: Path) -> Any:
        """Hydra's own run: `.hydra/` and logging in `folder`, then the job; returns its value."""
        full = [*self._own, *self._words(overrides), f"hydra.run.dir={quoted(folder)}"]
        with self._explained(overrides):
            return self._hydra.run(ROOTS[self.kind], partial(task, job), full).return_value

    def multirun(self, job: Job, overrides: Sequence[str], folder: Path) -> list[Path]:
        """Hydra's own multirun in `folder`, with the launcher and sweeper chosen.

        Returns:
            Folders of the jobs whose value was NaN, as far as the sweeper tells.
        """
        overrides = self._words(overrides)
        full = [*self._own, *overrides, f"hydra.sweep.dir={quoted(folder)}"]
        with self._explained(overrides):
            return undone(self._hydra.multirun(ROOTS[self.kind], partial(task, job), full) or ())

    def _words(self, overrides: Sequence[str]) -> list[str]:
        """Overrides in which paths and names are text, whatever they look like."""
        return [as_typed(word, self._kind_of) for word in overrides]

    def _kind_of(self, key: str) -> str:
        """Whether the value of a key is "text" or "names" in all options that have the key."""
        if key in _TEXTS:
            return "text"
        kinds = {kind_of(hint) for hint in self._hints_of(key)}
        return kinds.pop() if len(kinds) == 1 else ""

    def _hints_of(self, key: str) -> set[Any]:
        """Types of a key in all options that have it."""
        group, _, name = key.rpartition(".")
        folders = (config_dir(), *self._own_dirs) if group in self._groups() else ()
        files = [path for folder in folders for path in (folder / group).glob("*.yaml")]
        classes = (
            [fields_of(path, self.sources) for path in files]
            if group
            else [typing.get_type_hints(self.kind)]
        )
        return {fields[name] for fields in classes if name in fields}

    def log_to(self, folder: Path) -> None:
        """Log into a run folder as Hydra's own runs do."""
        cfg = self.compose([])
        place = re.sub(r"(\\*)\$\{", r"\1\1\\${", str(folder.absolute()))  # no reference
        OmegaConf.update(cfg, "hydra.runtime.output_dir", place, force_add=True)
        HydraConfig.instance().set_config(cfg)
        with self._explained(()):
            configure_log(cfg.hydra.job_logging)

    @contextmanager
    def _explained(self, overrides: Sequence[str]) -> Iterator[None]:
        """Turn what Hydra raises on words of the user's into one line."""
        try:
            yield
        except (HydraException, OmegaConfBaseException) as error:
            raise UserError(self._explain(error, overrides)) from error
        except ValueError as error:
            if not _OF_LOGGING.match(str(error)):
                raise
            if isinstance(error.__cause__, OSError):
                raise error.__cause__ from None
            cause = f" ({error.__cause__})" if error.__cause__ else ""
            raise UserError(f"hydra.job_logging or hydra.hydra_logging: {error}{cause}") from error

    def _explain(self, error: Exception, overrides: Sequence[str]) -> str:
        """One line for a composition error, with the nearest key or option that exists."""
        if isinstance(error, OverrideParseException):
            return (
                f"cannot read the override {error.override!r}: write group=option or key=value, "
                "and quote values with special characters, as in \"key='a, b'\""
            )
        if isinstance(error, YAMLError):
            return str(error)  # of several lines that tell the place in the file
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        if found := re.match(r"(?:In '.*?': )?Could not find '(?P<group>.*)/(?P<name>.*)'", first):
            return self._no_option(**found.groupdict())
        if found := re.match(r"Could not override '(?P<key>[^']*)'", first):
            return no_key(found["key"].lstrip("+~"), self._keys(overrides))
        if found := re.match(r"(?:Ambiguous value for argument|Sweep parameters) '(.*)'", first):
            return f"{found[1]} is a sweep: add -m to gdiff sample, or quote what is one text"
        if first.startswith("Config group override must be"):
            groups = [group for group in self._groups() if f"{group}=null" in overrides]
            name = groups[0] if groups else "a group"
            options = f": {', '.join(self._options(name))}" if groups else ""
            return f"{name} takes the name of one of its options{options}"
        if isinstance(error, TypeError | AttributeError):
            first = f"these overrides do not fit the configuration ({first})"
        cause = f" ({str(error.__cause__).splitlines()[0]})" if error.__cause__ else ""
        return first + cause

    def _no_option(self, group: str, name: str) -> str:
        options = self._options(group)
        extra = {"hydra/launcher": "joblib", "hydra/sweeper": "optuna"}.get(group)
        more = f"; plugins bring others; in the checkout: pip install -e '.[{extra}]'"
        return no_option(group, name, options) + (more if extra else "")

    def _groups(self) -> list[str]:
        """Names of the groups, with those of the user."""
        folders = (config_dir(), *self._own_dirs)
        found = {p.name for folder in folders for p in folder.iterdir() if p.is_dir()}
        return sorted(groups_of(self.kind, found))

    def _options(self, group: str) -> list[str]:
        """Names of a group's options, with those of the user."""
        own = (path.stem for folder in self._own_dirs for path in (folder / group).glob("*.yaml"))
        known = self._hydra.config_loader.get_group_options(group)
        return sorted({*known, *own})

    def _keys(self, overrides: Sequence[str]) -> list[str]:
        """Keys that exist given the choices of groups in `overrides`."""
        groups = self._groups()
        parsed = OverridesParser.create().parse_overrides(list(overrides))
        chosen = [o.input_line for o in parsed if o.key_or_group in groups and not o.package]
        cfg = self.compose(chosen, RunMode.MULTIRUN)
        return [*groups, *flatten(_task_part(cfg)), *flatten(cfg.hydra, "hydra.")]


@contextmanager
def composer(
    user_dir: Path | None = None, plugins: Sequence[str] = (), kind: type = Experiment
) -> Iterator[Composer]:
    """Hydra with gdiff's configurations, and with groups and options of a user's own.

    Args:
        user_dir: a folder of configurations.
        plugins: packages whose classes these may name, and that may bring a folder `configs`.
        kind: what is to be composed: `Experiment` or `Training`.
    """
    require(user_dir is None or user_dir.is_dir(), f"--config-dir {user_dir} is not a folder")
    here = str(Path.cwd())
    require("${" not in here, f"Hydra takes ${{ in {here} for a reference: go to another folder")
    sources = Sources.of(plugins)
    own = [*sources.config_dirs(), *filter(None, [user_dir])]
    for first, later in combinations([config_dir(), *own], 2):
        for ours in first.rglob("*.yaml"):
            theirs = later / ours.relative_to(first)
            require(
                not theirs.exists() or theirs.samefile(ours),
                f"{theirs} would be ignored, since gdiff has {ours}: give it another name",
            )
    with initialize_config_dir(str(config_dir()), version_base="1.3", job_name="gdiff"):
        yield Composer(own, sources, kind)


def _task_part(cfg: DictConfig) -> DictConfig:
    """The configuration without Hydra's own part."""
    cfg = cfg.copy()
    with open_dict(cfg):
        cfg.pop("hydra", None)
    return cfg
