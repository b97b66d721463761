"""Samples of classes: each from the rows of its own class only."""

import io
import json
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import numpy as np
import pytest
from commands import gdiff
from dataset.errors import one_line
from PIL import Image
from score.exact import posterior

from gdiff import config
from gdiff.dataset import Dataset, DatasetSpec
from gdiff.prepared import Prepared
from gdiff.trajectory import Batches

# Classes 2 and 5 have eleven images each, class 7 has one.
LABELS = np.array([2, 5] * 11 + [7])
NAMES = ("a", "b", "ant", "d", "e", "bee", "g", "cat")
JOB = (
    *("dataset=array", "schedule.steps=3", "sampler=ancestral", "runtime.mesh=batch:1"),
    *("metrics=none", "num_samples=8", "batch_size=8", "condition=each"),
)


def images(labels=LABELS):
    """Each class has its own corner of the range, so that its samples can be told."""
    x = np.random.default_rng(0).uniform(-0.2, 0.2, (len(labels), 4, 4, 1))
    return (x + np.array(labels)[:, None, None, None] / 4 - 1).astype(np.float32)


@pytest.fixture(autouse=True)
def _in_folder_of_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("gdiff.progress._SHOW_AFTER_SECONDS", 3600.0)
    np.savez("data.npz", x=images(), y=LABELS)


def sample(folder, *words):
    given = {word.partition("=")[0] for word in words}
    job = [word for word in JOB if word.partition("=")[0] not in given]
    path = "dataset.path=data.npz"
    result = gdiff("sample", "-q", *job, path, *words, f"hydra.run.dir={folder}")
    assert result.code == 0, result.err
    with np.load(Path(folder, "samples.npz")) as file:
        return file["samples"], file["labels"]


@dataclass(frozen=True, kw_only=True)
class Given(DatasetSpec):
    """Images with named classes."""

    labels: tuple[int, ...] | None = tuple(LABELS.tolist())

    def read(self):
        labels = None if self.labels is None else np.array(self.labels)
        x = images(LABELS if labels is None else labels)
        return Dataset("given", x, labels, NAMES if labels is not None else None)


def prepared(*words, **options):
    with config.composer() as composer:
        experiment = composer.experiment(["runtime.mesh=batch:1", "schedule.steps=3", *words])
    return Prepared(replace(experiment, dataset=Given(**options)))


def test_a_class_has_the_exact_posterior_of_its_rows():
    made = prepared("condition=[ant,7,bee]")
    index, seen = np.arange(7), np.zeros(7, int)
    x = images().reshape(-1, 16).astype(np.float64)
    z = np.random.default_rng(1).standard_normal((7, 4, 4, 1)).astype(np.float32)
    for sigma in (0.05, 0.5, 5.0):
        for part, places in made.parts(index):
            seen[places] += 1
            [label] = set(made.labels(index)[places])
            levels = np.full(len(places), sigma)
            own = z[places].reshape(-1, 16).astype(np.float64)
            mean, trace, log_density = posterior(x[label == LABELS], own, levels)
            found = part.denoiser(z[places], sigma)
            np.testing.assert_allclose(found.mean.reshape(-1, 16), mean, rtol=1e-4, atol=2e-6)
            np.testing.assert_allclose(found.trace_cov, trace, rtol=1e-3, atol=1e-6)
            np.testing.assert_allclose(found.log_density, log_density, rtol=1e-4, atol=1e-3)
    assert made.labels(index).tolist() == [2, 7, 5, 2, 7, 5, 2]
    assert (seen == 3).all()


def test_classes_of_about_one_size_share_programs():
    made = prepared("condition=[2,5]", labels=(2, *LABELS.tolist()))
    [(first, _), (second, _)] = made.parts(np.arange(2))
    assert (len(first.dataset), len(second.dataset)) == (12, 11)
    assert jax.tree.structure(first.denoiser) == jax.tree.structure(second.denoiser)
    x = second.dataset.rows(slice(None)).reshape(11, 16).astype(np.float64)
    z = np.random.default_rng(1).standard_normal((3, 4, 4, 1)).astype(np.float32)
    mean, _, density = posterior(x, z.reshape(-1, 16).astype(np.float64), np.full(3, 2.0))
    found = second.denoiser(z, 2.0)
    np.testing.assert_allclose(found.mean.reshape(-1, 16), mean, rtol=1e-4, atol=2e-6)
    np.testing.assert_allclose(found.log_density, density, rtol=1e-4)
    centred = np.linalg.norm(x - x.mean(0), axis=1)
    assert second.data.rows.radius == pytest.approx(centred.max(), rel=1e-5)


def test_noise_levels_and_masks_are_those_of_all_rows():
    made = prepared("score=pca_local", "condition=each")
    [(first, _), (_, _), (last, _)] = made.parts(np.arange(3))
    assert first.grid is last.grid is made.grid
    assert first.dataset.whole is last.dataset.whole is made.dataset
    alike = zip(first.denoiser.masks.words, last.denoiser.masks.words, strict=True)
    assert all(np.array_equal(a, b) for a, b in alike)


def test_samples_are_of_their_classes_in_turn_and_say_so():
    samples, labels = sample("run")
    assert labels.tolist() == [2, 5, 7, 2, 5, 7, 2, 5]
    known = images()
    low, high = known.min(), known.max()
    known = (2 * known - low - high) / (high - low)
    gaps = np.abs(samples[:, None] - known).max((2, 3, 4))
    assert (LABELS[gaps.argmin(1)] == labels).all()
    assert gaps.min(1).max() < 1e-4
    assert json.loads(Path("run/run.json").read_text())["dataset"]["condition"] == ["2", "5", "7"]
    assert Image.open("run/grid.png").size[0] > 100
    _, labels = sample("other", "condition=[7,2,2]")
    assert labels.tolist() == [7, 2, 2, 7, 2, 2, 7, 2]


def test_a_sample_of_a_class_is_what_it_is_without_the_others():
    words = ("dataset.scale=none", "runtime.x64=true", "score=wiener")
    together, labels = sample("together", *words)
    for label in (2, 5):
        job = [word for word in JOB if word != "condition=each"]
        words_alone = ("dataset.path=data.npz", f"dataset.classes=[{label}]", *words)
        assert gdiff("sample", "-q", *job, *words_alone, f"hydra.run.dir={label}").code == 0
        with np.load(f"{label}/samples.npz") as alone:
            is_own = labels == label
            np.testing.assert_allclose(together[is_own], alone["samples"][is_own], atol=1e-10)


@pytest.mark.parametrize(
    "words", [("batch_size=3",), ("batch_size=1",), ("runtime.mesh=data:2/batch:2",)]
)
def test_samples_do_not_depend_on_batches_or_devices(words, whole):
    samples, labels = sample("run", "runtime.x64=true", "score=wiener", *words)
    np.testing.assert_allclose(samples, whole[0], atol=1e-10)
    np.testing.assert_array_equal(labels, whole[1])


def test_exact_samples_do_not_depend_on_where_rows_are():
    words = ("num_samples=4", "batch_size=2", "condition=[2,5]")
    expected, _ = sample("whole", *words)
    for number, more in enumerate(["runtime.mesh=data:2/batch:2", "score.rows=host"]):
        samples, _ = sample(f"{number}", *words, more)
        np.testing.assert_allclose(samples, expected, atol=1e-5)


@pytest.fixture
def whole():
    return sample("whole", "runtime.x64=true", "score=wiener")


def test_parallel_steps_give_the_same_samples(whole):
    words = ("sampler.block_size=all", "sampler.tolerance=1e-12")
    samples, _ = sample("run", "runtime.x64=true", "score=wiener", *words)
    np.testing.assert_allclose(samples, whole[0], atol=1e-6)


@pytest.mark.parametrize("words", [(), ("batch_size=2",)])
def test_an_interrupted_run_goes_on(monkeypatch, words):
    sample("whole", "batch_size=3", "score=wiener")
    draw, calls = Batches.draw, []

    class CrashError(BaseException):
        pass

    def fragile(self, *args):
        calls.append(1)
        if len(calls) > 4:  # in the middle of the second batch
            raise CrashError
        return draw(self, *args)

    with monkeypatch.context() as patched:
        patched.setattr(Batches, "draw", fragile)
        with pytest.raises(CrashError):
            sample("run", "batch_size=3", "score=wiener")
    assert len(list(Path("run/chunks").iterdir())) == 1
    result = gdiff("sample", "-q", "--resume", "run", *words)
    assert result.code == 0, result.err
    with np.load("run/samples.npz") as found, np.load("whole/samples.npz") as expected:
        assert found["labels"].tolist() == expected["labels"].tolist()
        np.testing.assert_allclose(found["samples"], expected["samples"], atol=1e-5)
    if not words:
        assert Path("run/samples.npz").read_bytes() == Path("whole/samples.npz").read_bytes()


def test_scores_are_measured_against_the_posterior_of_the_class():
    words = ("metrics=default", "metrics.score_error=always", "metrics.budget=true")
    words += ("trajectory=true", "batch_size=5")
    result = gdiff(
        *("sample", *(word for word in JOB if word not in ("metrics=none", "batch_size=8"))),
        *("dataset.path=data.npz", *words, "hydra.run.dir=run"),
    )
    assert result.code == 0, result.err
    assert result.err.count("no account in nats") == 1
    metrics = json.loads(Path("run/metrics.json").read_text())
    assert metrics["score_relative_error_max"] < 1e-5
    assert not Path("run/budget.json").exists()
    assert Path("run/neighbours.png").is_file()
    Path("run/queries.npz").unlink()
    assert gdiff("evaluate", "run").code == 0
    again = json.loads(Path("run/metrics.json").read_text())
    assert again["score_relative_error_max"] < 1e-5


@pytest.mark.parametrize("prior", ["gaussian", "ppca", "gmm", "dpgmm", "empirical", "flow"])
def test_priors_are_those_of_the_class(prior):
    words = ("prior.steps=2", "prior.couplings=1") if prior == "flow" else ()
    made = prepared(f"prior={prior}", "schedule.sigma_max=0.5", "condition=[cat,ant]", *words)
    [(several, _), (one, _)] = made.parts(np.arange(2))
    centre = images()[LABELS == 7].ravel()
    z = centre.reshape(1, 4, 4, 1) + 0.3
    exact = -0.5 * 16 * (0.3 / 0.5) ** 2 - 8 * np.log(2 * np.pi * 0.5**2)
    np.testing.assert_allclose(one.prior.log_prob(z), exact, rtol=1e-3)
    assert several.prior.log_prob(z)[0] < exact - 10


@pytest.mark.parametrize(
    "condition, options, parts",
    [
        ("each", {"labels": None}, ("condition=each", "no labels", "condition=null")),
        ("[0]", {"labels": None}, ("no labels", "condition=null")),
        ("[ants]", {}, ("condition=['ants']", "no class 'ants'", "did you mean 'ant'?")),
        ("[9]", {}, ("condition=[9]", "has 3 classes, numbered 2, 5, 7")),
        ("[3]", {}, ("no points of class 3",)),
        ("[ant]", {"classes": ["bee"]}, ("no points of class ant", "dataset.classes leaves out")),
    ],
)
def test_what_classes_there_are_not_is_told_in_one_line(condition, options, parts):
    made = prepared(f"condition={condition}", **options)
    with one_line(*parts):
        _ = made.batches


@pytest.mark.parametrize("value", ["cat", "3", "[]", "true"])
def test_a_condition_is_each_or_a_list(value):
    result = gdiff("sample", "-q", f"condition={value}", "hydra.run.dir=run")
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert "condition=" in result.err
    assert "list of classes" in result.err
    assert not Path("run").exists()


@pytest.mark.parametrize(
    "words", [("plan", "tolerance=1"), ("bench",), ("bench", "score=full,wiener")]
)
def test_what_is_about_the_whole_refuses_a_condition(words):
    result = gdiff(*words, "condition=each")
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert f"gdiff {words[0]} is about the data as a whole" in result.err


def test_few_classes_are_kept_where_they_are_large(monkeypatch):
    made = prepared("condition=each")
    monkeypatch.setattr("gdiff.prepared._KEPT_BYTES", 1)
    for part, _ in made.parts(np.arange(6)):
        _ = part.denoiser
        assert len(made._classes) <= 2
    monkeypatch.undo()
    kept = [part for part, _ in made.parts(np.arange(6))]
    assert [part for part, _ in made.parts(np.arange(6))] == kept


def test_a_picture_has_a_row_a_class_with_its_name(monkeypatch):
    from gdiff import figures

    data = Given().load()
    x, labels = images()[[0, 1, 2, 3]], np.array([2, 5, 2, 5])
    picture = np.asarray(Image.open(io.BytesIO(figures.picture(x, data, labels=labels))))
    swapped = figures.picture(x[[1, 0, 3, 2]], data, labels=labels[[1, 0, 3, 2]])
    swapped = np.asarray(Image.open(io.BytesIO(swapped)))
    half = len(picture) // 2
    np.testing.assert_array_equal(picture[:half], swapped[half:])
    np.testing.assert_array_equal(picture[half:], swapped[:half])
    assert (picture[:15] < 100).any()  # a name
