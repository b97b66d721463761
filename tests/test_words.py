"""Values that look like numbers, and characters that Hydra's grammar has not."""

import csv
import itertools
from pathlib import Path

import numpy as np
import pytest
from commands import gdiff

from gdiff import config

TEXTS = (
    *("2024", "2024_01", "7.10", "true", "False", "1e5", "nan", "-1_0", "007", "a b"),
    *("Bilder_äöü", "写真", "a(1)", "a[1]", "train[:10%]", "x=y", "a'b", "été/[x] & y", "a:b"),
)


def composed(*overrides):
    with config.composer() as composer:
        return composer.experiment(overrides)


@pytest.mark.parametrize("text", TEXTS)
def test_a_path_is_the_text_that_was_typed(text):
    folder = Path.cwd()
    assert composed("dataset=folder", f"dataset.path={text}").dataset.path == folder / text
    job = composed("dataset=array", f"++dataset.path={text}", f"dataset.key={text}")
    assert (job.dataset.path, job.dataset.key) == (folder / text, text)
    with config.composer() as composer:
        assert composer.plan([f"hydra.run.dir={text}"])[1] == folder / text
        assert composer.sweep_dir([f"hydra.sweep.dir={text}"]) == folder / text


def test_a_split_and_names_are_the_text_that_was_typed():
    dataset = composed("dataset=cifar10", "dataset.split=train[:10%]+test").dataset
    assert dataset.split == "train[:10%]+test"
    classes = composed("dataset.classes=[2024_01, 3, true, Käfer, 'a b']").dataset.classes
    assert classes == ["2024_01", 3, "true", "Käfer", "a b"]


def test_what_is_quoted_or_no_text_stays_what_it_is(monkeypatch):
    monkeypatch.setenv("HERE", "/data")
    words = ("dataset=array", "dataset.path=${oc.env:HERE}/x.npy", "dataset.key='1_1'")
    job = composed(*words, "num_samples=1_0", "schedule.sigma_max=1e1", "trajectory=true")
    assert (job.dataset.path, job.dataset.key) == (Path("/data/x.npy"), "1_1")
    assert (job.num_samples, job.schedule.sigma_max, job.trajectory) == (10, 10.0, True)
    assert composed("dataset=array", "dataset.path=~/ä").dataset.path == Path.home() / "ä"


@pytest.mark.parametrize(
    "words",
    [
        ("sample", "dataset=array", "dataset.path=~nobody-here/x.npy"),
        ("sample", "dataset=folder", "dataset.path=~nobody-here"),
        ("sample", "dataset=mnist", "dataset.data_dir=~nobody-here"),
        ("schedule", "dataset=moons", "schedule=las", "schedule.loss_file=~nobody-here/x.csv"),
        ("data", "list", "--data-dir", "~nobody-here"),
    ],
)
def test_the_folder_of_a_user_who_is_not_there_is_one_that_is_not_there(
    tmp_path, monkeypatch, words
):
    monkeypatch.chdir(tmp_path)
    result = gdiff(*words)
    assert result.code == 2
    assert result.err.startswith("error: ")
    assert "~nobody-here" in result.err
    assert result.err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_run_is_continued_where_its_data_are_by_any_name(tmp_path):
    text = config.to_yaml(composed("dataset=array", "dataset.path=x.npy"))
    (tmp_path / "config.yaml").write_text(text)
    for name in ("2024_01", "7.10", "true", "Bilder_ä [1]"):
        job = config.load(tmp_path, [f"dataset.path={name}"])
        assert job.dataset.path == Path.cwd() / name
        with config.composer() as composer:
            assert composer.resumed(tmp_path, [f"dataset.path={name}"]) == job
    assert config.load(tmp_path, ["dataset.path='a b'"]).dataset.path == Path.cwd() / "a b"


def test_a_sweep_over_names_that_look_like_numbers(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("2024_01", "ä[1]"):
        np.savez("x.npz", **{name: np.zeros((4, 2)), "y": np.zeros(4)})
        Path("x.npz").rename(f"{name}.npz")
    words = ("-q", "-m", "dataset=array", "dataset.path=2024_01.npz,ä[1].npz", "seed=1")
    keys = ("dataset.key=2024_01,ä[1]", "hydra.sweep.dir=2024_01", "metrics=none", "num_samples=1")
    result = gdiff("sample", *words, *keys, "schedule.steps=2", "runtime.mesh=batch:1")
    assert result.code == 2
    with Path("2024_01/sweep.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    names = [(row["dataset.path"], row["dataset.key"]) for row in rows]
    assert names == list(itertools.product(("2024_01.npz", "ä[1].npz"), ("2024_01", "ä[1]")))
    assert "2 of 4 runs failed: 1, 2" in result.err
