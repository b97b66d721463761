"""The documentation: what it shows runs, and what is generated is not stale."""

import re
import shlex
import sys
from pathlib import Path

import configuration_reference
import pytest
import yaml
from commands import gdiff

from gdiff import config
from gdiff.errors import UserError

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").rglob("*.md"))
# Overrides that stand for something of the reader's.
_NOT_HERE = re.compile(
    r"…|DIR|FILE|my_package|-folder|hydra/launcher=submitit|hydra/sweeper|--resume|=NAME"
)
# Commands that take data from elsewhere.
_ELSEWHERE = re.compile(rf"{_NOT_HERE.pattern}|pictures|data prepare|cifar10|dataset=tfds")
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)

pytestmark = pytest.mark.usefixtures("in_empty_folder", "silent")


def blocks(page):
    """Language and text of the blocks of a page."""
    return _BLOCK.findall(page.read_text(encoding="utf-8"))


def commands(page):
    """Words of the commands of gdiff on a page, without comments."""
    lines = [line for kind, text in blocks(page) if kind == "sh" for line in text.splitlines()]
    found = [shlex.split(line, comments=True) for line in lines if line.startswith("gdiff ")]
    return [words[1:] for words in found if not any(map(_NOT_HERE.search, words))]


def run_page(name):
    """Run all Python of a page, and the commands of gdiff between; the last run folder is `run`."""
    space = {}
    for kind, text in blocks(ROOT / "docs" / name):
        if kind == "python":
            exec(compile(text, name, "exec"), space)
        for line in text.splitlines() if kind == "sh" else ():
            if not line.startswith("gdiff ") or _ELSEWHERE.search(line):
                continue
            words = shlex.split(line, comments=True)
            result = gdiff(*words[1:])
            assert result.code == 0, (line, result.err)
            if result.out:
                space["run"] = Path(result.last)


def test_the_configuration_reference_is_that_of_the_configurations():
    written = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert written == configuration_reference.reference(), (
        "run python scripts/configuration_reference.py"
    )


def test_every_key_is_in_the_reference_once_with_its_value_and_comment(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text(
        "# @package _global_\n# About\n_target_: a.B\ndefaults:\n  - x\nn: 1  # how many | few\n"
        "part:\n  inner: [a, b]   # of it\nhydra:\n  run: no\nlast: null\n"
    )
    found = configuration_reference.keys(file)
    assert found == [
        ("n", "1", "how many | few"),
        ("part.inner", "[a, b]", "of it"),
        ("last", "null", ""),
    ]
    assert "| `g.n` | `1` | how many \\| few |" in configuration_reference.table(found, "g")


def test_every_page_is_in_the_navigation():
    class Loader(yaml.SafeLoader):
        """Of a file that may name functions of Python."""

    site = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), Loader)
    named = set(re.findall(r"'([\w/]+\.md)'", str(site["nav"])))
    assert named == {str(page.relative_to(ROOT / "docs")) for page in PAGES}


def test_commands_that_pages_show_can_be_composed():
    refused, count = {}, 0
    with config.composer() as composer:
        for page in [ROOT / "README.md", *PAGES]:
            for words in commands(page):
                overrides = [word for word in words[1:] if re.match(r"[~+]?[\w./]+=[^?]", word)]
                if words[0] not in ("sample", "schedule", "plan"):
                    continue
                # Of a sweep, the first run.
                single = [re.sub(r"=([^\[,]+),.*", r"=\1", word) for word in overrides]
                single = [word for word in single if not word.startswith(("tolerance=", "hydra"))]
                count += 1
                try:
                    composer.experiment(single)
                except UserError as error:
                    refused[" ".join(words)] = f"{page.name}: {error}"
    assert refused == {}
    assert count > 25


def test_a_page_of_python_runs():
    run_page("howto/network.md")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        *("tutorial.md", "howto/data.md", "howto/score.md", "howto/compare.md"),
        *("notebooks/score.md", "notebooks/sampler.md", "notebooks/network.md"),
    ],
)
def test_all_that_a_page_shows_runs(name):
    run_page(name)


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path):
    pytest.importorskip("mkdocs")
    pytest.importorskip("mkdocstrings")
    import subprocess

    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-d", str(tmp_path / "s")]
    found = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    pages = list((tmp_path / "s").rglob("*.html"))
    assert len(pages) >= len(PAGES)
    fetched = re.compile(r"<(?:script|link|img|iframe)[^>]+(?:src|href)=\"?https?:")
    assert [page.name for page in pages if fetched.search(page.read_text())] == []
