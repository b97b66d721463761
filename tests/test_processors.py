"""Numeric promises hold on every processor, not on the one at hand alone.

Compilers use what instructions there are: with fused ones a product and a sum are rounded once,
and sums run in another order for every width of registers and number of threads.
"""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SLOW = [
    "tests/kernels",
    "tests/score/test_exact.py",
    "tests/score/test_golden.py",
    "tests/score/test_patch.py",
    "tests/score/test_pca_local.py",
]
QUICK = [
    "tests/kernels/test_compensated.py::test_affine_loses_nothing_where_products_and_sums_are_fused",
    "tests/score/test_pca_local.py::test_rows_that_compete_far_from_the_query_share_its_weight_at_low_noise[full-batch:1]",
]


def slow(*values):
    return pytest.param(SLOW, *values, marks=pytest.mark.slow)


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="other instructions")
@pytest.mark.parametrize(
    "tests, instructions, threads",
    [(QUICK, "SSE4_2", 1), slow("SSE4_2", 2), slow("AVX2", 1), slow("AVX2", 2), slow("AVX512", 1)],
    ids=lambda x: None if isinstance(x, list) else str(x),
)
def test_numerics(tests, instructions, threads):
    flags = f"{os.environ['XLA_FLAGS']} --xla_cpu_max_isa={instructions}"
    if threads == 1:
        flags += " --xla_cpu_multi_thread_eigen=false"
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-m", "not slow", "-p", "no:cacheprovider", *tests],
        cwd=ROOT,
        env={**os.environ, "XLA_FLAGS": flags, "NPROC": str(threads)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-1000:]
