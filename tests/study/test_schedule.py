import json
from pathlib import Path

import numpy as np
import pytest
from commands import gdiff

TWO = ("dataset=two_points", "schedule.sigma_max=80", "schedule.sigma_min=0.05")


pytestmark = pytest.mark.usefixtures("in_empty_folder")


@pytest.fixture
def without_optimal(monkeypatch):
    """Nothing is compiled to find a grid that the test does not look at."""
    monkeypatch.setattr("gdiff.study.schedule._optimal", lambda *_: None)


# Discretisation in nats, from the closed forms by quadrature.
@pytest.mark.parametrize(
    "score, steps, expected",
    [
        ("full", 5, {"las_nats": 0.5627, "logsnr": 4.00, "edm": 10.4, "cosine": 2.66, "vp": 45.4}),
        ("full", 20, {"las_nats": 0.0885, "logsnr": 0.332, "edm": 0.451, "cosine": 0.148}),
        # The linear score of two points ±1 is that of N(0, 1), and so is its loss.
        ("wiener", 5, {"las_nats": 2.793, "logsnr": 10.91, "edm": 33.8, "cosine": 22.0}),
        ("wiener", 20, {"las_nats": 0.4975, "logsnr": 1.164, "edm": 1.97, "cosine": 2.33}),
    ],
)
def test_the_command_prints_the_known_table(without_optimal, score, steps, expected):
    result = gdiff("schedule", *TWO, f"score={score}", f"schedule.steps={steps}", "--json")
    assert (result.code, result.err) == (0, "")
    found = json.loads(result.out)
    assert list(found["kl_disc"].values()) == sorted(found["kl_disc"].values())
    for name, nats in expected.items():
        # To the digits given.
        assert found["kl_disc"][name] == pytest.approx(nats, rel=5e-3)
    assert found["entropy"] == pytest.approx(np.log(2))
    assert all(len(grid) == steps + 1 for grid in found["grids"].values())
    assert not any(Path().iterdir())


def test_tables_and_pictures_are_left_in_a_folder(without_optimal):
    words = ("dataset=moons", "dataset.num_points=100", "schedule.loss_samples=16", "--horizon")
    result = gdiff("schedule", *words, "schedule.steps=6", "hydra.run.dir=out")
    assert result.code == 0, result.err
    assert result.last == "out"
    assert "KL_disc" in result.out
    assert "shortest time within 0.1 nats" in " ".join(result.out.split())
    names = {path.name for path in Path("out").iterdir()}
    assert names >= {"schedule.json", "schedule.csv", "schedule.png", "horizon.png"}
    assert names >= {"config.yaml", "gdiff.log"}
    found = json.loads(Path("out/schedule.json").read_text())
    kl = {name: each["nats"] for name, each in found["horizon"]["kl"].items()}
    assert set(kl) == {"standard", "gaussian", "ppca", "gmm", "dpgmm"}
    assert kl["standard"][0] < kl["standard"][-1]
    assert kl["gaussian"][-1] < kl["standard"][-1]


def test_a_picture_that_fails_does_not_cost_the_comparison(without_optimal, monkeypatch):
    def fail(*_, **__):
        raise ValueError("no ink")

    monkeypatch.setattr("gdiff.figures.schedule_figure", fail)
    result = gdiff("schedule", *TWO, "schedule.steps=5", "hydra.run.dir=out")
    assert (result.code, result.last) == (1, "out")
    line = "error: schedule.png could not be made (ValueError: no ink): all else is in out"
    assert result.err.splitlines()[-1] == line
    found = json.loads(Path("out/schedule.json").read_text())
    assert found["failed"] == {"schedule.png": "ValueError: no ink"}
    assert Path("out/schedule.csv").is_file()
    assert not Path("out/schedule.png").exists()


def test_a_curve_from_a_file_is_used(without_optimal):
    sigma = np.geomspace(100, 0.01, 60)
    rows = "\n".join(f"{s},{1 / (1 + s**-2.0)}" for s in sigma)
    Path("curve.csv").write_text(f"sigma,loss\n{rows}\n")
    words = (*TWO, "schedule.steps=5", "schedule.loss_file=curve.csv", "--json")
    found = json.loads(gdiff("schedule", *words).out)
    assert found["kl_disc"]["las_nats"] == pytest.approx(2.793, rel=2e-3)
    assert found["kl_disc_standard_error"]["las_nats"] is None


def test_both_objectives_are_there_for_every_grid():
    words = (*TWO, "score=wiener", "schedule.steps=5", "--json")
    found = json.loads(gdiff("schedule", *words).out)
    names = found["kl_disc"].keys()
    assert {"las", "las_nats", "optimal"} < names
    assert found["frechet"].keys() == found["sliced_w2"].keys() == names
    assert found["frechet"]["optimal"] <= 1.001 * min(found["frechet"].values())
    assert found["frechet"]["las"] < found["frechet"]["las_nats"]
    # In nats five steps end on sigma_min; of a run the last one goes on to 0.
    assert {grid[-1] for grid in found["grids"].values()} == {0.05}
    assert {(len(grid), *grid[-2:]) for grid in found["run_grids"].values()} == {(6, 0.05, 0)}


def test_a_spectrum_takes_the_place_of_data(monkeypatch):
    monkeypatch.setattr("gdiff.prepared.Prepared.dataset", None)
    np.save("spectrum.npy", np.geomspace(10, 1e-3, 6))
    words = ("--spectrum", "spectrum.npy", "schedule.steps=6", "sampler=heun")
    found = json.loads(gdiff("schedule", "optimal", *words, "--json").out)
    assert found["entropy"] is None
    assert min(found["frechet"], key=found["frechet"].get) == "optimal"
    result = gdiff("schedule", "optimal", *words, "--export", "sigmas.json")
    assert result.code == 0, result.err
    assert "set_timesteps(sigmas=sigmas" in result.out
    sigmas = json.loads(Path("sigmas.json").read_text())["sigmas"]
    assert sigmas == found["run_grids"]["optimal"]
    assert gdiff("schedule", "edm", *words, "--export", "edm.npy").code == 0
    assert np.load("edm.npy").tolist() == pytest.approx(found["run_grids"]["edm"])


@pytest.mark.parametrize(
    "words, message",
    [
        (("--spectrum", "none.npy"), "--spectrum none.npy: cannot be read"),
        (("--spectrum", "none.npy", "--horizon"), "leave out --spectrum"),
        (("--export", "sigmas.png"), "give FILE.json or FILE.npy"),
        (("nonsense",), "no such option"),
    ],
)
def test_what_cannot_be_compared_is_said_in_one_line(words, message):
    result = gdiff("schedule", *words)
    assert (result.code, message in result.err.splitlines()[-1]) == (2, True)
