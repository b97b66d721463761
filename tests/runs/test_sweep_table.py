"""The table of a sweep."""

import json

import pytest

from gdiff.runs import sweep


def make_run(folder, overrides, record, metrics=None):
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "overrides.yaml").write_text(json.dumps(overrides))
    if record is not None:
        (folder / "run.json").write_text(json.dumps(record))
    if metrics is not None:
        (folder / "metrics.json").write_text(json.dumps(metrics))


def make_sweep(folder):
    done = {"status": "complete"}
    make_run(folder / "10", ["sampler=ddpm"], done, {"rounds": 8, "sliced_w2": 0.25})
    make_run(folder / "2", ["+sampler=ddim", "seed=1"], done, {"rounds": 8, "sliced_w2": 0.5})
    make_run(folder / "3", ["sampler=x"], {"status": "failed", "error": "no such thing"})
    make_run(folder / "11", ["sampler=y"], None)


def test_a_sweep_has_one_row_a_run_in_the_order_of_numbers(tmp_path):
    make_sweep(tmp_path)
    rows = sweep.rows(tmp_path)
    assert [row["run"] for row in rows] == ["2", "3", "10", "11"]
    assert [row["status"] for row in rows] == ["complete", "failed", "complete", "failed"]
    assert rows[0] == {
        "run": "2",
        "status": "complete",
        "sampler": "ddim",
        "seed": "1",
        "rounds": 8,
        "sliced_w2": 0.5,
    }
    assert rows[1]["error"] == "no such thing"


def test_an_interrupted_run_shows_as_failed_without_metrics(tmp_path):
    make_run(tmp_path / "0", [], {"status": "running"}, {"rounds": 3})
    (row,) = sweep.rows(tmp_path)
    assert row == {"run": "0", "status": "failed", "error": ""}


def test_runs_without_hydras_record_are_found_too(tmp_path):
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "run.json").write_text('{"status": "complete"}')
    assert [row["run"] for row in sweep.rows(tmp_path)] == ["0"]


@pytest.mark.parametrize("text", ["{", "[" * 10_000, "a: 1", "[[1], {}]", "\x00"])
def test_overrides_that_are_damaged_are_left_out(tmp_path, text):
    (tmp_path / "0" / ".hydra").mkdir(parents=True)
    (tmp_path / "0" / ".hydra" / "overrides.yaml").write_text(text)
    (row,) = sweep.rows(tmp_path)
    assert row == {"run": "0", "status": "failed", "error": ""}


@pytest.mark.parametrize("name", ["run.json", "metrics.json"])
def test_a_damaged_run_is_a_failed_one_among_the_others(tmp_path, name):
    make_sweep(tmp_path)
    (tmp_path / "2" / name).write_text("{")
    rows = sweep.rows(tmp_path)
    assert [row["status"] for row in rows] == ["failed", "failed", "complete", "failed"]
    assert rows[0].keys() == {"run", "status", "sampler", "seed", "error"}
    assert f"{name} cannot be read" in rows[0]["error"]


def test_columns_are_in_order_of_appearance_with_errors_last(tmp_path):
    make_sweep(tmp_path)
    names = sweep.columns(sweep.rows(tmp_path))
    assert names == ["run", "status", "sampler", "seed", "rounds", "sliced_w2", "error"]


def test_seeds_are_averaged_with_their_standard_error(tmp_path):
    for number, (seed, value) in enumerate([(0, 1.0), (1, 2.0), (2, 6.0)]):
        words = ["sampler=ddim", f"seed={seed}"]
        make_run(tmp_path / str(number), words, {"status": "complete"}, {"w": value, "rounds": 8})
    make_run(tmp_path / "3", ["sampler=ddim", "seed=3"], {"status": "failed"}, None)
    make_run(tmp_path / "4", ["sampler=heun", "seed=0"], {"status": "complete"}, {"w": 9.0})
    mean, error = sweep.averages(sweep.rows(tmp_path))
    shared = {"status": "complete", "sampler": "ddim", "seed": "0,1,2"}
    assert mean == {"run": "mean", **shared, "w": 3.0, "rounds": 8}
    variance = (2.0**2 + 1.0**2 + 3.0**2) / 2
    assert error == {"run": "se", **shared, "w": pytest.approx((variance / 3) ** 0.5), "rounds": 0}


def test_one_seed_is_no_average(tmp_path):
    make_sweep(tmp_path)
    assert sweep.averages(sweep.rows(tmp_path)) == []
