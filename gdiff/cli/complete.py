"""What the shell offers after TAB: groups, options and keys, read from the files of options."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import typer

from gdiff.errors import UserError
from gdiff.store.places import config_dir

# The file that configurations begin with, by the verb; all others have the same.
_ROOTS = {"train": "train"}
_ROOT = "config"
# Groups that stand in no file of defaults by themselves.
_WHOLE = {"config": "experiment", "train": "recipe"}


def overrides(ctx: typer.Context, _: list[str], incomplete: str) -> list[tuple[str, str]]:
    """Beginnings of overrides that go on from what is typed, each with a word about it.

    Bash hands over `sampler=dd` as three words, other shells as one.
    """
    before = [str(word) for word in ctx.params.get("overrides") or ()]
    folders = [config_dir(), *filter(None, [_own(ctx.params.get("config_dir"))])]
    root = _ROOTS.get(ctx.info_name or "", _ROOT)
    key = None
    if before[-1:] == ["="]:
        key = before[-2] if len(before) > 1 else None
    elif before and incomplete == "" and "=" not in before[-1]:
        key = before[-1]
    if key is not None:
        return list(_values(folders, root, key, incomplete, before))
    start, equals, value = incomplete.partition("=")
    if equals:
        found = _values(folders, root, start, value, before)
        return [(f"{start}={each}", about) for each, about in found]
    return list(_keys(folders, root, start, before))


def of_bench(ctx: typer.Context, words: list[str], incomplete: str) -> list[tuple[str, str]]:
    """As `overrides`; first of all the kind of a benchmark."""
    kinds = [("peers", "against other libraries"), ("scale", "data of any size")]
    return [*overrides(ctx, words, incomplete), *([] if ctx.params.get("overrides") else kinds)]


def of_plan(ctx: typer.Context, words: list[str], incomplete: str) -> list[tuple[str, str]]:
    """As `overrides`; and what a plan goes by."""
    goals = [("tolerance=", "how far samples may be from the data"), ("objective=", "in what")]
    found = overrides(ctx, words, incomplete)
    known = {text for text, _ in found}
    return [*(each for each in goals if each[0] not in known), *found]


def of_scores(ctx: typer.Context, _: list[str], incomplete: str) -> list[tuple[str, str]]:
    """Names of scores, and after commas those that are not named yet."""
    folders = [config_dir(), *filter(None, [_own(ctx.params.get("config_dir"))])]
    named = incomplete.split(",")[:-1]
    found = _values(folders, _ROOT, "score", incomplete, [])
    return [(text, about) for text, about in found if text.rpartition(",")[2] not in named]


def _own(folder: Any) -> Path | None:
    return None if folder is None else Path(folder)


def _keys(
    folders: list[Path], root: str, start: str, before: list[str]
) -> Iterator[tuple[str, str]]:
    """Groups and keys; a key stands beside its value, so that shells add no blank after it."""
    group, dot, _ = start.partition(".")
    if dot:
        for key, value in _of_group(folders, root, group, before).items():
            yield from _with_value(f"{group}.{key}", value)
        return
    for name in _groups(folders, root):
        yield f"{name}=", f"options of {name}"
        yield f"{name}.", f"keys of {name}"
    for key, value in _root(root).items():
        if not isinstance(value, dict | list):
            yield from _with_value(key, value)


def _with_value(key: str, value: Any) -> Iterator[tuple[str, str]]:
    text = "null" if value is None else str(value).lower() if value in (True, False) else str(value)
    yield f"{key}=", "a key"
    if not isinstance(value, dict | list) and " " not in text:
        yield f"{key}={text}", "as it is"


def _values(
    folders: list[Path], root: str, key: str, value: str, before: list[str]
) -> Iterator[tuple[str, str]]:
    """Values of a key: the options of a group, or true and false; after commas too."""
    from gdiff.store.yamls import first_comment

    done, comma, _ = value.rpartition(",")
    if key in _groups(folders, root):
        for folder in folders:
            for path in sorted((folder / key).glob("*.yaml")):
                yield f"{done}{comma}{path.stem}", first_comment(path)
        return
    group, _, name = key.rpartition(".")
    known = _of_group(folders, root, group, before) if group else _root(root)
    if isinstance(known.get(name), bool):
        yield from ((f"{done}{comma}{each}", "") for each in ("true", "false"))


def _groups(folders: list[Path], root: str) -> list[str]:
    """Those of the user and the root's own, but not those of another root alone."""
    found = (
        p.name for folder in folders if folder.is_dir() for p in folder.iterdir() if p.is_dir()
    )
    own, others = _named(root), {name for other in _WHOLE for name in _named(other)}
    return sorted(own | (set(found) - others - {"hydra"}))


def _named(root: str) -> set[str]:
    """Groups that a root begins with."""
    defaults = [each for each in _root(root).get("defaults", ()) if isinstance(each, dict)]
    names = {key for each in defaults for key in each if not key.startswith("override")}
    return names | {_WHOLE[root]}


def _of_group(folders: list[Path], root: str, group: str, before: list[str]) -> dict[str, Any]:
    """Keys of the option that is chosen in a group, with their values."""
    chosen = [word.partition("=")[2] for word in before if word.startswith(f"{group}=")]
    defaults = [each for each in _root(root).get("defaults", ()) if isinstance(each, dict)]
    option = next((each[group] for each in defaults if group in each), None)
    option = chosen[-1].partition(",")[0] if chosen else option
    shared = _root(root).get(group)
    found = dict(shared) if isinstance(shared, dict) else {}
    for folder in folders:
        path = folder / group / f"{option}.yaml"
        found |= _read(path) if path.is_file() else {}
    return {key: value for key, value in found.items() if key not in ("_target_", "defaults")}


def _root(root: str) -> dict[str, Any]:
    """The file that configurations begin with, without Hydra's own part."""
    found = _read(config_dir() / f"{root}.yaml")
    return {key: value for key, value in found.items() if key not in ("hydra", "_target_")}


@cache
def _read(path: Path) -> dict[str, Any]:
    from gdiff.store.yamls import read_yaml

    try:
        found = read_yaml(path)
    except (UserError, OSError):
        return {}
    return found if isinstance(found, dict) else {}
