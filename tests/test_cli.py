"""What users meet: results, one-line errors, sweeps."""

import csv
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import yaml
from commands import SMALL, gdiff, start
from PIL import Image

from gdiff.cli import app
from gdiff.metrics import DISTANCES
from gdiff.prepared import ACCOUNT

pytestmark = pytest.mark.usefixtures("in_empty_folder", "silent")


def contents():
    return sorted(
        os.path.relpath(os.path.join(folder, name))
        for folder, folders, files in os.walk(".")
        for name in folders + files
    )


def refused(*words):
    """The one line of a command that must fail and leave no trace."""
    before = contents()
    result = gdiff(*words)
    assert result.code == 2, result
    assert re.fullmatch(r"error: [^\n]+\n", result.err), result.err
    assert result.out == ""
    assert contents() == before
    return result.err


MISTAKES = {
    # Names
    "smapler=ddim": "no key 'smapler'. Did you mean 'sampler'?",
    "sampler=ddmi": "sampler=ddmi: no such option. Did you mean 'ddpm'? The options are: accel",
    "sampler.eat=1": "no key 'sampler.eat'. Did you mean 'sampler.eta'?",
    "eta=1": "no key 'eta'. Did you mean 'sampler.eta'?",
    "schedule.sigmamax=3": "Did you mean 'schedule.sigma_max'?",
    "+foo=3": "no key 'foo'",
    "+dataset.foo=3": "no key 'dataset.foo'. The keys of dataset are: subset, classes",
    "dataset.path=x": "no key 'dataset.path'. The keys of dataset are: subset, classes",
    "~sampler": "sampler has no _target_",
    "experiment=nope": "experiment=nope: no such option",
    "hydra.job.foo=1": "no key 'hydra.job.foo'",
    "hydra/launcher=nope": "in the checkout: pip install -e '.[joblib]'",
    "hydra/sweeper=nope": "in the checkout: pip install -e '.[optuna]'",
    # Types
    "num_samples=abc": "num_samples=abc is not a whole number",
    "num_samples=1.5": "num_samples=1.5 is not a whole number",
    "num_samples=null": "num_samples=null is not a whole number",
    "num_samples={a: 1}": "is not a whole number",
    "num_samples=???": "num_samples is missing",
    "num_samples=${nothing}": "'nothing' not found",
    "schedule.sigma_min=abc": "schedule.sigma_min=abc is not a number",
    "dataset.classes=3": "dataset.classes=3 is not a list of numbers or names, such as [0, cat]",
    "dataset.classes=[1.5]": "dataset.classes=[1.5] is not a list of numbers or names",
    "dataset.classes=[[1]]": "dataset.classes=[[1]] is not a list of numbers or names",
    "dataset.classes=[five]": "digits has no class 'five'; see gdiff data info",
    "trajectory=2": "trajectory=2 is not true or false",
    "runtime.x64=-1": "runtime.x64=-1 is not true or false",
    "num_samples=99999999999999999999": "num_samples=99999999999999999999 is beyond 64 bits",
    "runtime.x64=maybe": "runtime.x64=maybe is not true or false",
    "dataset=null": "dataset takes the name of one of its options: array",
    # Values
    "num_samples=0": "num_samples=0 must be at least 1",
    "num_samples=-3": "num_samples=-3 must be at least 1",
    "batch_size=0": "batch_size=0 must be at least 1",
    "picture_samples=0": "picture_samples=0 must be at least 1",
    "seed=-1": "seed=-1 must be between",
    "schedule.steps=0": "schedule.steps=0 must be at least 1",
    "schedule.sigma_min=100": "schedule.sigma_min=100.0 must be below schedule.sigma_max=80.0",
    "schedule.sigma_min=80": "must be below",
    "schedule.sigma_max=nan": "must be positive and finite",
    "score.precision=lowest": "is not one of: highest",
    "dataset.subset=0": "dataset.subset=0 must be at least",
    "dataset.subset=9999": "more than the 1797 points",
    "dataset.classes=[3,10]": "digits has 10 classes",
    "runtime.mesh=data:9999": "asks for 9999 devices",
    "runtime.mesh=banana": "is not a layout",
    "objective=fid": "objective='fid' is not one of: seconds_per_sample",
    "prior.data_variance=inf": "prior.data_variance=inf must be 0 or more, and finite",
    # What contradicts each other, or is about something else
    "hydra/launcher=joblib": "hydra/launcher=joblib is about a sweep: add -m",
    "hydra.sweep.dir=s": "hydra.sweep.dir=s is about a sweep: add -m",
    "hydra.sweeper.max_batch_size=1": "is about a sweep: add -m",
    # Syntax
    "foo": "cannot read the override 'foo'",
    "a==": "cannot read the override 'a=='",
    "": "cannot read the override ''",
    "=3": "takes the name of one of its options",
    "dataset.classes=[0": "cannot read the override 'dataset.classes=[0'",
    "dataset.classes=0]": "cannot read the override",
    "sampler=ddim,ddpm": "sampler=ddim,ddpm is a sweep: add -m",
    "schedule.steps=range(1,4)": "schedule.steps=range(1,4) is a sweep: add -m",
    "hydra.mode=MULTIRUN": "-m",
    # What runs
    "dataset._target_=os.system": "_target_=os.system is not inside gdiff",
    "+dataset._target_=os.system": "dataset._target_",
    "dataset._target_=gdiff.nope.Nope": "does not exist",
    "dataset._target_=gdiff.cli.main": "cannot be used there",
    "dataset._target_=gdiff.__main__.main": "cannot be used there",
    "dataset._target_=gdiff.sampler.methods.ddim.DDIM": "cannot be used there",
    "dataset._target_=gdiff.dataset.base.DatasetSpec": "cannot be used there",
    "dataset._target_=null": "dataset has no _target_",
    "_target_=gdiff.runtime.Runtime": "cannot be used there",
    "+hydra.callbacks.x._target_=os.system": "hydra.callbacks.x._target_=os.system is not",
    "hydra.launcher._target_=os.system": "hydra.launcher._target_=os.system is not",
    "hydra.sweeper._target_=hydra.utils.call": "hydra.sweeper._target_=hydra.utils.call is not",
    "dataset._target_=gdiff.bench.harness.Options": "cannot be used there",
    "dataset._target_=gdiff.dataset.toy..Moons": "cannot be used there",
    "dataset._target_='gdiff.dataset.\\x00.Moons'": "cannot be used there",
    "hydra.job_logging.handlers.file.class=os.system": "class=os.system is not one of logging's",
    "hydra.job_logging.handlers.file.class=logging.Logger": "is not one of logging's own",
    "hydra.hydra_logging.handlers.console.stream=ext://os.environ": "is not one of logging's own",
    "+hydra.job_logging.filters.x.class=logging.Filter": "is not one of logging's own",
    "hydra.job_logging.root.level=LOUD": "hydra.job_logging or hydra.hydra_logging: Unable to",
    "hydra.job_logging.handlers.file.filename=/dev/null/x": "/dev/null/x: Not a directory",
    "hydra.job_logging.version=7": "hydra.job_logging or hydra.hydra_logging: Unsupported",
    "hydra.job_logging.handlers=null": "hydra.job_logging.handlers must be settings by name",
    "hydra.searchpath=[/nope]": "path=/nope is not available",
    "dataset=[1]": "these overrides do not fit the configuration",
    "sampler._target_=[1]": "cannot be used there",
    "hydra.output_subdir=samples.npz": "must be null, or the name of a folder",
    "~hydra.job_logging.root": "hydra.job_logging has no root",
    # Folders
    "hydra.run.dir=": "hydra.run.dir= is empty",
    "hydra.output_subdir=../x": "hydra.output_subdir=../x must be null, or the name of a folder",
    "hydra.job.name=a/b": "hydra.job.name=a/b must be a plain name",
    "hydra.run.dir=/dev/null/x": "cannot write to /dev/null/x",
    "hydra.run.dir=/dev/null": "cannot write to /dev/null",
    "hydra.run.dir=null": "hydra.run.dir",
    "dataset=mnist": "give the folder of prepared data sets as dataset.data_dir",
}


@pytest.mark.parametrize("override", MISTAKES)
def test_a_mistake_is_one_line_and_leaves_nothing(override, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", "nowhere")
    assert MISTAKES[override] in refused("sample", "runtime.mesh=batch:1", override)


@pytest.mark.parametrize(
    "words, message",
    [
        (
            ("schedule.horizon=0.5", "schedule.sigma_max=10"),
            "takes the place of schedule.sigma_max",
        ),
        (
            ("score=golden", "score.tolerance=inf"),
            "score.tolerance=inf must be finite",
        ),
        (("score=golden", "score.seed=-1"), "score.seed=-1 must be 0 or more"),
        (("-m", "seed=1,2", "hydra.run.dir=r"), "hydra.run.dir=r is about one run"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(words, message):
    assert message in refused("sample", *words)


NO_EFFECT = {
    ("metrics=none", "metrics.budget=true"): "metrics.enabled=false measures nothing",
    ("metrics.score_queries=3",): "the score is not measured",
    ("schedule.loss_file=x.csv",): "this schedule follows no loss",
    ("schedule=las", "schedule.loss_type=eps"): "it is about schedule.loss_file",
    ("schedule=las", "schedule.loss_file=x.csv", "schedule.loss_on=test"): "schedule.loss_file",
    ("schedule.horizon_tolerance=1",): "it is about schedule.horizon=auto",
    ("sampler.tolerance=0.1",): "runs the steps one by one",
    ("sampler.corrector_step=0.1",): "sampler.corrector=0 corrects nothing",
}


@pytest.mark.parametrize("words", NO_EFFECT)
def test_a_setting_without_effect_is_named_in_one_line(words):
    result = gdiff("sample", "--dry-run", "runtime.mesh=batch:1", *words)
    assert result.code == 0
    assert re.fullmatch(r"warning: [^\n]+\n", result.err), result.err
    assert f"warning: {words[-1]} has no effect: " in result.err
    assert NO_EFFECT[words] in result.err


def test_settings_with_an_effect_are_not_remarked_upon():
    for words in (
        ("metrics=none", "metrics.budget=false"),
        ("schedule=las", "schedule.loss_file=x.csv", "schedule.loss_type=eps"),
        ("schedule.horizon=auto", "schedule.sigma_max=100", "schedule.horizon_tolerance=1"),
        ("sampler.block_size=4", "sampler.tolerance=0.1", "schedule=ddpm", "schedule.steps=500"),
        ("schedule=ddpm", "schedule.steps=501", "schedule.spacing=trailing"),
    ):
        result = gdiff("sample", "--dry-run", "runtime.mesh=batch:1", *words)
        assert (result.code, result.err) == (0, "")


def test_a_grid_that_starts_far_below_the_top_is_remarked_upon():
    result = gdiff("sample", "--dry-run", "schedule=ddpm", "schedule.steps=501")
    assert result.code == 0
    assert re.fullmatch(r"warning: [^\n]+\n", result.err), result.err
    assert "starts at sigma = 3.4" in result.err
    assert "use schedule.spacing=trailing" in result.err


def test_numbers_beyond_the_arithmetic_are_refused():
    assert "not finite after step 4 of 4" in refused("sample", *SMALL, "schedule.sigma_min=1e-30")


ANCESTRAL = "is for sampler=ancestral"
IMPOSSIBLE = [
    ("kid_pca", "num_samples=1", "needs num_samples of at least 2"),
    ("frechet_pca", "num_samples=1", "needs num_samples of at least 2"),
    ("kl_total", "sampler=ddim", ANCESTRAL),
    ("kl_picard", "sampler=ddpm", ANCESTRAL),
    ("kl_discretization", "sampler.eta=0.5", ANCESTRAL),
    ("kl_score", "sampler=heun", ANCESTRAL),
    ("speedup_in_rounds", "sampler=ancestral", "needs another sampler.block_size"),
    ("clip_rate", "sampler=ddim", "needs a sampler that clips"),
    ("score_relative_error_max", "score=full", "is not one of"),
    ("sliced_w2", "metrics=none", "is not one of"),
]


@pytest.mark.parametrize("objective, word, message", IMPOSSIBLE)
def test_an_objective_that_cannot_be_had_is_refused_at_once(objective, word, message, monkeypatch):
    monkeypatch.setattr("gdiff.dataset.base.DatasetSpec.load", None)
    words = [word for word in SMALL if not word.startswith("metrics")]
    error = refused("sample", *words, f"objective={objective}", word)
    assert f"objective={objective}" in error.replace("'", "")
    assert message in error


@pytest.mark.parametrize(
    "objective, word",
    [
        ("kl_total", "sampler.eta=1"),
        ("kl_total", "sampler=ancestral"),
        ("kl_initialization", "sampler=ddim"),
        ("speedup_in_rounds", "sampler.block_size=4"),
        ("clip_rate", "sampler=li_cai"),
    ],
)
def test_an_objective_that_can_be_had_is_accepted(objective, word):
    assert gdiff("sample", "--dry-run", f"objective={objective}", word).code == 0


def test_bad_image_folders_are_refused():
    def image(path, size):
        path = os.path.join(os.getcwd(), path)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        Image.fromarray(np.random.default_rng(0).integers(256, size=size).astype("u1")).save(path)
        return path

    def of(path):
        return refused("sample", "dataset=folder", f"dataset.path={path}")

    os.makedirs("empty")
    assert "dataset.path is missing" in refused("sample", "dataset=folder")
    assert "is not a folder" in of("missing")
    assert "no images" in of("empty")
    image("one/a.png", (8, 8))
    assert "at least 2" in of("one")
    image("mixed/a.png", (8, 8))
    image("mixed/b.png", (9, 9))
    assert "give dataset.resolution" in of("mixed")
    image("corrupt/a.png", (8, 8))
    with open(image("corrupt/b.png", (8, 8)), "r+b") as file:
        file.truncate(60)
    assert "b.png is not a whole, readable image" in of("corrupt")


def test_bad_arrays_are_refused():
    def of(array, *words):
        np.save("array.npy", array)
        return refused("sample", "dataset=array", "dataset.path=array.npy", *words)

    x = np.random.default_rng(0).normal(size=(20, 3))
    assert "dataset.path is missing" in refused("sample", "dataset=array")
    assert "pickled Python objects" in of(np.array([{}, None], object))
    assert "NaN or infinity, first in row 1" in of(np.where(np.arange(20)[:, None] == 1, np.nan, x))
    assert "at least 2" in of(x[:1])
    assert "array has no labels" in of(x, "dataset.classes=[0]")


def test_a_folder_that_holds_something_is_not_written_to(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    assert "full is not empty (it holds thesis.txt)" in refused("sample", "hydra.run.dir=full")
    assert "hydra.sweep.dir" in refused("sample", "-m", "hydra.sweep.dir=full")


def test_usage_errors_are_one_line():
    assert "No such option: --nope" in refused("sample", "--nope")
    assert "--resume" in refused("sample", "--resume")
    assert "Did you mean 'sample'?" in refused("samplee")
    assert "Missing argument" in refused("data", "prepare")
    assert "--queries" in refused("bench", "--queries", "0")
    assert "leave out -m" in refused("sample", "-m", "--dry-run")
    assert "leave out -m" in refused("sample", "-m", "--resume", "x")
    assert "config.yaml" in refused("sample", "--dry-run", "--resume", "x")
    assert "--config-dir nowhere is not a folder" in refused("sample", "--config-dir", "nowhere")


def test_other_verbs_refuse_in_the_same_way():
    assert "no such option" in refused("bench", "dataset=nope")
    assert "there is no folder" in refused("bench", "-o", "nowhere/numbers.json")
    assert "no such option" in refused("data", "info", "dataset=nope")
    assert "not the folder of a run" in refused("evaluate", "nowhere")
    assert "not the folder of a run" in refused("sample", "--resume", "nowhere")


def test_a_debug_variable_shows_the_traceback(monkeypatch):
    monkeypatch.setenv("GDIFF_DEBUG", "1")
    result = gdiff("sample", "num_samples=0")
    assert result.code == 2
    assert "Traceback (most recent call last)" in result.err
    assert result.err.splitlines()[-1] == "error: num_samples=0 must be at least 1"


def test_a_bug_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr("gdiff.config.to_yaml", lambda experiment: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        gdiff("sample", "--dry-run")


def test_without_arguments_the_help_is_shown():
    result = gdiff()
    assert result.code == 0
    assert "sample" in result.out
    assert gdiff("data").code == 0


def test_help_imports_nothing_heavy():
    code = (
        "import sys\n"
        "from gdiff.cli import app\n"
        "try: app(['sample', '--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'jax', 'hydra', 'omegaconf', 'numpy', 'matplotlib'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@pytest.fixture(scope="module")
def one_run(tmp_path_factory):
    """A finished run, in a process of its own: its folder, stdout, stderr and modules."""
    folder = tmp_path_factory.mktemp("run")
    code = (
        "import sys\n"
        "from gdiff.cli import app\n"
        "try: app(sys.argv[1:])\n"
        "finally: print(*{name.partition('.')[0] for name in sys.modules}, file=sys.stderr)\n"
    )
    environment = os.environ | {"PYTHONWARNINGS": "default"}
    words = [*SMALL, "trajectory=true", f"hydra.run.dir={folder}/a/b"]
    return folder / "a" / "b", subprocess.run(
        [sys.executable, "-c", code, "sample", *words],
        capture_output=True,
        text=True,
        env=environment,
    )


def test_a_run_leaves_its_files(one_run):
    folder, result = one_run
    assert result.returncode == 0, result.stderr
    assert {p.name for p in folder.iterdir()} == {
        ".hydra",
        "config.yaml",
        "gdiff.log",
        "grid.png",
        "metrics.json",
        "neighbours.png",
        "run.json",
        "samples.npz",
        "trajectory.gif",
    }
    with np.load(folder / "samples.npz") as file:
        assert file["samples"].shape == (6, 8, 8, 1)
        assert file["samples"].dtype == np.float32
        assert file["index"].tolist() == list(range(6))
    metrics = json.loads((folder / "metrics.json").read_text())
    assert all(isinstance(value, int | float) for value in metrics.values())
    record = json.loads((folder / "run.json").read_text())
    assert record["status"] == "complete"
    assert record["denoiser_evaluations"] == record["rounds"] == 4
    assert {"versions", "devices", "seconds", "peak_memory_bytes"} <= set(record)
    assert yaml.safe_load((folder / "config.yaml").read_text())["num_samples"] == 6
    assert (folder / ".hydra" / "overrides.yaml").is_file()


def test_a_run_prints_its_metrics_and_its_folder_and_no_noise(one_run):
    folder, result = one_run
    assert "sliced_w2" in result.stdout
    assert result.stdout.splitlines()[-1] == str(folder)
    lines = [line for line in result.stderr.splitlines()[:-1] if not re.match(r"\w+: ", line)]
    assert lines == [], "warnings of Hydra or other noise"


def test_the_log_tells_the_phases_and_nothing_about_absent_hardware(one_run):
    log = (one_run[0] / "gdiff.log").read_text()
    assert "sampling" in log
    assert "tpu" not in log.lower()


def test_digits_need_neither_tfds_nor_tensorflow(one_run):
    modules = set(one_run[1].stderr.splitlines()[-1].split())
    assert "jax" in modules
    assert not {"tensorflow", "tensorflow_datasets"} & modules


def test_quiet_prints_only_the_folder():
    result = gdiff("sample", "-q", *SMALL, "hydra.run.dir=here")
    assert (result.out, result.err) == ("here\n", "")


def test_the_metrics_file_holds_only_what_an_objective_may_name(one_run):
    metrics = json.loads((one_run[0] / "metrics.json").read_text())
    account = [name for name in ACCOUNT if name in metrics]
    assert list(metrics) == [*account, *DISTANCES]


def test_metrics_can_be_computed_again(tmp_path):
    gdiff("sample", "-q", *SMALL, "metrics=none", "hydra.run.dir=r")
    before = json.loads((tmp_path / "r" / "metrics.json").read_text())
    assert set(before) == {"seconds_per_sample", "denoiser_evaluations", "rounds"}
    result = gdiff("evaluate", "r", "metrics.enabled=true", "metrics.projections=7")
    assert result.code == 0, result.err
    after = json.loads((tmp_path / "r" / "metrics.json").read_text())
    assert before.items() <= after.items()
    assert "sliced_w2" in after
    assert "no key 'metrics.foo'" in refused("evaluate", "r", "metrics.foo=3")
    for other in ("seed=1", "metrics=none", "metrics.enabled", "dataset.subset=50"):
        assert f"{other}: evaluate takes metrics.key=value, runt" in refused("evaluate", "r", other)


@pytest.fixture
def of_points():
    """A finished run on points.npy."""
    np.save("points.npy", np.random.default_rng(0).normal(size=(20, 2)))
    words = ("dataset=array", "dataset.path=points.npy", "dataset.subset=null", "metrics=none")
    assert gdiff("sample", "-q", *SMALL, *words, "hydra.run.dir=r").code == 0


def test_metrics_are_those_of_the_data_that_the_run_began_with(of_points):
    np.save("points.npy", np.random.default_rng(1).normal(size=(20, 2)))
    assert "points is not the one that r was made with" in refused("evaluate", "r")


def test_a_run_is_evaluated_and_resumed_where_its_data_are_now(of_points):
    os.makedirs("moved")
    os.rename("points.npy", "moved/points.npy")
    assert "dataset.path" in refused("evaluate", "r")
    there = "dataset.path=moved/points.npy"
    words = ("metrics.enabled=true", there, "score.rows=host", "runtime.x64=true")
    result = gdiff("evaluate", "r", *words)
    assert result.code == 0, result.err
    np.save("points.npy", np.random.default_rng(1).normal(size=(20, 2)))
    assert "is not the one" in refused("evaluate", "r", "dataset.path=points.npy")
    os.remove("r/grid.png")
    assert gdiff("sample", "--resume", "r", "dataset.path=points.npy").code == 2
    assert gdiff("sample", "-q", "--resume", "r", there).code == 0
    assert gdiff("evaluate", "r", "metrics.enabled=true").code == 0


def test_a_run_of_devices_that_are_not_here_is_evaluated_on_those_that_are(of_points, caplog):
    with open("r/config.yaml") as file:
        text = file.read()
    with open("r/config.yaml", "w") as file:
        file.write(text.replace("mesh: batch:1", "mesh: data:999"))
    result = gdiff("evaluate", "r", "metrics.enabled=true")
    assert result.code == 0, result.err
    assert "asks for 999 devices" in caplog.text
    assert "going on with runtime.mesh=auto" in caplog.text
    assert "asks for 998 devices" in refused("evaluate", "r", "runtime.mesh=data:998")
    assert "for gdiff sample" in refused("evaluate", "r", "runtime.distributed=true")


def test_the_job_may_run_in_its_own_folder(tmp_path):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(200, 2)))
    words = ("dataset=array", "dataset.path=x.npy", "metrics=none", "hydra.job.chdir=true")
    result = gdiff("sample", "-q", *SMALL, *words, "hydra.run.dir=r")
    assert result.code == 0, result.err


def test_hydras_own_logging_can_be_chosen():
    result = gdiff("sample", *SMALL, "-q", "hydra/job_logging=none", "hydra.run.dir=r")
    assert result.code == 0, result.err
    assert not os.path.exists("r/gdiff.log")


def rows_of(path):
    """The rows of the runs."""
    with open(path) as file:
        return [row for row in csv.DictReader(file) if row["run"] not in ("mean", "se")]


def test_a_sweep_ends_with_one_table():
    result = gdiff("sample", "-m", *SMALL, "sampler=ddim,ancestral", "schedule.steps=2,3")
    assert result.code == 0, result.err
    assert result.last.endswith("sweep.csv")
    rows = rows_of(result.last)
    assert {(row["sampler"], row["schedule.steps"]) for row in rows} == {
        ("ddim", "2"),
        ("ddim", "3"),
        ("ancestral", "2"),
        ("ancestral", "3"),
    }
    assert all(row["status"] == "complete" and float(row["sliced_w2"]) > 0 for row in rows)
    assert "ancestral" in result.out
    folders = [os.path.join(os.path.dirname(result.last), row["run"]) for row in rows]
    assert all(os.path.isfile(os.path.join(folder, "samples.npz")) for folder in folders)


def test_a_failing_run_does_not_stop_a_sweep():
    result = gdiff("sample", "-m", "-q", *SMALL, "dataset.classes=[99],null")
    assert result.code == 2
    lines = result.err.splitlines()
    assert len(lines) == 2
    assert "error: run 0: dataset.classes=[99]: digits has 10 classes" in lines[0]
    assert lines[1] == "error: 1 of 2 runs failed: 0"
    failed, complete = rows_of(result.last)
    assert (failed["status"], complete["status"]) == ("failed", "complete")
    assert "digits has 10 classes" in failed["error"]


def test_a_bug_in_one_run_does_not_stop_a_sweep(monkeypatch):
    from gdiff import run as runs

    run = runs.run
    monkeypatch.setattr(runs, "run", lambda e, folder: 1 / 0 if e.seed == 0 else run(e, folder))
    result = gdiff("sample", "-m", "-q", *SMALL, "seed=0,1")
    assert result.code == 2
    assert "ZeroDivisionError" in result.err
    assert [row["status"] for row in rows_of(result.last)] == ["failed", "complete"]


def test_a_sweep_that_cannot_begin_leaves_nothing():
    assert "no such option" in refused("sample", "-m", "sampler=ddim,nope")
    assert "INTERVAL_SWEEP" in refused("sample", "-m", "sampler.eta=interval(0,1)")
    assert "hydra.sweep.dir" in refused("sample", "-m", "hydra.sweep.dir=/dev/null/x")
    assert "hydra.sweep.subdir" in refused("sample", "-m", "seed=1,2", "hydra.sweep.subdir=same")


def test_a_sweep_that_is_interrupted_has_a_table_of_its_runs(monkeypatch):
    from gdiff import run as runs

    def fragile(e, folder):
        if e.seed == 1:
            raise KeyboardInterrupt
        return run(e, folder)

    run = runs.run
    monkeypatch.setattr(runs, "run", fragile)
    result = gdiff("sample", "-m", "-q", *SMALL, "seed=0,1,2", "hydra.sweep.dir=s")
    assert result.code == 130
    assert result.err == "interrupted; continue with: gdiff sample --resume s\n"
    assert [row["status"] for row in rows_of("s/sweep.csv")] == ["complete", "failed"]


def test_the_objective_is_what_sweepers_get(monkeypatch):
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

    seen, sweep = [], BasicSweeper.sweep

    def spy(self, arguments):
        seen.extend(sweep(self, arguments))

    monkeypatch.setattr(BasicSweeper, "sweep", spy)
    result = gdiff("sample", "-m", "-q", *SMALL, "seed=1,2", "objective=sliced_w2")
    assert result.code == 0, result.err
    rows = rows_of(result.last)
    assert [job.return_value for job in seen[0]] == [float(row["sliced_w2"]) for row in rows]


@pytest.mark.slow
def test_a_sweep_runs_on_the_joblib_launcher():
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    joblib = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    process = start("sample", "-m", "-q", *SMALL, *joblib, "seed=1,2", "dataset.classes=[1],[99]")
    out, err = process.communicate()
    assert process.returncode == 2, err
    assert len(err.splitlines()) == 3, err
    rows = rows_of(out.splitlines()[-1])
    assert [row["status"] for row in rows] == ["complete", "failed"] * 2


def test_the_classes_of_a_data_set_are_a_narrow_table():
    names = [f"n{number:08}" for number in range(200)]
    for name in names:
        os.makedirs(f"pictures/{name}")
        Image.new("L", (2, 2)).save(f"pictures/{name}/a.png")
    result = gdiff("data", "info", "dataset=folder", "dataset.path=pictures")
    assert result.code == 0, result.err
    assert max(map(len, result.out.splitlines())) < 80
    assert re.search(r"199\W+n00000199\W+1\b", result.out)
    words = ("dataset=folder", "dataset.path=pictures", "dataset.classes=[n00000007,3]")
    assert re.search(r"points\W+2\b", gdiff("data", "info", *words).out)
    saved = yaml.safe_load(gdiff("sample", "--dry-run", *words).out)
    assert saved["dataset"]["classes"] == ["n00000007", 3]


def test_every_verb_has_help():
    for command in app.registered_commands:
        name = command.name or command.callback.__name__
        result = gdiff(name, "--help")
        assert result.code == 0
        assert command.callback.__doc__.split(",")[0].split(":")[0][:30] in result.out


def test_info_names_versions_and_devices():
    result = gdiff("info")
    assert result.code == 0
    assert "jax" in result.out
    assert "cpu" in result.out.lower()


@pytest.mark.parametrize(
    "words, message",
    [
        (("schedule", "schedule.steps=1"), "schedule.steps=1 has a single noise level"),
        (("plan", "tolerance=1", "schedule.steps=1"), "schedule.steps=1 has a single noise level"),
        (("schedule", "schedule.sigma_min=1e-25"), "noise levels from 80 to 1e-25 are beyond the"),
        (("plan", "tolerance=1", "schedule.sigma_max=1e300"), "schedule.sigma_max=1e+300: its squ"),
        (("bench", "-o", "."), "-o . is a folder: give a file in it"),
        (("data", "list", "--data-dir", "nowhere"), "--data-dir nowhere is not a folder"),
        (("data", "prepare", "synthetic", "-o", "."), "--output=. is a folder: give a file in it"),
        (
            ("data", "prepare", "synthetic", "--points", 10**12, "-o", "x.npy"),
            "--points=1000000000000 needs 10.9 PiB of disk, and there are",
        ),
        (("data", "info", "seed=1,2"), "seed=1,2 is a sweep: add -m to gdiff sample"),
    ],
)
def test_other_verbs_refuse_what_they_cannot_do(words, message):
    assert message in refused(*words)


def test_an_evaluation_of_nothing_says_so():
    assert gdiff("sample", "-q", *SMALL, "metrics=none", "hydra.run.dir=r").code == 0
    result = gdiff("evaluate", "r")
    assert (result.code, result.err) == (
        0,
        "warning: nothing was measured: add metrics.enabled=true\n",
    )
    assert "cannot read the override 'metrics.seed=[0'" in refused(
        "evaluate", "r", "metrics.seed=[0"
    )
