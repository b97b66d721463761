"""Writes docs/configuration.md: every group, option and key of configs/, with its comment.

python scripts/configuration_reference.py
"""

import re
from pathlib import Path
from typing import NamedTuple

from gdiff.store.places import config_dir
from gdiff.store.yamls import first_comment

FILE = Path(__file__).parents[1] / "docs" / "configuration.md"
GROUPS = {
    "dataset": "Where the points come from.",
    "process": "Times and noise levels, for `schedule=time` and `schedule.horizon`.",
    "score": "How the posterior mean is computed.",
    "schedule": "The grid of noise levels.",
    "prior": "What trajectories start from.",
    "sampler": "The step from one noise level to the next.",
    "metrics": "How samples are measured.",
    "runtime": "Devices and arithmetic.",
    "experiment": "Whole settings by one name; what they set is listed, and all else stays.",
    "network": "Of `gdiff train`: the network that is fitted to the data.",
    "recipe": "Of `gdiff train`: whole settings by one name.",
}
HEAD = """# Configuration

<!-- Made from configs/ by scripts/configuration_reference.py: change a comment there. -->

Choose an option of a group with `group=option`, change a value with `key=value`; a list in
brackets, `null` for nothing. `gdiff sample sampler='?'` lists the options of a group, `--dry-run`
prints the configuration that would run. Values below are those that hold unless they are changed.
"""
TRAINING = """\
`gdiff train` takes the groups `dataset`, `process`, `network`, `runtime`, `recipe`, and these keys:
"""
_KEY = re.compile(r"(?P<blank> *)(?P<key>[\w]+):(?: +(?P<value>[^#]*?))?(?: +# (?P<note>.*))?")


class Key(NamedTuple):
    """A line of a file of options; of parts that hold keys the value is empty."""

    name: str
    value: str
    note: str


def keys(path):
    """The keys of a file, dotted, with their comments, but for Hydra's own."""
    found, above, skipped = [], [], None
    for line in path.read_text(encoding="utf-8").splitlines():
        parsed = _KEY.fullmatch(line)
        blank = len(line) - len(line.lstrip())
        if parsed is None or (skipped is not None and blank > skipped):
            continue
        skipped = None
        key, value = parsed["key"], (parsed["value"] or "").strip()
        if key in ("defaults", "hydra", "_target_"):
            skipped = blank
            continue
        above = [(depth, name) for depth, name in above if depth < blank]
        name = ".".join([*(name for _, name in above), key])
        if value:
            found.append(Key(name, value, parsed["note"] or ""))
        else:
            above.append((blank, key))
    return found


def table(found, group=""):
    """Keys as a table of markdown."""
    lines = ["| key | value | |", "|---|---|---|"]
    for key in found:
        name = f"{group}.{key.name}" if group else key.name
        note = re.sub(r"([|<>*_])", r"\\\1", key.note)
        lines.append(f"| `{name}` | `{key.value}` | {note} |")
    return "\n".join(lines)


def reference():
    """The page."""
    folder = config_dir()
    root = keys(folder / "config.yaml")
    shared = {group: [k for k in root if k.name.startswith(f"{group}.")] for group in GROUPS}
    parts = [HEAD, "## Of no group\n", table([k for k in root if "." not in k.name])]
    for group, about in GROUPS.items():
        parts.append(f"\n## {group}\n\n{about}\n")
        if shared[group]:
            parts.append(f"Keys of all options:\n\n{table(shared[group])}\n")
        for path in sorted((folder / group).glob("*.yaml")):
            parts.append(f"### {group}={path.stem}\n")
            note = first_comment(path)
            if note:
                parts.append(re.sub(r"([|<>*_])", r"\\\1", note) + "\n")
            own = keys(path)
            if own:
                prefix = "" if group in ("experiment", "recipe") else group
                parts.append(table(own, prefix) + "\n")
    parts.append(f"## gdiff train\n\n{TRAINING}\n")
    parts.append(table(keys(folder / "train.yaml")))
    return "\n".join(parts).rstrip() + "\n"


if __name__ == "__main__":
    FILE.write_text(reference(), encoding="utf-8")
    print(FILE)
