"""From Hydra's overrides to a typed experiment; the only module that knows Hydra and OmegaConf."""

import dataclasses
import difflib
import importlib
import inspect
import re
import typing
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import UnionType
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

from gdiff.errors import UserError, require
from gdiff.experiment import Experiment

_TARGET = "_target_"
_ROOT = "config"
# Packages whose classes Hydra itself may be made of; Optuna's samplers belong to its sweeper.
_HYDRAS_OWN = ("hydra", "hydra_plugins", "optuna")
_WORDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    Path: "a path",
    list[int]: "a list of whole numbers, such as [0, 3]",
}


class Place(NamedTuple):
    """Where Hydra put a job.

    Attributes:
        folder: of the run, made by Hydra.
        cwd: the folder in which the command was given; paths are relative to it.
        overrides: the job's own.
        number: of the job in its sweep, None outside a sweep.
        launcher: Hydra's launcher of the sweep.
    """

    folder: Path
    cwd: Path
    overrides: list[str]
    number: int | None
    launcher: str | None


# A run; what it returns is for Hydra's sweepers, which minimise it.
Job = Callable[[DictConfig, Place], Any]


def config_dir() -> Path:
    """Folder of the configurations: inside the package if installed, beside it in a checkout."""
    package = Path(__file__).parent
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


class Composer:
    """Hydra with gdiff's configurations, for as long as the block of `composer` lasts."""

    def __init__(self, user_dir: Path | None) -> None:
        self._hydra = GlobalHydra.instance().hydra
        self._user_dir = user_dir
        own = [] if user_dir is None else [f"file://{user_dir.absolute()}"]
        self._own = [f"hydra.searchpath=[{_quoted(path)}]" for path in own]

    def compose(self, overrides: Sequence[str], mode: RunMode = RunMode.RUN) -> DictConfig:
        """The configuration with Hydra's own part under `hydra`.

        Raises:
            UserError: an override cannot be read, or names what does not exist.
        """
        overrides = _with_home(overrides)
        try:
            cfg = self._hydra.compose_config(
                _ROOT, [*self._own, *overrides], run_mode=mode, with_log_configuration=False
            )
        except Exception as error:  # Hydra and its parsers raise many kinds on what users write
            raise UserError(self._explain(error, overrides)) from error
        asked = cfg.hydra.mode or mode
        require(asked == mode, f"hydra.mode={asked.name} is given by -m or its absence: leave out")
        for key, target in _flatten(cfg.hydra, "hydra.").items():
            is_known = str(target).partition(".")[0] in _HYDRAS_OWN
            require(
                not key.endswith(_TARGET) or is_known,
                f"{key}={target} is not one of Hydra's own parts or plugins",
            )
        return cfg

    def experiment(self, overrides: Sequence[str]) -> Experiment:
        """The typed experiment that the overrides describe."""
        return self.plan(overrides)[0]

    def choice(self, group: str, overrides: Sequence[str]) -> str:
        """The option of a group that the overrides choose."""
        return self.compose(overrides).hydra.runtime.choices[group]

    def plan(self, overrides: Sequence[str]) -> tuple[Experiment, Path]:
        """The typed experiment and, by hydra.run.dir, the folder of its run."""
        cfg = self.compose(overrides)
        return build(_task_part(cfg)), _path_of(cfg, "hydra.run.dir")

    def sweep_dir(self, overrides: Sequence[str]) -> Path:
        """The folder of a sweep, by hydra.sweep.dir."""
        cfg = self.compose(overrides, RunMode.MULTIRUN)
        subdir = OmegaConf.to_container(cfg.hydra.sweep)["subdir"]
        require(
            "${" in str(subdir),
            f"hydra.sweep.subdir={subdir} is the same folder for all runs: use for example "
            "'${hydra.job.num}'",
        )
        return _path_of(cfg, "hydra.sweep.dir")

    def run(self, job: Job, overrides: Sequence[str], folder: Path) -> Any:
        """Hydra's own run: `.hydra/` and logging in `folder`, then the job; returns its value."""
        overrides = [*self._own, *_with_home(overrides), f"hydra.run.dir={_quoted(folder)}"]
        return self._hydra.run(_ROOT, partial(_task, job), overrides).return_value

    def multirun(self, job: Job, overrides: Sequence[str], folder: Path) -> None:
        """Hydra's own multirun in `folder`, with the launcher and sweeper chosen."""
        overrides = _with_home(overrides)
        full = [*self._own, *overrides, f"hydra.sweep.dir={_quoted(folder)}"]
        try:
            self._hydra.multirun(_ROOT, partial(_task, job), full)
        except (HydraException, OmegaConfBaseException) as error:
            raise UserError(self._explain(error, overrides)) from error

    def log_to(self, folder: Path) -> None:
        """Log into a run folder as Hydra's own runs do."""
        cfg = self.compose([])
        OmegaConf.update(cfg, "hydra.runtime.output_dir", str(folder.absolute()), force_add=True)
        HydraConfig.instance().set_config(cfg)
        configure_log(cfg.hydra.job_logging)

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
            return _no_key(found["key"].lstrip("+~"), self._keys(overrides))
        if found := re.match(r"(?:Ambiguous value for argument|Sweep parameters) '(.*)'", first):
            return f"{found[1]} is a sweep: add -m, or quote the value if it is one text"
        if first.startswith("Config group override must be"):
            groups = [group for group in self._groups() if f"{group}=null" in overrides]
            name = groups[0] if groups else "a group"
            options = f": {', '.join(self._options(name))}" if groups else ""
            return f"{name} takes the name of one of its options{options}"
        cause = f" ({str(error.__cause__).splitlines()[0]})" if error.__cause__ else ""
        return first + cause

    def _no_option(self, group: str, name: str) -> str:
        options = self._options(group)
        plugins = ""
        if group in ("hydra/launcher", "hydra/sweeper"):
            plugins = "; plugins bring others; in the checkout: pip install '.[joblib]'"
        return (
            f"{group}={name}: no such option."
            + _did_you_mean(difflib.get_close_matches(name, options, n=1))
            + f" The options are: {', '.join(options)}{plugins}"
        )

    def _groups(self) -> list[str]:
        """Names of the groups, with those of the user."""
        folders = filter(None, (config_dir(), self._user_dir))
        return sorted({p.name for folder in folders for p in folder.iterdir() if p.is_dir()})

    def _options(self, group: str) -> list[str]:
        """Names of a group's options, with those of the user."""
        own = self._user_dir.joinpath(group).glob("*.yaml") if self._user_dir else ()
        known = self._hydra.config_loader.get_group_options(group)
        return sorted({*known, *(path.stem for path in own)})

    def _keys(self, overrides: Sequence[str]) -> list[str]:
        """Keys that exist given the choices of groups in `overrides`."""
        groups = self._groups()
        parsed = OverridesParser.create().parse_overrides(list(overrides))
        chosen = [o.input_line for o in parsed if o.key_or_group in groups and not o.package]
        cfg = self.compose(chosen, RunMode.MULTIRUN)
        return [*groups, *_flatten(_task_part(cfg)), *_flatten(cfg.hydra, "hydra.")]


@contextmanager
def composer(user_dir: Path | None = None) -> Iterator[Composer]:
    """Hydra with gdiff's configurations, and with a user's own groups from `user_dir`."""
    require(user_dir is None or user_dir.is_dir(), f"--config-dir {user_dir} is not a folder")
    for ours in config_dir().rglob("*.yaml") if user_dir is not None else ():
        theirs = user_dir / ours.relative_to(config_dir())
        require(
            not theirs.exists() or theirs.samefile(ours),
            f"{theirs} would be ignored, since gdiff has {ours}: give it another name",
        )
    with initialize_config_dir(str(config_dir()), version_base="1.3", job_name="gdiff"):
        yield Composer(user_dir)


def build(cfg: DictConfig, cwd: Path | None = None) -> Experiment:
    """The typed experiment of a composed or loaded configuration.

    Args:
        cfg: the configuration without Hydra's part.
        cwd: folder that paths are relative to; None for the current one.

    Raises:
        UserError: a key, a type or a value is wrong.
    """
    try:
        OmegaConf.resolve(cfg)
    except OmegaConfBaseException as error:
        raise UserError(str(error).splitlines()[0]) from error
    missing = sorted(OmegaConf.missing_keys(cfg))
    require(not missing, f"{', '.join(missing)} is missing: give it a value")
    experiment = _build(cfg, Experiment, "", cwd or Path.cwd())
    require(
        experiment.objective not in ("frechet_pca", "kid_pca") or experiment.num_samples > 1,
        f"objective={experiment.objective} needs num_samples of at least 2",
    )
    return experiment


def _build(node: DictConfig, kind: Any, path: str, cwd: Path) -> Any:
    """An instance of the node's `_target_`, a `kind`, typed by its dataclass fields.

    Args:
        node: resolved.
        kind: the class that the target must be of, or `Any`.
        path: of the node, with a dot at its end.
        cwd: folder that paths are relative to.
    """
    cls = _locate(node.get(_TARGET), kind, path.rstrip("."))
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}
    values = {}
    for key, value in node.items():
        if key == _TARGET:
            continue
        if key not in fields:
            raise UserError(_no_key(path + str(key), [path + name for name in fields]))
        if isinstance(value, DictConfig) and (hints[key] is Any or _is_part(hints[key])):
            values[key] = _build(value, hints[key], f"{path}{key}.", cwd)
        else:
            values[key] = _typed(path + key, value, hints[key], cwd)
    missing = [path + key for key, f in fields.items() if key not in values and _is_required(f)]
    require(not missing, f"{', '.join(missing)} is missing")
    return cls(**values)


def _typed(key: str, value: Any, hint: Any, cwd: Path) -> Any:
    """A plain value converted to the type of its field; a path becomes absolute."""
    shown = "null" if value is None else str(value).lower() if isinstance(value, bool) else value
    if _is_part(hint):
        raise UserError(f"{key}={shown} is not one of the options of {key}")
    schema = dataclasses.make_dataclass("Schema", [("value", hint)])
    try:
        merged = OmegaConf.merge(OmegaConf.structured(schema), {"value": value})
        typed = OmegaConf.to_container(merged)["value"]
    except OmegaConfBaseException as error:
        kinds = typing.get_args(hint) if isinstance(hint, UnionType) else (hint,)
        raise UserError(f"{key}={shown} is not {_WORDS.get(kinds[0], kinds[0])}") from error
    return cwd / typed.expanduser() if isinstance(typed, Path) else typed


def _locate(target: Any, kind: Any, where: str) -> type:
    """The dataclass that a `_target_` names: one of gdiff's own, of the kind that is needed."""
    where = where or "the configuration"
    require(bool(target), f"{where} has no {_TARGET}: choose one of the group's options")
    named = f"{where}: {_TARGET}={target}"
    module, _, name = str(target).rpartition(".")
    require(
        module.partition(".")[0] == "gdiff",
        f"{named} is not inside gdiff, which is all that it may name",
    )
    try:
        cls = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UserError(f"{named} does not exist") from error
    is_part = isinstance(cls, type) and dataclasses.is_dataclass(cls)
    require(
        is_part and not inspect.isabstract(cls) and (kind is Any or issubclass(cls, kind)),
        f"{named} cannot be used there: choose one of the group's options",
    )
    return cls


def _is_part(hint: Any) -> bool:
    """Whether a field holds a nested spec."""
    return isinstance(hint, type) and dataclasses.is_dataclass(hint)


def _is_required(f: dataclasses.Field) -> bool:
    return f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING


def to_yaml(experiment: Experiment) -> str:
    """The experiment as a configuration that `load` reads back."""
    return OmegaConf.to_yaml(OmegaConf.create(_plain(experiment)))


def load(folder: Path, overrides: Sequence[str] = ()) -> Experiment:
    """The experiment of a run folder, with changed values (`key=value`) if given."""
    path = folder / "config.yaml"
    try:
        cfg = OmegaConf.load(path)
        require(isinstance(cfg, DictConfig), f"{path} is not a configuration")
        cfg = OmegaConf.merge(cfg, OmegaConf.from_dotlist(list(overrides)))
    except (OSError, ValueError, YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"{path} is not a configuration: {str(error).splitlines()[0]}") from error
    return build(cfg)


def differences(a: Experiment, b: Experiment) -> list[str]:
    """Keys in which two experiments differ."""
    left, right = _flatten(OmegaConf.create(_plain(a))), _flatten(OmegaConf.create(_plain(b)))
    return sorted(k for k in left.keys() | right.keys() if left.get(k) != right.get(k))


def _plain(spec: Any) -> Any:
    """A spec as plain containers with its `_target_`."""
    if dataclasses.is_dataclass(spec):
        cls = type(spec)
        values = {f.name: _plain(getattr(spec, f.name)) for f in dataclasses.fields(spec)}
        return {_TARGET: f"{cls.__module__}.{cls.__name__}", **values}
    return str(spec) if isinstance(spec, Path) else spec


def _task_part(cfg: DictConfig) -> DictConfig:
    """The configuration without Hydra's own part."""
    cfg = cfg.copy()
    with open_dict(cfg):
        cfg.pop("hydra", None)
    return cfg


def _flatten(node: Any, prefix: str = "") -> dict[str, Any]:
    """Leaves of a configuration by their dotted keys."""
    flat = {}
    for key in node:
        value = None if OmegaConf.is_missing(node, key) else node._get_node(key)
        if isinstance(value, DictConfig) and not value._is_none():
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + str(key)] = value
    return flat


def _no_key(key: str, known: Iterable[str]) -> str:
    """An unknown key, with the nearest known one or the keys beside it."""
    parent, _, leaf = key.rpartition(".")
    # A key without its group (eta for sampler.eta) is as common as a slip of the finger.
    near = [k for k in known if k.rpartition(".")[2] == leaf] if not parent else []
    beside = {k.rpartition(".")[2]: k for k in known if k.rpartition(".")[0] == parent}
    beside.pop(_TARGET, None)
    near += [beside[name] for name in difflib.get_close_matches(leaf, beside, n=1)]
    hint = _did_you_mean(near)
    if not hint and parent and beside:
        hint = f" The keys of {parent} are: {', '.join(beside)}"
    return f"there is no key {key!r}.{hint}"


def _did_you_mean(near: Sequence[str]) -> str:
    return f" Did you mean {near[0]!r}?" if near else ""


def _task(job: Job, cfg: DictConfig) -> Any:
    """What Hydra calls: the job, told where it is."""
    hydra = HydraConfig.get()
    is_sweep = not OmegaConf.is_missing(hydra.job, "num")
    place = Place(
        folder=Path(hydra.runtime.output_dir),
        cwd=Path(hydra.runtime.cwd),
        overrides=list(hydra.overrides.task),
        number=hydra.job.num if is_sweep else None,
        launcher=hydra.runtime.choices["hydra/launcher"] if is_sweep else None,
    )
    return job(cfg, place)


def _path_of(cfg: DictConfig, key: str) -> Path:
    """An absolute path among Hydra's own settings."""
    try:
        path = Path(OmegaConf.select(cfg, key, throw_on_missing=True))
        return path.expanduser().absolute()
    except (OmegaConfBaseException, TypeError) as error:
        raise UserError(f"{key}: {str(error).splitlines()[0]}") from error


def _with_home(overrides: Sequence[str]) -> list[str]:
    """Overrides with `key=~/path` quoted: Hydra's grammar has no bare ~ in values."""
    found = ((o, re.fullmatch(r"([^=]+=)(~/[^,'\"()\[\]{}]*)", o)) for o in overrides)
    return [f"{match[1]}{_quoted(match[2])}" if match else o for o, match in found]


def _quoted(text: object) -> str:
    """A value for an override, whatever characters it has."""
    escaped = re.sub(r"(\\*)'", r"\1\1\\'", str(text))
    trailing = len(escaped) - len(escaped.rstrip("\\"))
    return f"'{escaped}{escaped[len(escaped) - trailing :]}'"
