"""Configurations as typed specs, and back: what a composed or saved configuration means."""

import dataclasses
import difflib
import inspect
import re
import typing
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar

import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gdiff.config.sources import Sources
from gdiff.dataset import Dataset, DatasetSpec
from gdiff.errors import UserError, require
from gdiff.experiment import Experiment
from gdiff.store.places import config_dir
from gdiff.store.yamls import require_plain_yaml
from gdiff.train.spec import Training

TARGET = "_target_"
# The kinds of whole configurations, and the file that each begins with.
Job = TypeVar("Job", Experiment, Training)
ROOTS: dict[type, str] = {Experiment: "config", Training: "train"}
# The groups of whole settings by one name.
_WHOLE = {Experiment: "experiment", Training: "recipe"}
# Where the data of a run may be another time.
PATHS = ("dataset.path", "dataset.data_dir")
# Packages of gdiff whose classes a configuration may name; what else there is may do things.
_ROOMS = (
    *("dataset", "process", "score", "schedule", "prior", "sampler", "metrics"),
    *("runtime", "prepared", "network", "train"),
)
_NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")
# Where the classes of older run folders are now.
_METHODS = (
    *("accelerated_ode", "accelerated_sde", "ancestral", "ddim", "ddpm", "dpmpp_2m"),
    *("euler_maruyama", "exponential", "heun", "li_cai", "midpoint", "srk"),
)
_MOVED = {
    "gdiff.experiment": "gdiff.prepared",
    "gdiff.mesh": "gdiff.runtime",
    "gdiff.score.full.Full": "gdiff.score.exact.Exact",
    "gdiff.score.pca_local": "gdiff.score.local",
    **{f"gdiff.sampler.{name}": f"gdiff.sampler.methods.{name}" for name in _METHODS},
}
# Keys of older run folders that are no more, with the value that meant that they were not used.
_GONE = {"sampler.window": None, "sampler.anderson": 0}
# Keys that run folders had not yet, with the value that stands for what was done then.
_SINCE = {"gdiff.schedule.las.LAS": {"measure": "snr"}}
_WORDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    Path: "a path",
    list[int | str]: "a list of numbers or names, such as [0, cat]",
}


def build(cfg: DictConfig, sources: Sources, kind: type[Job] = Experiment) -> Job:
    """The typed experiment, or training, of a composed configuration.

    Args:
        cfg: the configuration without Hydra's part.
        sources: the folder that paths are relative to, and packages of the user's own.
        kind: which of the two.

    Raises:
        UserError: a key, a type or a value is wrong.
    """
    try:
        OmegaConf.resolve(cfg)
    except OmegaConfBaseException as error:
        raise UserError(str(error).splitlines()[0]) from error
    missing = sorted(OmegaConf.missing_keys(cfg))
    require(not missing, f"{', '.join(missing)} is missing: give it a value")
    return _build(cfg, kind, "", sources)


def load_dataset(option: str, /, **keys: Any) -> Dataset:
    """A data set by its name.

        gdiff.load("mnist", data_dir="~/data", classes=[3, 8])

    Args:
        option: of the group `dataset`: digits, moons, cifar10, folder, …
        keys: what to change of its keys; the files `configs/dataset/*.yaml` list them.

    Raises:
        UserError: no such option or key, or data that cannot be had.
    """
    sources = Sources.of()
    folders = (config_dir(), *sources.config_dirs())
    files = {path.stem: path for f in folders for path in sorted(f.glob("dataset/*.yaml"))}
    require(option in files, no_option("dataset", option, files))
    keys = {key: str(value) if isinstance(value, Path) else value for key, value in keys.items()}
    try:
        cfg = OmegaConf.merge(OmegaConf.load(files[option]), keys)
    except OmegaConfBaseException as error:
        raise UserError(str(error).splitlines()[0]) from error
    return _build(cfg, DatasetSpec, "", sources).load()


def _build(node: DictConfig, kind: Any, path: str, sources: Sources) -> Any:
    """An instance of the node's `_target_`, a `kind`, typed by its dataclass fields.

    Args:
        node: resolved.
        kind: the class that the target must be of, or `Any`.
        path: of the node, with a dot at its end.
        sources: as for `build`.
    """
    cls = _locate(node.get(TARGET), kind, path.rstrip("."), sources)
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}
    values = {}
    for key, value in node.items():
        if key == TARGET:
            continue
        if path + str(key) in _GONE:
            unused = _GONE[path + str(key)]
            require(value == unused, f"{path}{key}={value}: this option is no more; leave it out")
            continue
        if key not in fields:
            raise UserError(no_key(path + str(key), [path + name for name in fields]))
        if isinstance(value, DictConfig) and (hints[key] is Any or _is_part(hints[key])):
            values[key] = _build(value, hints[key], f"{path}{key}.", sources)
        elif isinstance(value, DictConfig) and typing.get_origin(hints[key]) is dict:
            values[key] = _parts(value, typing.get_args(hints[key])[1], f"{path}{key}.", sources)
        else:
            values[key] = _typed(path + key, value, hints[key], sources)
    missing = [path + key for key, f in fields.items() if key not in values and _is_required(f)]
    require(not missing, f"{', '.join(missing)} is missing")
    try:
        return cls(**values)
    except UserError as error:
        raise UserError(_with_path(str(error), fields, path)) from error


def _with_path(message: str, names: Iterable[str], path: str) -> str:
    """What a class says of its fields, said of the keys that they have in the configuration.

    A field is meant at the start, and wherever a value follows: `low=2 must be below high=1`.
    """
    name = "|".join(names)
    return re.sub(rf"^(?:{name})\b|(?<![\w.])(?:{name})(?==)", rf"{path}\g<0>", message)


def _parts(node: DictConfig, kind: type, path: str, sources: Sources) -> dict[str, Any]:
    """Instances of a kind, by any names."""
    for name, part in node.items():
        is_part = isinstance(part, DictConfig)
        require(is_part, f"{path}{name}={part} must have a {TARGET} and its options")
    return {name: _build(part, kind, f"{path}{name}.", sources) for name, part in node.items()}


def _typed(key: str, value: Any, hint: Any, sources: Sources) -> Any:
    """A plain value converted to the type of its field; a path becomes absolute."""
    shown = "null" if value is None else str(value).lower() if isinstance(value, bool) else value
    if _is_part(hint):
        raise UserError(f"{key}={shown} is not one of the options of {key}")
    parts = typing.get_args(hint)
    if str in parts and any(typing.get_origin(part) is list for part in parts):
        # OmegaConf knows no unions of lists and plain values: by what it is.
        is_list = isinstance(value, ListConfig)
        hint = next(p for p in parts if (typing.get_origin(p) is list) == is_list) | None
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if isinstance(value, int) and is_number and kind_of(hint) == "text":
        value = str(value)
    elif isinstance(value, int) and abs(value) >= 2**63:
        raise UserError(f"{key}={value} is beyond 64 bits")
    elif is_number and hint is bool:
        require(value in (0, 1), f"{key}={shown} is not {_WORDS[bool]}")
    schema = dataclasses.make_dataclass("Schema", [("value", hint)])
    try:
        merged = OmegaConf.merge(OmegaConf.structured(schema), {"value": value})
        typed = OmegaConf.to_container(merged)["value"]
    except OmegaConfBaseException as error:
        kinds = typing.get_args(hint) if isinstance(hint, UnionType) else (hint,)
        raise UserError(f"{key}={shown} is not {_WORDS.get(kinds[0], kinds[0])}") from error
    return sources.path(typed) if isinstance(typed, Path) else typed


def _locate(target: Any, kind: Any, where: str, sources: Sources) -> type:
    """The dataclass that a `_target_` names, of the kind that is needed."""
    where = where or "the configuration"
    require(bool(target), f"{where} has no {TARGET}: choose one of the group's options")
    named = f"{where}: {TARGET}={target}"
    module, _, name = str(target).rpartition(".")
    target = _MOVED.get(target, f"{_MOVED.get(module, module)}.{name}")
    module, _, name = target.rpartition(".")
    unfit = f"{named} cannot be used there: choose one of the group's options"
    require(_NAME.fullmatch(target) is not None and "__main__" not in target, unfit)
    package, _, inside = module.partition(".")
    if package == "gdiff":
        room = inside.partition(".")[0]
        is_there = not room or find_spec(f"gdiff.{room}") is not None
        require(is_there, f"{named} does not exist")
        require(room in _ROOMS, unfit)
    cls = getattr(sources.module(module, named), name, None)
    require(cls is not None, f"{named} does not exist")
    # Where a field takes anything, it takes the parts of an experiment.
    kinds = tuple(_kinds()) if kind is Any else kind
    is_part = isinstance(cls, type) and dataclasses.is_dataclass(cls) and issubclass(cls, kinds)
    require(is_part and not inspect.isabstract(cls), unfit)
    return cls


def _kinds() -> Iterable[type]:
    """The kinds of parts that an experiment or a training has."""
    return (kind for root in ROOTS for kind in parts_of(root).values())


def parts_of(root: type) -> dict[str, type]:
    """The parts of a whole configuration by their names: those that are specs themselves."""
    return {name: kind for name, kind in typing.get_type_hints(root).items() if _is_part(kind)}


def _is_part(hint: Any) -> bool:
    """Whether a field holds a nested spec."""
    return isinstance(hint, type) and dataclasses.is_dataclass(hint)


def groups_of(kind: type, found: set[str]) -> set[str]:
    """Those of the groups found that are for a kind of configuration, as far as they are known."""
    others = [{*parts_of(other), _WHOLE[other]} for other in ROOTS if other is not kind]
    return found.difference(*others) | found.intersection({*parts_of(kind), _WHOLE[kind]})


def fields_of(path: Path, sources: Sources) -> dict[str, Any]:
    """Fields, with their types, of the class that a file of options names; {} if it has none."""
    try:
        target = OmegaConf.load(path)[TARGET]
        return typing.get_type_hints(_locate(target, Any, str(path), sources))
    except (UserError, OSError, KeyError, TypeError, yaml.YAMLError, OmegaConfBaseException):
        return {}


def field_names(part: DictConfig, where: str, sources: Sources) -> set[str]:
    """Those of the class that a part of a configuration names, whatever their values are."""
    return {f.name for f in dataclasses.fields(_locate(part.get(TARGET), Any, where, sources))}


def kind_of(hint: Any) -> str:
    """What a field holds: "text", "names" for a list of numbers and names, or "" for all else.

    A word in the place of the list makes no difference.
    """
    kinds = {*(typing.get_args(hint) if isinstance(hint, UnionType) else (hint,))} - {type(None)}
    if kinds <= {str, Path}:
        return "text"
    return "names" if kinds - {str} == {list[int | str]} else ""


def _is_required(f: dataclasses.Field) -> bool:
    return f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING


def to_yaml(experiment: Experiment | Training) -> str:
    """The experiment, or training, as a configuration that `load` reads back."""
    return OmegaConf.to_yaml(OmegaConf.create(_plain(experiment)))


def load(
    folder: Path,
    overrides: Sequence[str] = (),
    sources: Sources | None = None,
    kind: type[Job] = Experiment,
) -> Job:
    """The experiment, or training, of a run folder, with changed values (`key=value`) if given.

    Args:
        folder: of the run, which alone does not make a class outside gdiff one that may be used.
        overrides: the changed values.
        sources: as for `build`; None for the current folder and installed plug-ins.
        kind: which of the two.
    """
    path = folder / "config.yaml"
    try:
        require_plain_yaml(path)
        cfg = OmegaConf.load(path)
        require(isinstance(cfg, DictConfig), f"{path} is not a configuration")
        for node in cfg.values():
            if isinstance(node, DictConfig):
                for key, value in _SINCE.get(node.get(TARGET), {}).items():
                    node.setdefault(key, value)
    except (OSError, ValueError, yaml.YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"{path} is not a configuration: {str(error).splitlines()[0]}") from error
    _require_kind(cfg, kind, folder)
    for override in overrides:
        try:
            cfg = _with(cfg, override)
        except (ValueError, yaml.YAMLError, OmegaConfBaseException) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"cannot read the override {override!r}: {reason}") from error
    return build(cfg, sources or Sources.of(), kind)


def _require_kind(cfg: DictConfig, kind: type, folder: Path) -> None:
    """Raise `UserError` if a folder is of a training where a run is meant, or the reverse."""
    verbs = {Experiment: "gdiff sample", Training: "gdiff train"}
    targets = {f"{root.__module__}.{root.__name__}": root for root in ROOTS}
    found = targets.get(cfg.get(TARGET), kind)
    require(
        found is kind,
        f"{folder} is the folder of a run of {verbs[found]}: give one of {verbs[kind]}",
    )


def _with(cfg: DictConfig, override: str) -> DictConfig:
    """A saved configuration with a changed value; paths are the text that was typed."""
    key, _, value = override.partition("=")
    if key not in PATHS or re.match(r"['\"]|null$", value):
        return OmegaConf.merge(cfg, OmegaConf.from_dotlist([override]))
    OmegaConf.update(cfg, key, value)
    return cfg


def differences(a: Experiment, b: Experiment) -> list[str]:
    """Keys in which two experiments differ."""
    left, right = flatten(OmegaConf.create(_plain(a))), flatten(OmegaConf.create(_plain(b)))
    return sorted(k for k in left.keys() | right.keys() if left.get(k) != right.get(k))


def above(key: str) -> list[str]:
    """A dotted key and the parts that it is in, the nearest first: a.b.c → a.b.c, a.b, a."""
    names = key.split(".")
    return [".".join(names[:end]) for end in range(len(names), 0, -1)]


def _plain(spec: Any) -> Any:
    """A spec as plain containers with its `_target_`."""
    if dataclasses.is_dataclass(spec):
        cls = type(spec)
        values = {f.name: _plain(getattr(spec, f.name)) for f in dataclasses.fields(spec)}
        return {TARGET: f"{cls.__module__}.{cls.__name__}", **values}
    if isinstance(spec, dict):
        return {name: _plain(part) for name, part in spec.items()}
    return str(spec) if isinstance(spec, Path) else spec


def flatten(node: Any, prefix: str = "") -> dict[str, Any]:
    """Leaves of a configuration by their dotted keys."""
    flat = {}
    for key in node:
        value = None if OmegaConf.is_missing(node, key) else node._get_node(key)
        if isinstance(value, DictConfig) and not value._is_none():
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + str(key)] = value
    return flat


def no_key(key: str, known: Iterable[str]) -> str:
    """An unknown key, with the nearest known one or the keys beside it."""
    parent, _, leaf = key.rpartition(".")
    # A key without its group (eta for sampler.eta) is as common as a slip of the finger.
    near = [k for k in known if k.rpartition(".")[2] == leaf] if not parent else []
    beside = {k.rpartition(".")[2]: k for k in known if k.rpartition(".")[0] == parent}
    beside.pop(TARGET, None)
    near += [beside[name] for name in difflib.get_close_matches(leaf, beside, n=1)]
    hint = did_you_mean(near)
    if not hint and parent and beside:
        hint = f" The keys of {parent} are: {', '.join(beside)}"
    return f"there is no key {key!r}.{hint}"


def no_option(group: str, name: str, options: Iterable[str]) -> str:
    """An unknown option of a group, with the nearest one, and all."""
    near = did_you_mean(difflib.get_close_matches(name, options, n=1))
    return f"{group}={name}: no such option.{near} The options are: {', '.join(options)}"


def did_you_mean(near: Sequence[str]) -> str:
    """The nearest name as a question, if there is one."""
    return f" Did you mean {near[0]!r}?" if near else ""
