import csv
import dataclasses
import json
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from commands import gdiff, sampled

from gdiff import config, figures
from gdiff.artefacts import require_objective
from gdiff.denoiser import Posterior
from gdiff.errors import UserError
from gdiff.metrics import DISTANCES, SCORE_ERRORS
from gdiff.metrics.score_error import CURVE
from gdiff.prepared import ACCOUNT, Prepared
from gdiff.run import run
from gdiff.score.base import ScoreSpec
from gdiff.score.exact import Exact
from gdiff.score.wiener import Wiener
from gdiff.store.outputs import RunFolder
from gdiff.trajectory import Batches, Queries

# Three batches of points of the plane with a score that is not exact.
JOB = (
    *("dataset=moons", "score=wiener", "num_samples=20", "batch_size=8", "schedule.steps=4"),
    *("runtime.mesh=batch:1", "metrics.budget=false"),
)
FILES = {"queries.npz", "score_error.csv", "score_error.png"}


# The run of the module's fixture is drawn.
pytestmark = pytest.mark.usefixtures("in_empty_folder", "silent", "undrawn")


sample = partial(sampled, JOB)


def names(folder):
    return {path.name for path in Path(folder).iterdir()}


def read(folder, name):
    return json.loads(Path(folder, name).read_text())


def rows(path):
    with Path(path).open() as file:
        return list(csv.DictReader(file))


def score_metrics(folder):
    return {k: v for k, v in read(folder, "metrics.json").items() if k.startswith("score_")}


def experiment(*words, **parts):
    with config.composer() as composer:
        return dataclasses.replace(composer.experiment([*JOB, *words]), **parts)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing happened to."""
    return sample(tmp_path_factory.mktemp("whole") / "run")


def test_an_approximate_score_is_measured_by_default(whole):
    assert names(whole) >= FILES
    metrics = read(whole, "metrics.json")
    account = [name for name in ACCOUNT if name in metrics]
    assert list(metrics) == [*account, *DISTANCES, *SCORE_ERRORS]
    assert 1e-3 < metrics["score_relative_error_median"] < metrics["score_relative_error_max"]
    assert read(whole, "run.json")["seconds"]["score error"] > 0
    curve = rows(whole / "score_error.csv")
    assert tuple(curve[0]) == CURVE
    grid = experiment().grid()
    assert [float(row["sigma"]) for row in curve] == grid[:-1].tolist()
    assert {row["error_bound_median"] for row in curve} == {""}
    # The posterior concentrates.
    sizes = [float(row["effective_sample_size"]) for row in curve]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > 1900


def test_queries_are_the_states_of_the_first_samples(whole):
    queries = Queries(**np.load(whole / "queries.npz"))
    assert queries.z.shape == (4, 8, 2)
    sigma = queries.sigma[:, None, None]
    # The last step goes onto zero, where DDIM returns the mean.
    samples = np.load(whole / "samples.npz")["samples"][:8]
    assert np.abs(queries.z[-1] - samples).max() < 10 * sigma[-1].max()
    np.testing.assert_allclose(queries.z[0].std(), sigma[0], rtol=0.5)


@pytest.mark.parametrize(
    "words", [("metrics.score_error=never", "trajectory=true"), ("metrics.score_queries=0",)]
)
def test_samples_are_the_same_bytes_without_the_measurement(whole, words):
    folder = sample("other", *words)
    assert (folder / "samples.npz").read_bytes() == (whole / "samples.npz").read_bytes()
    assert not names(folder) & FILES
    assert not score_metrics(folder)


def test_the_exact_score_is_measured_only_if_asked():
    assert not names(sample("plain", "score=full")) & FILES
    folder = sample("asked", "score=full", "metrics.score_error=always")
    assert names(folder) >= FILES
    assert read(folder, "metrics.json")["score_relative_error_max"] < 1e-4


def test_a_long_grid_is_measured_at_sixteen_levels_with_its_ends():
    curve = rows(sample("long", "schedule.steps=100") / "score_error.csv")
    assert len(curve) == 16
    assert float(curve[0]["sigma"]) == 80
    assert float(curve[-1]["sigma"]) == 0.002


class Crash(BaseException):
    """The end of the world, as far as the process can tell."""


@pytest.mark.parametrize("loses_queries", [False, True])
def test_a_run_whose_first_batch_was_done_measures_the_same(whole, monkeypatch, loses_queries):
    draw = Batches.draw

    def fragile(self, index, *args):
        if index[0] > 0:
            raise Crash
        return draw(self, index, *args)

    monkeypatch.setattr(Batches, "draw", fragile)
    with pytest.raises(Crash):
        gdiff("sample", "-q", *JOB, "hydra.run.dir=run")
    monkeypatch.setattr(Batches, "draw", draw)
    assert len(list(Path("run/chunks").iterdir())) == 1
    if loses_queries:
        Path("run/queries.npz").unlink()
    assert gdiff("sample", "-q", "--resume", "run").code == 0
    assert score_metrics("run") == score_metrics(whole)
    for name in ("samples.npz", "score_error.csv"):
        assert Path("run", name).read_bytes() == (whole / name).read_bytes()


@pytest.mark.parametrize(
    "damage",
    [
        lambda z, sigma: {"z": z[..., :1], "sigma": sigma},
        lambda z, sigma: {"z": z[1:], "sigma": sigma[1:]},
        lambda z, sigma: {"z": z, "sigma": 2 * sigma},
        lambda z, sigma: {"z": z.astype(str), "sigma": sigma},
        lambda z, sigma: {},
    ],
)
def test_damaged_queries_are_drawn_again(whole, damage):
    shutil.copytree(whole, "run")
    np.savez("run/queries.npz", **damage(**dict(np.load("run/queries.npz"))))
    assert gdiff("evaluate", "run").code == 0
    assert score_metrics("run") == score_metrics(whole)


def test_a_finished_run_that_lost_its_curve_gets_it_back(whole):
    shutil.copytree(whole, "run")
    curve = Path("run/score_error.csv")
    expected = curve.read_text()
    curve.unlink()
    assert gdiff("sample", "-q", "--resume", "run").code == 0
    assert curve.read_text() == expected


def test_the_score_of_a_finished_run_can_be_measured_later(whole):
    folder = sample("run", "metrics=none")
    before = (folder / "samples.npz").read_bytes()
    result = gdiff("evaluate", folder, "metrics.enabled=true")
    assert result.code == 0, result.err
    assert "score_relative_error_max" in result.out
    assert score_metrics(folder) == score_metrics(whole)
    assert (folder / "samples.npz").read_bytes() == before
    record = read(folder, "run.json")
    assert record["status"] == "complete"
    assert record["seconds"]["score error"] > 0


def test_fewer_queries_are_the_first_ones_and_more_are_drawn_again(whole):
    shutil.copytree(whole, "run")
    assert gdiff("evaluate", "run", "metrics.score_queries=3").code == 0
    few = score_metrics("run")
    assert few != score_metrics(whole)
    sample("few", "metrics.score_queries=3")
    assert score_metrics("few") == few
    assert gdiff("evaluate", "few", "metrics.score_queries=100").code == 0
    assert score_metrics("few") == score_metrics(whole)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shifted(ScoreSpec):
    """The exact score and a shift, with a bound of half of it, and a probable one of twice."""

    shift: float = 0.1

    def fit(self, data, sigmas=()):
        scan = Exact().fit(data)

        def denoiser(z, sigma):
            ones = 0 * sigma + 1
            return Posterior(
                mean=scan(z, sigma).mean + np.array([self.shift, 0], np.float32),
                error_bound=ones * self.shift / 2,
                likely_bound=ones * self.shift * 2,
                subset_size=(7 * ones).astype(int),
            )

        return denoiser


def test_bounds_and_sizes_of_the_subset_are_compared_where_a_score_gives_them():
    job = experiment(score=Shifted())
    with RunFolder.create(Path("run"), config.to_yaml(job)) as folder:
        metrics = run(job, folder)
    assert metrics["score_error_bound_violations"] == 4 * 8
    assert metrics["score_likely_bound_violations"] == 0
    for row in rows("run/score_error.csv"):
        assert float(row["likely_bound_median"]) == pytest.approx(
            4 * float(row["error_bound_median"]), rel=1e-6
        )
        assert float(row["subset_size"]) == 7


def test_the_errors_of_the_score_are_in_the_table_of_a_sweep():
    words = ("score=wiener,smoothed", "hydra.sweep.dir=s")
    assert gdiff("sample", "-q", "-m", *JOB, *words).code == 0
    errors = [float(row["score_relative_error_max"]) for row in rows("s/sweep.csv")]
    assert len(set(errors)) == 2


def test_an_objective_may_be_an_error_of_the_score_where_it_is_measured():
    for name in SCORE_ERRORS:
        require_objective(experiment(f"objective={name}"))
        for words in (("score=full",), ("metrics.score_error=never",), ("metrics=none",)):
            with pytest.raises(UserError, match="objective="):
                require_objective(experiment(f"objective={name}", *words))
        words = ("score=full", "metrics.score_error=always")
        require_objective(experiment(f"objective={name}", *words))


def test_only_the_exact_scan_in_full_precision_counts_as_exact():
    assert Exact().is_exact
    assert not Exact(precision="default").is_exact
    assert not Wiener().is_exact


@pytest.mark.parametrize("last", [0.0, 0.002])
def test_a_movie_goes_from_the_first_draw_to_the_last_level_of_the_grid(monkeypatch, last):
    seen = {}

    def gif(frames, dataset, sigmas, max_images):
        seen.update(frames=frames, sigmas=sigmas, count=max_images)
        return b""

    monkeypatch.setattr(figures, "trajectory_gif", gif)
    words = ("trajectory=true", "picture_samples=3", f"schedule.to_zero={last == 0}")
    folder = sample("run", *words)
    samples = np.load(folder / "samples.npz")["samples"]
    assert seen["frames"].shape == (5, 3, 2)
    assert seen["count"] == 3
    np.testing.assert_array_equal(seen["frames"][-1], samples[:3])
    assert (seen["sigmas"][0], seen["sigmas"][-1]) == (80, last)


def test_a_long_movie_is_thinned_but_keeps_its_ends(monkeypatch):
    seen = []
    monkeypatch.setattr(
        figures, "trajectory_gif", lambda frames, dataset, sigmas, count: seen.extend(sigmas) or b""
    )
    sample("run", "trajectory=true", "schedule.steps=100", "num_samples=2")
    # Chosen by what changes, so that some of the forty may be the same step.
    assert 20 <= len(seen) <= 40
    assert np.all(np.diff(seen) < 0)
    assert (seen[0], seen[-1]) == (80, 0)


def test_the_record_says_how_samples_become_values_of_the_file(tmp_path):
    times = 1.7e9 + np.random.default_rng(0).uniform(0, 1000, (50, 1))
    np.save(tmp_path / "times.npy", times)
    words = ("dataset=array", f"dataset.path={tmp_path}/times.npy", "score=full", "metrics=none")
    folder = sample(tmp_path / "run", *words)
    data, samples = read(folder, "run.json")["dataset"], np.load(folder / "samples.npz")["samples"]
    assert np.abs(samples).max() < 1.01
    values = np.array(data["shift"]) + data["scale"] * samples
    assert np.min(np.abs(values - times.T), axis=1).max() < 5


@pytest.mark.parametrize(
    "words, is_told",
    [
        (("score=pca_local",), True),
        (("score=pca_local", "dataset.subset=500"), False),
        (("score=pca_local_golden",), False),
        (("score=full",), False),
    ],
)
def test_that_another_score_is_quicker_is_told_where_it_is(words, is_told):
    with config.composer() as composer:
        prepared = Prepared(composer.experiment(["dataset=digits", *words]))
    assert (prepared.advice is not None) == is_told
    assert not is_told or "score=pca_local_golden is many times faster" in prepared.advice
