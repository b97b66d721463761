"""Configurations: that all of them are whole, and how they become typed experiments."""

import dataclasses
import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from commands import gdiff
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from gdiff import config
from gdiff.dataset.array import Array
from gdiff.dataset.digits import Digits
from gdiff.errors import UserError
from gdiff.experiment import Experiment
from gdiff.sampler.base import SamplerSpec
from gdiff.sampler.methods.ancestral import Ancestral
from gdiff.schedule.base import ScheduleSpec
from gdiff.schedule.las import LAS
from gdiff.score.golden.spec import Golden
from gdiff.train.spec import Training

FILES = sorted(config.config_dir().glob("*/*.yaml"))
OPTIONS = [path for path in FILES if path.parent.name not in ("experiment", "recipe")]
# Groups of trainings alone.
OF_TRAINING = ("network", "recipe")
# Options that mean nothing without a value of the user's.
PAPERS = ("acceleration", "las", "piadm", "short")
OF_NETWORKS = ["score=network", *(f"experiment={name}_network" for name in PAPERS)]
NEEDED = {
    "schedule=levels": ["schedule.levels=[80,20,5,1]"],
    "dataset=array": ["dataset.path=x.npy"],
    "dataset=folder": ["dataset.path=."],
    "dataset=tfds": ["dataset.name=mnist"],
    **{key: ["score.path=net"] for key in OF_NETWORKS},
}


# Groups whose options share keys that the root holds.
SHARED = {"sampler": SamplerSpec, "schedule": ScheduleSpec}


def name_of(path):
    return f"{path.parent.name}={path.stem}"


def composed(*overrides, user_dir=None, kind=Experiment):
    with config.composer(user_dir, kind=kind) as composer:
        return composer.experiment(overrides)


def spec_of(node):
    module, _, name = node["_target_"].rpartition(".")
    return getattr(importlib.import_module(module), name)


def is_preset(path):
    """Whether an option is one of several ways to fill the same spec, and not its plain one."""
    target = yaml.safe_load(path.read_text())["_target_"]
    siblings = [yaml.safe_load(p.read_text())["_target_"] for p in path.parent.glob("*.yaml")]
    plain = (target.split(".")[-2], "default")
    return siblings.count(target) > 1 and path.stem not in plain


def check_node(node, *, has_defaults):
    """A node holds every field of its spec and, unless it is a preset, the field's default."""
    fields = {f.name: f for f in dataclasses.fields(spec_of(node))}
    for group in SHARED:
        if issubclass(spec_of(node), SHARED[group]):
            root = yaml.safe_load((config.config_dir() / "config.yaml").read_text())
            fields = {k: f for k, f in fields.items() if k in node or k not in root[group]}
    assert node.keys() - {"_target_", "defaults"} == fields.keys()
    for key, value in node.items():
        if value == {}:
            assert fields[key].default_factory is dict
        elif isinstance(value, dict):
            check_node(value, has_defaults=True)
        elif key not in ("_target_", "defaults") and has_defaults:
            field = fields[key]
            is_list = field.default_factory is not dataclasses.MISSING
            default = field.default_factory() if is_list else field.default
            assert value == default
            assert type(value) is type(default)


@pytest.mark.parametrize("group", SHARED)
def test_the_root_holds_what_the_options_of_a_group_share_with_its_defaults(group):
    shared = yaml.safe_load((config.config_dir() / "config.yaml").read_text())[group]
    defaults = {f.name: f.default for f in dataclasses.fields(SHARED[group])}
    assert shared == {key: defaults[key] for key in shared}


@pytest.mark.parametrize("path", OPTIONS, ids=name_of)
def test_an_option_holds_exactly_the_fields_of_its_spec_with_their_defaults(path):
    check_node(yaml.safe_load(path.read_text()), has_defaults=not is_preset(path))


@pytest.mark.parametrize("name", ["config", "train"])
def test_a_root_holds_exactly_the_fields_of_its_spec_with_their_defaults(name):
    root = yaml.safe_load((config.config_dir() / f"{name}.yaml").read_text())
    if name == "train":
        check_node(root.pop("train"), has_defaults=True)
        root["defaults"].append({"train": "default"})
    fields = {f.name: f for f in dataclasses.fields(spec_of(root))}
    groups = {key for choice in root["defaults"] if isinstance(choice, dict) for key in choice}
    groups = {key for key in groups if not key.startswith("override")}
    groups -= {"experiment", "recipe"}
    own = root.keys() - {"defaults", "hydra", "_target_", *SHARED}
    assert own | groups == fields.keys()
    assert {key: root[key] for key in own} == {key: fields[key].default for key in own}


@pytest.mark.parametrize("path", [p for p in OPTIONS if not is_preset(p)], ids=name_of)
def test_every_value_is_explained_beside_it(path):
    for line in path.read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() != "_target_" and not key.startswith("#"):
            assert "#" in value, line


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_every_option_builds_and_comes_back_from_its_own_text(path, tmp_path):
    name = name_of(path)
    kind = Training if path.parent.name in OF_TRAINING else Experiment
    experiment = composed(name, *NEEDED.get(name, []), kind=kind)
    (tmp_path / "config.yaml").write_text(config.to_yaml(experiment))
    assert config.load(tmp_path, kind=kind) == experiment


def test_a_dry_run_prints_what_a_run_would_use(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ("schedule=ddpm", "dataset=array", "dataset.path=x.npy", "dataset.classes=[1,2]")
    result = gdiff("sample", "--dry-run", *words)
    assert result.code == 0
    assert [path.name for path in tmp_path.iterdir()] == []
    (tmp_path / "config.yaml").write_text(result.out)
    experiment = config.load(tmp_path)
    assert experiment == composed(*words)
    assert experiment.dataset == Array(path=tmp_path / "x.npy", classes=[1, 2])
    assert experiment.schedule.process.timesteps == 1000


def test_an_experiment_file_sets_options_that_overrides_change():
    experiment = composed("experiment=cifar10_ddim10", "num_samples=3")
    assert (experiment.dataset.name, experiment.num_samples) == ("cifar10", 3)
    indices = np.arange(900, -1, -100)
    assert experiment.grid().tolist() == [*experiment.process.sigma(indices), 0]


def own_groups(folder):
    """A user's configurations, in a folder whose name needs quoting."""
    folder = folder / "it's [mine], a=b"
    (folder / "dataset").mkdir(parents=True)
    (folder / "experiment").mkdir()
    (folder / "dataset" / "mine.yaml").write_text(
        "_target_: gdiff.dataset.array.Array\npath: mine.npy\nscale: none\n"
    )
    (folder / "experiment" / "foo.yaml").write_text(
        "# @package _global_\n"
        "defaults:\n  - override /dataset: mine\n  - override /sampler: ancestral\n"
        "schedule:\n  steps: 5\n"
    )
    return folder


def test_a_users_folder_adds_options_and_experiments(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = own_groups(tmp_path)
    experiment = composed("experiment=foo", "seed=3", user_dir=folder)
    assert experiment.dataset == Array(path=tmp_path / "mine.npy", scale="none")
    assert type(experiment.sampler).__name__ == "Ancestral"
    assert (experiment.schedule.steps, experiment.seed) == (5, 3)
    with pytest.raises(UserError, match=r"Did you mean 'mine'\?.*array.*mine.*moons"):
        composed("dataset=mime", user_dir=folder)


def test_a_users_option_with_the_name_of_ours_is_refused(tmp_path):
    (tmp_path / "dataset").mkdir()
    (tmp_path / "dataset" / "moons.yaml").write_text("_target_: gdiff.dataset.array.Array\n")
    ours = config.config_dir() / "dataset" / "moons.yaml"
    with pytest.raises(UserError, match=rf"{tmp_path}/dataset/moons.yaml .* gdiff has {ours}"):
        composed(user_dir=tmp_path)


def test_a_users_options_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("mine.npy", np.random.default_rng(0).normal(size=(20, 2)))
    words = ("--config-dir", own_groups(tmp_path), "experiment=foo", "metrics=none")
    result = gdiff("sample", "-q", *words, "num_samples=2", "-m", "seed=1,2")
    assert result.code == 0, result.err
    lines = Path(result.last).read_text().splitlines()
    assert [line.partition(",")[0] for line in lines] == ["run", "0", "1", "mean", "se"]


@pytest.mark.parametrize(
    "text, message",
    [
        ("_target_: os.system\npath: x\n", "not inside gdiff"),
        ("_target_: gdiff.sampler.methods.ddim.DDIM\n", "cannot be used there"),
        ("path: x\n", "Digits|no key 'dataset.path'|has no _target_"),
        ("_target_: gdiff.dataset.array.Array\npath:\n  _target_: os.system\n", "is not a path"),
        ("_target_: gdiff.dataset.array.Array\npath: ???\n", "dataset.path is missing"),
        ("_target_: gdiff.dataset.array.Array\npath: ${no}\n", "'no' not found"),
        ("_target_: gdiff.dataset.array.Array\npaht: x\n", "Did you mean 'dataset.path'"),
        ("[1, 2]\n", "is not one of the options of dataset"),
        ("a: [1\n", "expected ',' or ']'"),
    ],
)
def test_a_users_mistake_in_a_file_is_a_users_error(tmp_path, text, message):
    (tmp_path / "dataset").mkdir()
    (tmp_path / "dataset" / "mine.yaml").write_text(text)
    with pytest.raises(UserError, match=message):
        composed("dataset=mine", user_dir=tmp_path)


@pytest.mark.parametrize(
    "words, message",
    [
        ("score=golden score.tolerance=-1", "score.tolerance=-1.0 must be positive"),
        (
            "schedule.sigma_min=90",
            "schedule.sigma_min=90.0 must be below schedule.sigma_max=80.0",
        ),
        (
            "schedule=vp schedule.process.beta_min=-1",
            "schedule.process.beta_min=-1.0 and schedule.process.beta_max=20.0 must be finite .*",
        ),
        ("sampler.tolerance=null", "sampler.tolerance=null .* set sampler.max_sweeps=K"),
        ("dataset=array", "dataset.path is missing: give the .npy or .npz file"),
    ],
)
def test_what_a_class_says_of_its_fields_is_said_of_keys(words, message):
    with pytest.raises(UserError, match=rf"^{message}$"):
        composed(*words.split())


def test_a_target_in_a_users_file_is_not_even_imported(tmp_path):
    (tmp_path / "dataset").mkdir()
    (tmp_path / "dataset" / "mine.yaml").write_text("_target_: antigravity.X\n")
    with pytest.raises(UserError, match="not inside gdiff"):
        composed("dataset=mine", user_dir=tmp_path)


@pytest.mark.parametrize("section", ["handlers", "formatters", "filters"])
def test_logging_of_a_users_own_calls_nothing_else(tmp_path, section):
    (tmp_path / "hydra" / "job_logging").mkdir(parents=True)
    text = yaml.safe_dump({"root": {}, section: {"x": {"()": "os.system"}}})
    (tmp_path / "hydra" / "job_logging" / "mine.yaml").write_text(text)
    with pytest.raises(UserError, match=r"os\.system is not one of logging's own"):
        composed("hydra/job_logging=mine", user_dir=tmp_path)


@pytest.mark.parametrize(
    "target",
    [
        *("gdiff.__main__.main", "gdiff.cli.main.main", "gdiff.notebook.Picture", "gdiff.X"),
        *("gdiff.dataset.base.Dataset", "gdiff.dataset.__main__.X", "gdiff.sampler.steps.Steps"),
    ],
)
def test_a_run_folder_names_only_parts_of_experiments(tmp_path, target):
    text = config.to_yaml(composed("schedule=ddpm"))
    before = set(sys.modules)
    for key in ("schedule.process", "dataset"):
        cfg = OmegaConf.create(text)
        OmegaConf.update(cfg, key, {"_target_": target}, force_add=True)
        OmegaConf.save(cfg, tmp_path / "config.yaml")
        with pytest.raises(UserError, match=f"{key}: _target_={target} cannot be used there"):
            config.load(tmp_path)
    assert set(sys.modules) == before


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "has no _target_|is not a configuration"),
        ("- 1\n", "is not a configuration"),
        ("a: [1\n", "is not a configuration"),
        ("_target_: gdiff.prepared.Experiment\nnum_samples: 3\n", "is missing"),
    ],
)
def test_a_damaged_configuration_of_a_run_is_a_users_error(tmp_path, text, message):
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(UserError, match=message):
        config.load(tmp_path)


@pytest.mark.parametrize("key", ["window: 3", "anderson: 2"])
def test_keys_that_are_no_more_are_dropped_where_they_were_not_used(tmp_path, key):
    experiment = composed("sampler=ddim")
    text = config.to_yaml(experiment)
    old = text.replace("  split: denoiser\n", "  split: denoiser\n  window: null\n  anderson: 0\n")
    assert "anderson" in old
    (tmp_path / "config.yaml").write_text(old)
    assert config.load(tmp_path) == experiment
    (tmp_path / "config.yaml").write_text(text.replace("  split: denoiser\n", f"  {key}\n"))
    expected = rf"^sampler\.{key.replace(': ', '=')}: this option is no more; leave it out$"
    with pytest.raises(UserError, match=expected):
        config.load(tmp_path)


def test_values_take_the_types_of_their_fields():
    experiment = composed("schedule.sigma_max=50", "schedule=edm", "prior.data_variance=2")
    assert isinstance(experiment.schedule.sigma_max, float)
    assert isinstance(experiment.prior.data_variance, float)
    assert experiment.dataset == Digits()


def test_paths_are_relative_to_where_the_command_was_given(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    assert composed("dataset=folder", "dataset.path=a/b").dataset.path == tmp_path / "a" / "b"
    assert composed("dataset=folder", "dataset.path=/c").dataset.path == Path("/c")
    home = composed("dataset=folder", "dataset.path='~/d'").dataset.path
    assert home == tmp_path / "home" / "d"
    bare = composed("dataset=folder", "dataset.path=~/my d").dataset.path
    assert bare == tmp_path / "home" / "my d"
    with config.composer() as composer:
        _, folder = composer.plan(["hydra.run.dir=~/runs"])
    assert folder == tmp_path / "home" / "runs"


def test_differences_are_named_by_their_keys():
    a = composed("seed=1", "sampler=ddim")
    assert config.differences(a, composed("seed=1", "sampler=ddim")) == []
    assert config.differences(a, composed("seed=2", "sampler=ancestral")) == [
        "sampler._target_",
        "sampler.eta",
        "seed",
    ]


FOUND = {
    "sampler": Ancestral(),
    "schedule": LAS(steps=9, sigma_max=5.0, sigma_min=0.002, loss_samples=128),
}
CHOICES = {"sampler": "ancestral", "schedule": "las"}


@pytest.mark.parametrize(
    "words, prior, dropped",
    [
        ((), "gmm", ()),
        (("seed=3", "dataset=moons", "score.rows=host"), "standard", ()),
        (("prior=ppca", "prior.rank=3"), "gmm", ("prior=ppca", "prior.rank=3")),
        (("prior.rank=3", "prior=ppca"), "ppca", ()),
        (("prior.data_variance=2",), "gmm", ("prior.data_variance=2",)),
        (("prior.data_variance=2",), "standard", ()),
        (("schedule=short", "schedule.rho=3"), "dpgmm", ("schedule=short", "schedule.rho=3")),
        (
            ("schedule.horizon=0.4", "schedule.loss_file=x"),
            "gmm",
            ("schedule.horizon=0.4", "schedule.loss_file=x"),
        ),
        (
            ("sampler.eta=0.5", "sampler.block_size=4"),
            "gmm",
            ("sampler.eta=0.5", "sampler.block_size=4"),
        ),
        (("sampler=ancestral", "sampler.block_size=4"), "gmm", ("sampler.block_size=4",)),
        (("sampler=piadm_ode", "+sampler.eta=1"), "gmm", ("sampler=piadm_ode", "+sampler.eta=1")),
        (("score=golden", "score.tolerance=0.5", "score.seed=2"), "gmm", ("score.tolerance=0.5",)),
        (("experiment=mine",), "ppca", ()),
        (("experiment=mine", "prior=gmm"), "gmm", ()),
    ],
    ids=str,
)
def test_overrides_give_other_parts_exactly_and_keep_the_rest(tmp_path, words, prior, dropped):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /schedule: edm\n  - override /prior: ppca\n"
        "num_samples: 3\nschedule:\n  rho: 3\n  steps: 7\nsampler:\n  block_size: 2\n"
    )
    with config.composer(tmp_path) as composer:
        given = composer.experiment([w for w in words if not w.startswith("+")])
        chosen = composer.choice("prior", words) == prior
        parts = FOUND | {
            "prior": given.prior if chosen else composer.experiment([f"prior={prior}"]).prior
        }
        if isinstance(given.score, Golden):
            parts["score"] = dataclasses.replace(given.score, tolerance=0.03)
        wanted = dataclasses.replace(given, **parts)
        found = composer.with_parts(words, CHOICES | {"prior": prior}, wanted)
        assert composer.experiment(found) == wanted
    assert [word for word in words if word not in found] == list(dropped)


def test_hydra_is_left_as_it_was_found():
    with pytest.raises(UserError):
        composed("sampler=nope")
    assert not GlobalHydra.instance().is_initialized()
