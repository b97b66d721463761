"""The options of the group say what the specs say."""

import dataclasses
import importlib
from pathlib import Path

import pytest
import yaml

CONFIGS = sorted((Path(__file__).parents[2] / "configs" / "dataset").glob("*.yaml"))
# Where an option is a case of a more general spec, it differs from it in these.
OWN = {
    "mnist": {"name"},
    "fashion_mnist": {"name"},
    "cifar10": {"name"},
    "celeb_a": {"name", "resolution"},
    "imagenet64": {"name"},
    "tiny_imagenet": {"name"},
}


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_an_option_lists_every_field_with_its_default_and_a_comment(file):
    option = yaml.safe_load(file.read_text())
    module, name = option.pop("_target_").rsplit(".", 1)
    spec = getattr(importlib.import_module(module), name)
    defaults = {field.name: field.default for field in dataclasses.fields(spec)}
    assert set(option) == set(defaults)
    own = OWN.get(file.stem, set())
    assert {k: v for k, v in option.items() if k not in own} == {
        k: v for k, v in defaults.items() if k not in own
    }
    lines = file.read_text().splitlines()
    assert lines[0].startswith("# ")
    assert all(" # " in line for line in lines[2:] if not line.startswith("name: "))
    assert all(len(line) <= 100 for line in lines)
