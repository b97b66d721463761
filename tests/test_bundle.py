"""What is packed for machines without a network."""

import subprocess
import sys
import zipfile
from pathlib import Path

import bundle
import pytest
from commands import SMALL

ROOT = Path(__file__).parents[1]


def test_jax_and_tfds_stay_out_with_all_that_they_need():
    required, names = bundle.packages("3.12")
    assert {"equinox", "hydra-core", "omegaconf", "antlr4-python3-runtime", "pyyaml"} <= set(names)
    assert not {"jax", "jaxlib", "numpy", "scipy", "ml-dtypes"} & set(names)
    assert not {"tensorflow-datasets", "array-record", "protobuf", "etils"} & set(names)
    asked = {each.name for each in required}
    assert {"jax", "numpy", "equinox"} <= asked
    assert not {"tensorflow-datasets", "array-record", "importlib_resources"} & asked


def test_what_only_a_package_left_out_needs_stays_out_too():
    required, names = bundle.packages("3.12", without=["Scikit_Learn", "matplotlib"])
    assert not {"scikit-learn", "joblib", "matplotlib", "contourpy"} & set(names)
    assert {"pillow", "threadpoolctl"} <= set(names)
    assert "scikit-learn" in {each.name for each in required}  # it must be there


def test_a_machine_without_jax_is_told_in_one_line(tmp_path):
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n')
    python.chmod(0o755)
    result = subprocess.run(
        ["sh", ROOT / "scripts" / "bundle_install.sh", python], capture_output=True, text=True
    )
    assert result.returncode == 1
    assert result.stderr.startswith("error: ")
    assert "has no jax" in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.slow
def test_a_run_does_without_what_the_bundle_leaves_out(tmp_path):
    missing = [name.replace("-", "_") for name in bundle.DATA]
    code = (
        f"import sys; sys.modules |= dict.fromkeys({missing}); from gdiff.cli import main; main()"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, "sample", "-q", *SMALL, "hydra.run.dir=run"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.slow
def test_the_wheel_holds_code_and_configurations_alone(tmp_path):
    pytest.importorskip("hatchling")
    pip = [sys.executable, "-m", "pip", "--quiet", "wheel", "--no-index"]
    subprocess.run(
        [*pip, "--no-deps", "--no-build-isolation", f"--wheel-dir={tmp_path}", ROOT], check=True
    )
    names = zipfile.ZipFile(next(tmp_path.glob("gdiff-*.whl"))).namelist()
    own = [name for name in names if ".dist-info/" not in name]
    assert all(name.startswith("gdiff/") for name in own)
    for folder, inside in (("gdiff", "gdiff"), ("configs", "gdiff/configs")):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in (".py", ".yaml"):
                assert f"{inside}/{path.relative_to(ROOT / folder)}" in own
