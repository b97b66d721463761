import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from commands import gdiff

from gdiff.runs import PastRun
from gdiff.runs.logger import log, require_installed

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def run(tmp_path):
    (tmp_path / "grid.png").write_bytes(PNG)
    settings = {"dataset": "moons", "schedule.steps": 4, "long": "x" * 9999}
    return PastRun(tmp_path, "0", "complete", settings=settings, metrics={"sliced_w2": 0.5})


def test_a_logger_that_is_not_there_is_named_before_anything_is_drawn(in_empty_folder, monkeypatch):
    missing = {"mlflow": "no_mlflow", "tensorboard": "no_tensorboard"}
    monkeypatch.setattr("gdiff.runs.logger._NEEDED", missing)
    for logger, package in missing.items():
        result = gdiff("sample", "dataset=moons", f"logger={logger}")
        assert result.code == 2
        assert f"logger={logger} needs {package}: pip install" in result.err.splitlines()[-1]
        assert not Path("outputs").exists()
    require_installed("none")
    assert "logger='wandb' is not one of" in gdiff("sample", "logger=wandb").err


def test_mlflow_is_given_settings_metrics_and_pictures(run, monkeypatch):
    told = []

    class Active:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

    names = ("log_params", "log_metrics", "set_tag", "log_artifact")
    heard = {name: lambda *what, name=name: told.append((name, *what)) for name in names}
    module = SimpleNamespace(start_run=lambda run_name: Active(), **heard)
    module.__spec__ = SimpleNamespace()
    monkeypatch.setitem(sys.modules, "mlflow", module)
    log(run, "mlflow")
    (_, settings), (_, metrics), (_, *tag), (_, picture) = told
    assert settings["schedule.steps"] == "4"
    assert len(settings["long"]) == 500
    assert metrics == {"sliced_w2": 0.5}
    assert tag == ["folder", str(run.folder)]
    assert picture == str(run.folder / "grid.png")


def test_a_logger_that_fails_does_not_cost_the_run(in_empty_folder, silent, monkeypatch):
    def fail(*_):
        raise ConnectionError("no server at that address")

    monkeypatch.setattr("gdiff.runs.logger.require_installed", lambda logger: None)
    monkeypatch.setattr("gdiff.runs.logger._WRITERS", {"mlflow": fail})
    words = ("dataset=two_points", "num_samples=2", "schedule.steps=2", "metrics=none")
    result = gdiff("sample", "-q", *words, "logger=mlflow", "hydra.run.dir=run")
    assert result.code == 0
    assert "warning: logger=mlflow: ConnectionError: no server" in result.err
    assert json.loads(Path("run/run.json").read_text())["status"] == "complete"


@pytest.mark.parametrize("logger", ["tensorboard", "mlflow"])
def test_the_real_logger_takes_a_run(run, logger, in_empty_folder, monkeypatch):
    pytest.importorskip({"tensorboard": "tensorboardX"}.get(logger, logger))
    (run.folder / "grid.png").unlink()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", Path("tracked").absolute().as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    log(run, logger)
    where = run.folder / "tensorboard" if logger == "tensorboard" else Path("tracked")
    assert any(path.is_file() for path in where.rglob("*"))
