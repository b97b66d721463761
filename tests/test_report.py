"""Tables made from run folders."""

import io
import json
from importlib.metadata import PackageNotFoundError

import pytest
from rich.console import Console

from gdiff import report


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


def shown(table, width=200):
    console = Console(width=width, file=io.StringIO())
    console.print(table)
    return console.file.getvalue()


def test_a_sweep_has_one_row_a_run_in_the_order_of_numbers(tmp_path):
    make_sweep(tmp_path)
    rows = report.sweep_rows(tmp_path)
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
    (row,) = report.sweep_rows(tmp_path)
    assert row == {"run": "0", "status": "failed", "error": ""}


def test_runs_without_hydras_record_are_found_too(tmp_path):
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "run.json").write_text('{"status": "complete"}')
    assert [row["run"] for row in report.sweep_rows(tmp_path)] == ["0"]


@pytest.mark.parametrize("text", ["{", "[" * 10_000, "a: 1", "[[1], {}]", "\x00"])
def test_overrides_that_are_damaged_are_left_out(tmp_path, text):
    (tmp_path / "0" / ".hydra").mkdir(parents=True)
    (tmp_path / "0" / ".hydra" / "overrides.yaml").write_text(text)
    (row,) = report.sweep_rows(tmp_path)
    assert row == {"run": "0", "status": "failed", "error": ""}


@pytest.mark.parametrize("name", ["run.json", "metrics.json"])
def test_a_damaged_run_is_a_failed_one_among_the_others(tmp_path, name):
    make_sweep(tmp_path)
    (tmp_path / "2" / name).write_text("{")
    rows = report.sweep_rows(tmp_path)
    assert [row["status"] for row in rows] == ["failed", "failed", "complete", "failed"]
    assert rows[0].keys() == {"run", "status", "sampler", "seed", "error"}
    assert f"{name} cannot be read" in rows[0]["error"]


def test_columns_are_in_order_of_appearance_with_errors_last(tmp_path):
    make_sweep(tmp_path)
    names = report.columns(report.sweep_rows(tmp_path))
    assert names == ["run", "status", "sampler", "seed", "rounds", "sliced_w2", "error"]


def test_the_table_shows_what_tells_runs_apart():
    rows = [
        {"run": "0", "status": "complete", "steps": "10", "rounds": 10, "w": 0.25, "same": 1},
        {"run": "1", "status": "complete", "steps": "50", "rounds": 50, "w": 0.125, "same": 1},
    ]
    text = shown(report.sweep_table(rows))
    assert "0.125" in text
    for absent in ("status", "same", "rounds"):  # rounds repeats steps
        assert absent not in text


def test_the_table_of_one_run_shows_all_of_it():
    text = shown(report.sweep_table([{"run": "0", "status": "complete", "w": 0.25}]))
    assert "complete" in text
    assert "0.25" in text


def test_numbers_are_not_broken_in_a_terminal_of_ordinary_width():
    numbers = {"seconds_per_sample": 0.012345, "nn_distance": 1.2345e-5, "copy_fraction": 0.8906}
    numbers |= {"sliced_w2": 0.09471, "frechet_pca": 12.345, "kid_pca": -0.08319}
    rows = [
        {"run": str(i), "sampler": sampler, "schedule.steps": str(10 * i)}
        | {name: number * (i + 1) for name, number in numbers.items()}
        for i, sampler in enumerate(["ddim", "ancestral"])
    ]
    text = shown(report.sweep_table(rows), width=80)
    assert "ancestral" in text
    assert "1.23e-05" in text
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 80


def test_a_table_is_whole_where_there_is_no_terminal(capsys):
    report.show(report.metrics_table({"a" * 150: 1.0, "b": 2.0}))
    assert "a" * 150 in capsys.readouterr().out


def test_info_is_about_this_machine():
    text = shown(report.info_table())
    assert "jax" in text
    assert report.processors() >= 1
    assert "GiB" in text


def test_info_says_what_is_not_installed(monkeypatch):
    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(report, "version", missing)
    assert "not installed" in shown(report.info_table())
