"""Parts of the user's own package: found and used if the user says so, and only then."""

import json
import re
import shutil
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
import yaml
from commands import gdiff, start

from gdiff import config
from gdiff.errors import UserError

HERE = Path(__file__).parent / "plugin"
OPTIONS = HERE / "tiny_parts" / "configs"
GROUPS = sorted(path.name for path in OPTIONS.iterdir() if path.name != "metrics")
ALL = [f"{group}=mine" for group in GROUPS]
JOB = (
    *("sample", "-q", "--plugin", "tiny_parts", *ALL, "dataset.path=points.txt"),
    *("num_samples=4", "schedule.steps=3", "runtime.mesh=batch:1", "metrics=none"),
)

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture(autouse=True)
def _in_the_users_folder(tmp_path, monkeypatch):
    """With the package and some data in it."""
    shutil.copytree(HERE, tmp_path, dirs_exist_ok=True)
    np.savetxt(tmp_path / "points.txt", np.random.default_rng(0).normal(size=(50, 2)))
    monkeypatch.chdir(tmp_path)
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "tiny_parts"]:
        del sys.modules[name]


def refused(*words):
    result = gdiff(*words)
    assert result.code == 2, result
    assert re.fullmatch(r"error: [^\n]+\n", result.err), result.err
    return result.err


@pytest.fixture
def installed(monkeypatch):
    """The package is installed, and says that it is a plug-in."""
    monkeypatch.syspath_prepend(HERE)
    point = EntryPoint("tiny", "tiny_parts", "gdiff.plugins")
    monkeypatch.setattr(
        "gdiff.config.sources.entry_points", lambda group: [point] if group == point.group else []
    )


def test_a_run_of_parts_of_the_users_own():
    assert gdiff(*JOB, "prior.factor=2", "hydra.run.dir=run").code == 0
    saved = yaml.safe_load(Path("run/config.yaml").read_text())
    assert all(saved[group]["_target_"].startswith(f"tiny_parts.{group}.") for group in GROUPS)
    assert (saved["prior"]["factor"], saved["seed"]) == (2.0, 0)
    record = json.loads(Path("run/run.json").read_text())
    assert (record["status"], record["dataset"]["points"]) == ("complete", 50)
    np.testing.assert_allclose(record["sigma"][1], ((80**0.25 + 0.002**0.25) / 2) ** 4)


def test_they_are_used_from_the_command_in_its_own_process(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONSAFEPATH", "1")  # the folder is on no search path but by --plugin
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "tiny_parts").rename(tmp_path / "elsewhere" / "tiny_parts")
    words = ("dataset.path=../points.txt", "hydra.run.dir=run")
    process = start(*JOB, *words, cwd=tmp_path / "elsewhere")
    out, err = process.communicate()
    assert (process.returncode, out, err) == (0, "run\n", "")


def test_a_metric_of_the_users_own_stands_beside_the_others():
    words = [word for word in JOB if word != "metrics=none"]
    brief = ("metrics.budget=false", "metrics.score_error=never", "metrics.projections=8")
    named = ("objective=norm_quantile", "hydra.run.dir=run")
    result = gdiff(*words, "metrics=mine", *brief, *named)
    assert result.code == 0, result.err
    found = json.loads(Path("run/metrics.json").read_text())
    assert list(found)[-1] == "norm_quantile"
    assert "kid_pca" in found
    again = ("evaluate", "run", "--plugin", "tiny_parts")
    assert gdiff(*again, "metrics.others.quantile.level=1").code == 0
    other = json.loads(Path("run/metrics.json").read_text())
    assert other["norm_quantile"] != found["norm_quantile"]
    saved = yaml.safe_load(Path("run/config.yaml").read_text())["metrics"]["others"]
    assert saved == {"quantile": {"_target_": "tiny_parts.metric.Quantile", "level": 0.5}}


@pytest.mark.parametrize(
    "others, message",
    [
        ("{a: 3}", "metrics.others.a=3 must have a _target_"),
        ("{a: {}}", "metrics.others.a has no _target_"),
        ("{a: {_target_: gdiff.prior.standard.Standard}}", "metrics.others.a: .* be used there"),
        ("{a: {_target_: gdiff.metrics.neighbours.NearestNeighbours}}", "gives nn_distance, copy"),
        ("{a: {_target_: tiny_parts.metric.Quantile, lvl: 1}}", "metrics.others.a.level"),
        ("{a: {_target_: tiny_parts.metric.Quantile, level: x}}", "others.a.level=x is not a num"),
        ("3", "metrics.others=3"),
    ],
)
def test_metrics_that_are_none_are_refused_by_name(others, message):
    with (
        config.composer(plugins=["tiny_parts"]) as composer,
        pytest.raises(UserError, match=message),
    ):
        composer.experiment([f"++metrics.others={others}"])


def test_a_sweep_uses_them_too():
    result = gdiff(*JOB, "-m", "score.variance=1,2", "hydra.sweep.dir=s")
    assert result.code == 0, result.err
    first, second = (np.load(f"s/{k}/samples.npz")["samples"] for k in (0, 1))
    assert np.abs(first - second).max() > 1e-3


def test_a_run_folder_alone_is_not_believed(tmp_path):
    (tmp_path / "tiny_parts" / "prior.py").write_text("open('imported', 'w')\n")
    Path("run").mkdir()
    with config.composer() as composer:
        text = config.to_yaml(composer.experiment(["prior=standard"]))
    Path("run/config.yaml").write_text(text.replace("gdiff.prior.standard.", "tiny_parts.prior."))
    for words in (("evaluate", "run"), ("sample", "--resume", "run")):
        expected = "prior: _target_=tiny_parts.prior.Standard is not inside gdiff: if you trust "
        assert f"{expected}that package, add --plugin tiny_parts\n" in refused(*words)
    assert not Path("imported").exists()


def test_a_finished_run_is_resumed_and_evaluated_with_them():
    assert gdiff(*JOB, "hydra.run.dir=run").code == 0
    assert gdiff("sample", "-q", "--resume", "run", "--plugin", "tiny_parts").code == 0
    words = ("metrics.enabled=true", "metrics.budget=false", "metrics.score_error=never")
    result = gdiff("evaluate", "run", "--plugin", "tiny_parts", *words)
    assert result.code == 0, result.err
    assert "sliced_w2" in result.out


@pytest.mark.usefixtures("installed")
def test_an_installed_package_says_of_itself_that_it_is_a_plug_in(tmp_path):
    shutil.rmtree(tmp_path / "tiny_parts")
    with config.composer() as composer:
        found = composer.experiment([*ALL, "dataset.path=points.txt"])
    Path("config.yaml").write_text(config.to_yaml(found))
    assert config.load(Path()) == found
    assert type(found.sampler).__module__ == "tiny_parts.sampler"


@pytest.mark.parametrize(
    "words",
    [
        ("data", "info", "--plugin", "tiny_parts", "dataset=mine", "dataset.path=points.txt"),
        ("sample", "--dry-run", *JOB[2:]),
    ],
    ids=lambda words: words[0],
)
def test_other_verbs_take_them(words):
    result = gdiff(*words)
    assert result.code == 0, result.err
    assert "points" in result.out


def test_the_groups_options_are_those_of_the_package_too():
    with (
        config.composer(plugins=["tiny_parts"]) as composer,
        pytest.raises(UserError, match=r"Did you mean 'mine'\?.*full.*mine.*wiener"),
    ):
        composer.experiment(["score=mime"])


def test_the_search_path_is_left_as_it_was():
    before = list(sys.path)
    with config.composer(plugins=["tiny_parts"]) as composer:
        composer.experiment(["score=mine"])
    assert sys.path == before


@pytest.mark.parametrize(
    "target, message",
    [
        ("tiny_parts.prior.Wide", "cannot be used there"),
        ("tiny_parts.score._shrunk", "cannot be used there"),
        ("tiny_parts.score.ScoreSpec", "cannot be used there"),
        ("tiny_parts.score.Nope", "does not exist"),
        ("tiny_parts.nope.Nope", "does not exist"),
        ("tiny_parts.broken.Score", r"cannot be imported \(NameError: name 'oops' is not defined"),
        ("tiny_parts.lacking.Score", "cannot be imported .ModuleNotFoundError: .*'not_there'"),
        ("tiny_partsy.Score", "add --plugin tiny_partsy"),
    ],
)
def test_only_whole_parts_of_the_right_kind_are_used(target, message):
    Path("tiny_parts/broken.py").write_text("oops\n")
    Path("tiny_parts/lacking.py").write_text("import not_there\n")
    with (
        config.composer(plugins=["tiny_parts"]) as composer,
        pytest.raises(UserError, match=message),
    ):
        composer.experiment([f"score._target_={target}"])


@pytest.mark.parametrize("name", ["nope", "./tiny_parts", "", "tiny_parts.nope", "no.such.thing"])
def test_a_package_that_is_not_there_is_refused(name):
    assert f"--plugin {name}: there is no package" in refused("sample", "--plugin", name)


def test_an_option_of_the_name_of_ours_is_refused():
    ours = config.config_dir() / "score" / "full.yaml"
    theirs = Path("tiny_parts/configs/score/full.yaml")
    theirs.write_text("_target_: tiny_parts.score.Shrunk\n")
    message = f"{theirs.absolute()} would be ignored, since gdiff has {ours}"
    assert message in refused("sample", "--plugin", "tiny_parts")
