"""The scripts that anyone can run without further packages."""

import csv
import json
from pathlib import Path

import golddiff_table
import numpy as np
import pytest
from commands import gdiff
from golddiff_rule import RuleLevel, rows_of_rule

from gdiff.errors import UserError
from gdiff.score.golddiff import GoldDiff

SMALL = ("dataset.subset=60", "num_samples=4", "schedule.steps=2", "runtime.mesh=batch:1")
# Half a second a sample and step is .75 times as fast as this.
RULE = [RuleLevel(sigma=1.0, rows=3, seconds=0.25), RuleLevel(sigma=9.0, rows=5, seconds=0.5)]


@pytest.fixture(scope="module")
def table():
    return golddiff_table


pytestmark = pytest.mark.usefixtures("in_empty_folder", "silent")


def run_folder(name, *, dataset="digits", samples=None):
    """A finished run with round numbers, of ten steps."""
    folder = Path(name)
    folder.mkdir(parents=True)
    samples = np.zeros((4, 2, 2, 1), np.float32) if samples is None else samples
    np.savez(folder / "samples.npz", samples=samples, index=np.arange(len(samples)))
    record = {
        "dataset": {"name": dataset, "points": 60},
        "sampling_seconds": 20.0,
        "denoiser_evaluations": 10,
        "peak_memory_bytes": {"host": 2**30},
    }
    (folder / "run.json").write_text(json.dumps(record))
    metrics = {"score_relative_error_max": 0.5, "score_relative_error_median": 0.25}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    return folder


def test_a_row_holds_the_numbers_of_a_run(table):
    row = table.row_of("full", run_folder("run"), None, RULE)
    assert row == table.Row("full", 2.0, 0.5, 0.75, 1024.0, 0.5, 0.25)
    record = json.loads(Path("run", "run.json").read_text())
    record["peak_memory_bytes"]["cuda:0"] = 2**20
    Path("run", "run.json").write_text(json.dumps(record))
    assert table.row_of("full", Path("run"), None, RULE).peak_memory_mib == 1


def test_published_numbers_stand_beside_those_of_the_same_data(table):
    ours = table.row_of("pca_local", run_folder("run", dataset="cifar10"), None, RULE)
    assert ours[-3:] == (2.80, 0.008, 0.670)
    rows = [ours, table.row_of("golden", run_folder("other", dataset="cifar10"), None, RULE)]
    header, first, second = table.as_text(rows)
    assert header[-3:] == ["published: s/step", "published: MSE", "published: r²"]
    assert first[0] == "pca_local (PCA)"
    assert second[-3:] == ["", "", ""]


def test_the_rule_takes_its_fractions_at_the_ends_of_the_noise():
    rule = GoldDiff(k_min=0.05, k_max=0.1)
    assert rows_of_rule(rule, 3000, 1e-6) == 150
    assert rows_of_rule(rule, 3000, 1e6) == 300


def test_images_are_compared_in_the_unit_range(table):
    rng = np.random.default_rng(0)
    reference = rng.integers(0, 256, (5, 4, 4, 3), np.uint8)
    as_float = (reference / 127.5 - 1).astype(np.float32)
    mse, _, r2, _ = table.compare(as_float, reference)
    assert (mse, r2) == (pytest.approx(0, abs=1e-12), pytest.approx(1))
    mean = reference.mean(axis=(1, 2, 3), keepdims=True) / 127.5 - 1
    mse, _, r2, _ = table.compare(np.broadcast_to(mean, reference.shape), as_float)
    assert r2 == pytest.approx(0, abs=1e-6)
    assert mse == pytest.approx(np.var(reference / 255, axis=(1, 2, 3)).mean(), rel=1e-5)
    # Inverted images are as far from the mean as the reference is, on the other side.
    assert table.compare(2 * mean - as_float, 3 * as_float)[2] < 0


def test_r2_is_the_mean_over_images_with_more_than_one_value(table):
    sklearn = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(1)
    x, y = rng.uniform(-1, 1, (2, 3, 4, 4, 1))
    expected = [sklearn.r2_score(b.ravel(), a.ravel()) for a, b in zip(x, y, strict=True)]
    *_, r2, error = table.compare(x, y)
    assert (r2, error) == (
        pytest.approx(np.mean(expected)),
        pytest.approx(np.std(expected, ddof=1) / np.sqrt(len(expected))),
    )
    y[0] = 0.5
    assert table.compare(x, y)[2] == pytest.approx(np.mean(expected[1:]))
    assert table.compare(x[:1], y[:1])[2:] == (None, None)


def test_a_reference_that_cannot_be_meant_is_refused(table):
    with pytest.raises(UserError, match="cannot be read"):
        table.read_reference(Path("nowhere.npy"))
    np.save("unit.npy", np.random.default_rng(0).uniform(0, 1, (4, 2, 2, 1)))
    with pytest.raises(UserError, match="no value below 0"):
        table.read_reference(Path("unit.npy"))
    np.save("wide.npy", np.zeros((4, 2, 2, 1), np.int64))
    with pytest.raises(UserError, match="int64"):
        table.read_reference(Path("wide.npy"))
    np.save("few.npy", np.zeros((3, 2, 2, 1), np.uint8))
    with pytest.raises(UserError, match="what --noise writes"):
        table.row_of("full", run_folder("run"), table.read_reference(Path("few.npy")), RULE)
    samples = np.full((4, 2, 2, 1), -0.5, np.float32)
    folder = run_folder("other", samples=samples)
    np.testing.assert_array_equal(table.read_reference(folder / "samples.npz"), samples)


def test_a_failed_score_has_a_row_too(table):
    rows = [table.row_of("full", run_folder("run"), None, RULE), table.Row("patch_ls")]
    header, first, second = table.as_text(rows)
    assert header == [
        "score",
        "s/step",
        "ms/sample",
        "rule/ours",
        "peak MiB",
        "error max",
        "median",
    ]
    assert first == ["full (Optimal)", "2", "500", "0.75", "1.02e+03", "0.5", "0.25"]
    assert second == ["patch_ls (Kamb & Ganguli)", "failed", "", "", "", "", ""]
    assert table.to_markdown([header[:2], second[:2]]) == (
        "| score | s/step |\n| --- | ---: |\n| patch_ls (Kamb & Ganguli) | failed |\n"
    )


def test_the_noise_is_what_the_runs_start_from(table):
    assert table.main(["--noise", "noise.npz", *SMALL]) == 0
    words = ("experiment=golddiff_table", "score=wiener", *SMALL)
    assert gdiff("sample", "-q", *words, "hydra.run.dir=run").code == 0
    with np.load("noise.npz") as noise, np.load("run/queries.npz") as queries:
        np.testing.assert_allclose(noise["z"], queries["z"][0], rtol=1e-6)
        assert noise["sigma"] == queries["sigma"][0]
        np.testing.assert_allclose(noise["x"] * np.sqrt(1 + noise["sigma"] ** 2), noise["z"], 1e-6)
        assert noise["x"].std() == pytest.approx(1, abs=0.1)


def test_mistakes_are_found_before_anything_runs(table):
    with pytest.raises(UserError, match="no such option"):
        table.main(["--scores", "full,nope"])
    with pytest.raises(UserError, match=r"none of full has the key score\.rank"):
        table.main(["--scores", "full", "score.rank=3"])
    assert list(Path().iterdir()) == []


@pytest.mark.slow
def test_the_rule_with_all_rows_is_the_local_scan(table, capfd):
    words = [*SMALL, "--folder", "runs", "--scores", "pca_local_golden", "--rule-queries", "2"]
    assert table.main([*words, "--k-min", "1", "--k-max", "1"]) == 0
    lines = [line.strip("│").split("│") for line in capfd.readouterr().out.splitlines()]
    errors = [float(cells[3]) for cells in lines if len(cells) == 5 and int(cells[1]) == 60]
    assert len(errors) == 2
    assert max(errors) < 1e-4


@pytest.mark.slow
def test_the_table_of_the_digits(table, capfd):
    arguments = [*SMALL, "--folder", "it's runs", "--scores", "full,patch_ls", "--csv", "table.csv"]
    assert table.main(arguments) == 0
    with Path("table.csv").open() as file:
        first, second = csv.DictReader(file)
    assert (first["score"], second["score"]) == ("full", "patch_ls")
    assert float(first["relative_error_max"]) < 1e-4 < float(second["relative_error_max"])
    assert float(first["peak_memory_mib"]) > 100
    # Finished runs are not done again.
    reference = ["--reference", "it's runs/full/samples.npz", "--markdown", "table.md"]
    assert table.main([*arguments, *reference]) == 0
    assert "full (Optimal)" in capfd.readouterr().out
    assert float(Path("table.md").read_text().splitlines()[2].split("|")[-3]) == 1


def test_levels_that_a_run_could_not_measure_are_left_empty(table):
    levels = [RuleLevel(sigma, 3, 0.1) for sigma in (60.8, 6.17, 0.01)]
    measured = [("60.8", "0.0325"), ("0.01", "0")]
    assert table.by_level(levels, measured) == ["0.033", "", "0"]
