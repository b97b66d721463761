"""Who may import whom: rooms stand in a row, and imports point down it."""

import ast
from collections import defaultdict
from pathlib import Path

import pytest

import gdiff

ROOT = Path(gdiff.__file__).parent

# The ground floor, open to every room; nothing on it knows any room but errors.
GROUND = {"", "errors", "progress", "rng", "denoiser", "memory"}
# What each room may import, besides itself and the ground floor.
ROOMS = {
    "__main__": {"cli"},
    "cli": {
        *("artefacts", "train"),
        *(
            "config",
            "run",
            "experiment",
            "prepared",
            "store",
            "report",
            "bench",
            "dataset",
            "study",
        ),
        *("parallel", "runs", "figures"),
    },
    "config": {"experiment", "dataset", "store", "train"},
    "train": {
        *(
            "experiment",
            "prepared",
            "network",
            "dataset",
            "parallel",
            "store",
            "runtime",
            "process",
            "figures",
        ),
        *("budget", "sampler", "schedule", "prior", "score", "metrics"),
    },
    "notebook": {
        *(
            "experiment",
            "prepared",
            "dataset",
            "kernels",
            "metrics",
            "parallel",
            "prior",
            "process",
            "runtime",
        ),
        *("sampler", "schedule", "score", "figures"),
    },
    "priors": {"prior"},
    "processes": {"process"},
    "samplers": {"sampler"},
    "schedules": {"schedule"},
    "scores": {"score"},
    "report": {"runs", "figures", "store", "config", "dataset", "parallel"},
    "runs": {"store"},
    "bench": {
        *(
            "experiment",
            "prepared",
            "dataset",
            "sampler",
            "parallel",
            "report",
            "score",
            "trajectory",
        ),
        *("metrics", "schedule", "process", "runtime", "kernels"),
    },
    "study": {
        *(
            "experiment",
            "prepared",
            "budget",
            "report",
            "figures",
            "store",
            "schedule",
            "prior",
            "score",
        ),
        *("trajectory", "metrics", "sampler", "dataset"),
    },
    "run": {
        *(
            "artefacts",
            "clock",
            "experiment",
            "prepared",
            "store",
            "kernels",
            "parallel",
            "sampler",
            "runtime",
        ),
    },
    "artefacts": {
        *(
            "experiment",
            "prepared",
            "store",
            "figures",
            "metrics",
            "budget",
            "trajectory",
            "parallel",
        ),
    },
    "prepared": {
        *("budget", "metrics", "score", "schedule", "prior", "sampler", "process", "trajectory"),
        *("clock", "dataset", "runtime", "kernels", "experiment"),
    },
    "experiment": {
        *("dataset", "metrics", "prior", "process", "runs", "runtime", "sampler", "schedule"),
        "score",
    },
    "budget": {"dataset", "parallel", "score", "schedule", "prior", "sampler", "store"},
    "trajectory": {"sampler", "prior", "parallel", "clock", "store"},
    "figures": {"dataset", "metrics"},
    "prior": {"dataset", "parallel", "score", "kernels", "store"},
    "score": {"dataset", "kernels", "parallel", "store", "network"},
    "network": {"store"},
    "schedule": {"process"},
    "sampler": {"parallel"},
    "metrics": {"dataset", "store"},
    "dataset": {"kernels", "parallel", "store"},
    "kernels": {"parallel"},
    "runtime": {"parallel", "store"},
    "store": {"parallel"},
    "parallel": set(),
    "process": set(),
    "clock": set(),
}
# Libraries that one room alone knows, and those that must not be imported with a module.
OWNED = {"hydra": {"config"}, "omegaconf": {"config"}, "typer": {"cli"}}
LAZY = {
    "tensorflow_datasets",
    "sklearn",
    "matplotlib",
    "PIL",
    "torch",
    "faiss",
    "pykeops",
    "diffusers",
    "tensorboardX",
    "mlflow",
}


def room_of(module):
    """The room of a dotted name within gdiff: gdiff.score.exact → score."""
    return [*module.split("."), ""][1]


def modules():
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        yield ".".join(parts).removesuffix(".__init__"), path


def imports(path, *, top_level=False):
    """Dotted names that a file imports, those for type checkers aside."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            node.body = []
    nodes = tree.body if top_level else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            is_folder = (ROOT.parent / node.module.replace(".", "/")).is_dir()
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                is_module = is_folder and inner in ALL
                yield inner if is_module else node.module


ALL = {name for name, _ in modules()}


def test_every_room_is_in_the_table():
    assert {room_of(name) for name in ALL} == ROOMS.keys() | GROUND


@pytest.mark.parametrize("name, path", list(modules()))
def test_imports_point_down(name, path):
    room = room_of(name)
    used = {room_of(other) for other in imports(path) if other.split(".")[0] == "gdiff"}
    allowed = {"errors"} if room in GROUND else ROOMS[room] | GROUND
    assert used <= allowed | {room}


def test_there_are_no_circles_between_rooms():
    below = defaultdict(set)
    for name, path in modules():
        for other in imports(path, top_level=True):
            if other.startswith("gdiff.") and room_of(other) != room_of(name):
                below[room_of(name)].add(room_of(other))
    finished = set()

    def visit(room, above):
        assert room not in above, f"a circle: {' → '.join([*above, room])}"
        if room not in finished:
            for other in below[room]:
                visit(other, [*above, room])
            finished.add(room)

    for room in list(below):
        visit(room, [])


@pytest.mark.parametrize("library", OWNED)
def test_a_library_is_known_to_one_room(library):
    users = {
        room_of(name)
        for name, path in modules()
        for other in imports(path)
        if other.split(".")[0] == library
    }
    assert users == OWNED[library]


@pytest.mark.parametrize("name, path", list(modules()))
def test_heavy_libraries_are_imported_where_they_are_used(name, path):
    assert not {other.split(".")[0] for other in imports(path, top_level=True)} & LAZY


def test_nobody_imports_tensorflow():
    for name, path in modules():
        assert not any(other.split(".")[0] == "tensorflow" for other in imports(path)), name
