"""Pack gdiff and what it needs besides JAX into one folder, for machines without a network.

    python scripts/bundle.py --python 3.12 --without scikit-learn matplotlib

The machine needs Linux, that version of Python, pip and jax; `sh install.sh` in the folder does the
rest. TensorFlow Datasets stays out: data come as files (`dataset=array`, `dataset=folder`).
"""

import argparse
import platform
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Collection, Iterable
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
# Only for the data sets of TFDS, and 30 packages deep.
DATA = ("tensorflow-datasets", "array-record", "importlib-resources")
# Published as source alone, in pure Python: its wheel serves every version.
SOURCES = ("antlr4-python3-runtime",)
MAX_BYTES = 64 * 2**20


def main() -> None:
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", default=here, help="version of the other machine")
    parser.add_argument("--machine", default=platform.machine(), help="x86_64 or aarch64")
    parser.add_argument("--without", nargs="*", default=[], help="packages that are there already")
    parser.add_argument("--folder", type=Path, default=ROOT / "dist" / "bundle")
    args = parser.parse_args()

    direct, needed = packages(args.python, args.without)
    if args.folder.is_dir() and any(args.folder.iterdir()):
        if not (args.folder / "python-version").is_file():
            sys.exit(f"{args.folder} holds something else than a bundle: name a new folder")
        shutil.rmtree(args.folder)
    args.folder.mkdir(parents=True, exist_ok=True)
    (args.folder / "python-version").write_text(f"{args.python}\n")
    download(needed, args.folder, args.python, args.machine)
    (args.folder / "requirements.txt").write_text("".join(f"{each}\n" for each in direct))
    shutil.copy(ROOT / "scripts" / "bundle_install.sh", args.folder / "install.sh")
    size = sum(path.stat().st_size for path in args.folder.iterdir())
    print(
        f"{args.folder}: {len(needed) + 1} wheels for Python {args.python}, {size / 2**20:.1f} MiB"
    )
    if size > MAX_BYTES:
        sys.exit(f"more than {MAX_BYTES // 2**20} MiB: leave packages out by --without")


def packages(python: str, without: Iterable[str] = ()) -> tuple[list[Requirement], list[str]]:
    """What gdiff requires of the other machine, and the names of all packages to pack for it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    direct = [Requirement(each) for each in project["dependencies"]]
    direct = [each for each in direct if canonicalize_name(each.name) not in DATA]
    skipped = closure(["jax"], python) | set(map(canonicalize_name, without))
    return direct, sorted(closure([each.name for each in direct], python, skipped))


def closure(names: Iterable[str], python: str, skipped: Collection[str] = ()) -> set[str]:
    """The packages and all that they need, by the metadata of those installed here."""
    found, todo = set(), list(names)
    while todo:
        name = canonicalize_name(todo.pop())
        if name not in found and name not in skipped:
            found.add(name)
            todo += [each.name for each in needs(name, python)]
    return found


def needs(name: str, python: str) -> list[Requirement]:
    """What a package installed here requires under another version of Python."""
    target = {"python_version": python, "python_full_version": f"{python}.0", "extra": ""}
    required = map(Requirement, distribution(name).requires or [])
    return [each for each in required if each.marker is None or each.marker.evaluate(target)]


def download(names: Iterable[str], folder: Path, python: str, machine: str) -> None:
    """Fetch wheels of the pinned versions, and build that of gdiff."""
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    pinned = ["--constraint", ROOT / "constraints.txt", "--no-deps"]
    # pip takes the tags literally: a wheel for glibc 2.27 is not found under manylinux_2_28.
    tags = [f"manylinux_2_{minor}_{machine}" for minor in range(28, 4, -1)]
    tags += [f"manylinux2014_{machine}", f"manylinux2010_{machine}", f"manylinux1_{machine}"]
    platforms = [f"--platform={tag}" for tag in tags]
    target = ["--only-binary=:all:", f"--python-version={python}", "--implementation=cp"]
    wheels = [name for name in names if name not in SOURCES]
    sources = [name for name in names if name in SOURCES]
    subprocess.run(
        [*pip, "download", *pinned, *target, *platforms, f"--dest={folder}", *wheels], check=True
    )
    for what in (sources, [ROOT]):
        if what:
            subprocess.run([*pip, "wheel", *pinned, f"--wheel-dir={folder}", *what], check=True)


if __name__ == "__main__":
    main()
