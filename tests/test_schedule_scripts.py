"""The tables of schedules and of horizons, on points in the plane."""

import csv
import json
from pathlib import Path
from types import SimpleNamespace

import horizon_table
import numpy as np
import pytest
import sampler_table
import schedule_table
from commands import gdiff

from gdiff.errors import UserError

SMALL = ("dataset=moons", "dataset.num_points=100", "runtime.mesh=batch:1", "num_samples=16")
WIENER = (*SMALL, "score=wiener", "schedule.sigma_min=0.05")


@pytest.fixture(scope="module")
def schedules():
    return schedule_table


@pytest.fixture(scope="module")
def horizons():
    return horizon_table


pytestmark = pytest.mark.usefixtures("in_empty_folder", "silent")


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch):
    """Runs of the command line share what they compile."""

    def run(command, **options):
        assert command[1:3] == ["-m", "gdiff"]
        return SimpleNamespace(returncode=gdiff(*command[3:]).code)

    monkeypatch.setattr("sweeps.subprocess", SimpleNamespace(run=run, DEVNULL=None))


def rows_of(path):
    with Path(path).open() as file:
        return list(csv.DictReader(file))


def test_the_table_of_schedules_predicts_every_grid(schedules, capfd):
    options = ["--steps", "3,6", "--grids", "las,las_nats,uniform", "--no-samples"]
    assert schedules.main([*WIENER, *options, "--csv", "t.csv", "--figure", "t.png"]) == 0
    out = capfd.readouterr().out.splitlines()
    assert out[-1].startswith("loss of las:")
    assert out[-2].startswith("las, frechet: best or within one error in 2 of 2, at most 1 times")
    rows = rows_of("t.csv")
    keys = [(row["steps"], row["schedule"]) for row in rows]
    assert keys == [(k, name) for k in ("3", "6") for name in ("las", "las_nats", "uniform")]
    for key, best in (("frechet", "las"), ("kl_disc", "las_nats")):
        value = {k: float(row[key]) for k, row in zip(keys, rows, strict=True)}
        for steps in ("3", "6"):
            assert min(("las", "las_nats", "uniform"), key=lambda n: value[steps, n]) == best
    assert rows[0]["sliced_w2"] == ""
    assert Path("t.png").stat().st_size > 10_000


@pytest.mark.slow
def test_the_table_of_schedules_has_distances_of_the_samples_on_every_grid(schedules):
    options = ["--steps", "4", "--grids", "las,edm", "--seeds", "2", "--csv", "t.csv"]
    assert schedules.main([*WIENER, *options]) == 0
    for row in rows_of("t.csv"):
        words = ["sampler=ddim", f"schedule={row['schedule']}", "schedule.steps=4"]
        values = []
        for seed in (0, 1):
            run = [*words, f"seed={seed}", "metrics.projections=256", "metrics.budget=false"]
            folder = f"{row['schedule']}{seed}"
            assert gdiff("sample", "-q", *WIENER, *run, f"hydra.run.dir={folder}").code == 0
            values.append(json.loads(Path(folder, "metrics.json").read_text()))
        for key in ("sliced_w2", "frechet_pca", "kid_pca"):
            each = [value[key] for value in values]
            assert float(row[key]) == pytest.approx(np.mean(each), rel=1e-4)
            assert float(row[f"{key}_error"]) == pytest.approx(np.ptp(each) / 2, rel=1e-3)


def test_every_best_grid_is_marked_and_counted(schedules):
    def row(steps, name, frechet, distance, error=0.01):
        return schedules.Row("ddim", steps, name, frechet, 1.0, distance, error)

    rows = [
        row(5, "optimal", 0.5, 0.1),
        row(5, "las", 1.0, 0.45),
        row(5, "vp", 2.0, 0.4),
        row(9, "las", 0.5, 0.1),
    ]
    best = [row.lowest.split() for row in schedules.marked(rows)]
    assert best == [[], ["frechet", "kl_disc"], ["kl_disc", "sliced_w2"], best[-1]]
    line = schedules.verdict(rows, "sliced_w2")
    assert line == "las, sliced_w2: best or within one error in 1 of 2, at most 1.12 times the best"
    assert schedules.verdict(rows, "kid_pca") is None


def test_a_loss_that_was_written_to_a_file_gives_the_same_grids():
    words = ("schedule", *SMALL, "schedule.steps=6", "--json")
    result = json.loads(gdiff(*words).out)
    loss = result["loss"]
    lines = [f"{s!r},{v!r}" for s, v in zip(loss["sigma"], loss["loss"], strict=True)]
    Path("loss.csv").write_text("\n".join(["sigma,loss", *lines]))
    again = json.loads(gdiff(*words, "schedule.loss_file=loss.csv").out)
    assert again["grids"].keys() == result["grids"].keys()
    for name, grid in result["grids"].items():
        np.testing.assert_allclose(again["grids"][name], grid, rtol=1e-9)


@pytest.mark.slow
def test_the_table_of_horizons_compares_priors_at_equal_steps(horizons, capfd):
    options = ["--horizons", "0.4", "--priors", "standard,gaussian", "--steps", "2"]
    words = [*SMALL, "sampler=ddim", "--seeds", "1", "--folder", "runs", "--csv", "t.csv"]
    assert horizons.main([*words, *options]) == 0
    rows = rows_of("t.csv")
    keys = [(row["horizon"], row["prior"], row["steps"]) for row in rows]
    assert keys == [("0.4", "standard", "2"), ("0.4", "gaussian", "2"), ("0.4", "standard", "5")]
    standard, gaussian, longest = (float(row["kl_initialization"]) for row in rows)
    assert gaussian < standard == longest
    assert rows[0]["sliced_w2_error"] == ""
    out = capfd.readouterr().out.splitlines()
    assert out[-3].startswith("T = 0.4, gaussian, 2 steps / standard: ratio at most 1 wanted")
    assert out[-2].startswith("T = 0.4, gaussian, 2 steps / T = 0.4, standard, 5 steps")


def test_a_target_is_met_where_the_ratio_is_low_enough(horizons):
    def runs(*values):
        return [{"sliced_w2": value, "frechet_pca": 10.0} for value in values]

    text = horizons.verdict("a / b", runs(1.0, 2.0), runs(2.0, 4.0), 0.6)
    assert "sliced_w2 0.5 ± 0 (met)" in text
    assert "frechet_pca 1 ± 0 (missed)" in text
    assert "sliced_w2 0.5 (met)" in horizons.verdict("a / b", runs(1.0), runs(2.0), 0.6)


def test_mistakes_are_found_before_anything_runs(schedules, horizons):
    with pytest.raises(UserError, match="las has to be among them"):
        schedules.main(["--grids", "vp"])
    with pytest.raises(UserError, match="more than numbers"):
        schedules.main(["--steps", "5,many"])
    with pytest.raises(UserError, match=r"schedule\.steps is set by the table"):
        schedules.main(["schedule.steps=3"])
    with pytest.raises(UserError, match="no such option"):
        schedules.main(["--samplers", "nope"])
    with pytest.raises(UserError, match="prior is set by the table"):
        horizons.main(["prior=gmm"])
    with pytest.raises(UserError, match="no such option"):
        horizons.main(["--priors", "nope"])
    assert list(Path().iterdir()) == []


def test_the_table_of_samplers_has_the_error_of_those_without_noise(capfd):
    options = ["--samplers", "heun,ancestral", "--evaluations", "8,32", "--exact", "64"]
    table = [*WIENER, *options, "--seeds", "1", "--folder", "runs"]
    assert sampler_table.main([*table, "--csv", "t.csv", "--figure", "t.svg"]) == 0
    assert "the solution: sliced_w2" in capfd.readouterr().out
    rows = {(row["sampler"], row["evaluations"]): row for row in rows_of("t.csv")}
    counts = [int(count) for _, count in rows]
    assert counts == [7, 31, 8, 32]
    errors = {key: row["error"] and float(row["error"]) for key, row in rows.items()}
    assert errors["ancestral", "8"] == errors["ancestral", "32"] == ""
    assert 8 * errors["heun", "31"] < errors["heun", "7"]
    assert "ancestral" in Path("t.svg").read_text()
    lost, kept = Path("runs/8 steps/0/run.json"), Path("runs/4 steps/0/run.json")
    before = kept.read_bytes()
    lost.unlink()
    assert sampler_table.main([*table, "--csv", "again.csv"]) == 0
    assert (lost.is_file(), kept.read_bytes()) == (True, before)
    assert Path("again.csv").read_text() == Path("t.csv").read_text()
