import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from commands import gdiff

from gdiff import config, report
from gdiff.bench import harness, scores
from gdiff.bench.harness import exact_states, in_turn, medians, ratios
from gdiff.bench.scores import measure_scores, numbers_of, overrides_by_score
from gdiff.errors import UserError
from gdiff.prepared import Prepared

# The same shapes and devices in all tests, which then share what they compile; the devices do not
# divide five queries.
SMALL = ("dataset=two_points", "schedule=ddpm", "schedule.steps=3", "runtime.mesh=data:2/batch:2")


pytestmark = pytest.mark.usefixtures("silent")


def refused(*words):
    result = gdiff("bench", *words)
    assert (result.code, result.err.count("\n")) == (2, 1)
    return result.err


def experiments(*words):
    with config.composer() as composer:
        return {name: composer.experiment([f"score={name}", *words]) for name in ("full", "wiener")}


def test_one_score_is_measured_against_its_products(tmp_path):
    file = tmp_path / "bench.json"
    result = gdiff("bench", *SMALL, "--queries", "5", "--repeats", "1", "-o", file)
    assert result.code == 0, result.err
    assert "rate/product" in result.out
    numbers = json.loads(file.read_text())
    assert numbers["score"]["product_gflops"] > 0
    assert numbers["score"]["sigma=1 rate/product"] > 0
    assert numbers["job"]["outside_kernels"] < 1


def test_several_scores_are_compared_level_by_level(tmp_path):
    words = ("score=wiener,full", "score.rank=1", *SMALL)
    file = tmp_path / "bench.json"
    result = gdiff("bench", *words, "--queries", "5", "--repeats", "1", "-o", file)
    assert result.code == 0, result.err
    numbers = json.loads(file.read_text())
    found = numbers["scores"]
    assert list(found) == ["wiener", "full"]
    for score in found.values():
        assert np.shape(score["seconds"]) == np.shape(score["times_faster"]) == (3,)
        assert score["total_seconds"] == pytest.approx(sum(score["seconds"]))
        assert score["calls"] == [1, 1, 1]
    assert found["wiener"]["times_faster"] == [1, 1, 1]
    ratio = found["wiener"]["seconds"][0] / found["full"]["seconds"][0]
    assert found["full"]["times_faster"][0] == pytest.approx(ratio)
    assert found["full"]["relative_error_max"] is None
    assert len(found["wiener"]["relative_error_max"]) == len(numbers["sigma"]) == 3
    assert (result.out.count("wiener"), result.out.count("full")) == (3, 1)


def test_ten_ddpm_levels_are_the_default_for_several_scores(monkeypatch):
    compared = []
    monkeypatch.setattr(harness, "present", lambda _, found, *__, **___: compared.append(found))

    def grid_of(*words):
        assert gdiff("bench", "score=full,wiener", *words).code == 0
        return compared[-1]["wiener"].grid().tolist()

    def expected(*words):
        return experiments(*words)["full"].grid().tolist()

    assert grid_of("seed=1") == expected("schedule=ddpm", "schedule.steps=10")
    assert grid_of("schedule.steps=3") == expected("schedule.steps=3")
    assert grid_of("experiment=cifar10_ddim10", "dataset=moons", "schedule.steps=4") == expected(
        "schedule=ddpm", "schedule.steps=4"
    )


def test_slow_scores_are_marked(capsys):
    first = [np.array([2.0, 4.0, 6.0])]
    full = numbers_of(first, first) | {"relative_error_max": None}
    wiener = numbers_of([np.array([8.0])], first) | {"relative_error_max": [0.125]}
    problem = {"dataset": "d", "points": 1, "dim": 2, "queries": 3, "repeats": 3, "sigma": [1.0]}

    def shown(**found):
        for table in scores.tables(problem | {"scores": found}):
            report.show(table)
        return capsys.readouterr().out

    text = shown(full=full, wiener=wiener)
    assert text.count("8*") == 2
    assert text.count("*") == 3
    assert "0.5" in text
    assert text.count("0.12") == 2  # of the level, and the largest
    assert "*" not in shown(full=full)


def test_turns_call_a_slow_task_once_and_the_others_side_by_side(monkeypatch):
    calls, settled = [], []
    clock = iter(np.cumsum([0, 9] + [0, 1] * 100))  # the first call is the slow one
    monkeypatch.setattr(harness.time, "perf_counter", lambda: float(next(clock)))

    def task(name):
        def call():
            calls.append(name)
            return jnp.array(float(len(calls)))

        return call

    timed = in_turn({name: task(name) for name in "abc"}, 2, settled.append)
    assert "".join(calls) == "abc" + "bc" + "bc"
    assert sum(settled) == 3 * (1 + 2)
    assert timed["a"].seconds.tolist() == [9]
    assert timed["b"].seconds.tolist() == [1, 1]
    assert [float(each.result) for each in timed.values()] == [1, 2, 3]


def test_ratios_are_medians_over_rounds_and_a_single_call_stands_for_all():
    first = [np.array([2.0, 4.0, 6.0]), np.array([1.0, 1.0, 1.0])]
    other = [np.array([1.0, 1.0, 6.0]), np.array([1.0, 1.0, 2.0])]
    once = [np.array([8.0]), np.array([1.0, 1.0, 1.0])]
    assert ratios(first, other) == [2, 1, 1.5]
    assert ratios(first, once) == [0.5, 1, pytest.approx(5 / 9)]
    assert ratios(once, first) == [2, 1, pytest.approx(9 / 5)]
    assert medians(once) == [8, 1, 9]


def test_queries_are_the_states_of_a_run_with_the_exact_score(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = (*SMALL, "num_samples=8", "metrics.score_error=always")
    assert gdiff("sample", "-q", *words, "hydra.run.dir=run").code == 0
    experiment = experiments(*words)["full"]
    queries = exact_states(Prepared(experiment), 8)
    with np.load(Path("run", "queries.npz")) as file:
        np.testing.assert_array_equal(queries.sigma, file["sigma"])
        np.testing.assert_allclose(queries.z, file["z"], rtol=1e-5, atol=1e-5)


def test_errors_are_relative_to_the_exact_mean():
    compared = experiments(*SMALL)
    prepared = Prepared(compared["full"])
    queries = exact_states(prepared, 5)
    found = measure_scores(compared, prepared, queries, 1)
    z, variance = queries.z[..., 0].astype(float), queries.sigma[:, None] ** 2
    mean = np.tanh(z / variance)
    error = np.abs(z / (1 + variance) - mean) / np.abs(mean)
    np.testing.assert_allclose(found["wiener"]["relative_error_max"], error.max(axis=1), rtol=1e-3)
    assert found["full"]["relative_error_max"] is None


def test_an_override_of_a_key_reaches_the_scores_that_have_it():
    with config.composer() as composer:
        words = overrides_by_score(
            ["full", "golden", "smoothed", "network"],
            ["score.seed=3", "seed=4", "score.tolerance=0.5", "score.path=net"],
            composer.score_keys,
        )
    assert words == {
        "full": ["score=full", "seed=4"],
        "golden": ["score=golden", "seed=4", "score.seed=3", "score.tolerance=0.5"],
        "smoothed": ["score=smoothed", "seed=4", "score.seed=3"],
        "network": ["score=network", "seed=4", "score.path=net"],
    }


def test_mistakes_are_one_line():
    assert "names a score twice" in refused("score=full,full")
    assert "none of full, wiener has the key score.tolrance" in refused(
        "score=full,wiener", "score.tolrance=1"
    )
    assert "no such option" in refused("score=full,nope")
    assert "must be at least 1" in refused("score=full,wiener", "score.rank=0")
    with pytest.raises(UserError, match="twice"):
        overrides_by_score(["a", "a"], [], lambda words: None)
