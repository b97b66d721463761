import csv

import numpy as np
import pytest

from gdiff.dataset.digits import Digits
from gdiff.study import denoisers
from tests.commands import gdiff
from tests.score.exact import posterior

JOB = ("dataset=digits", "dataset.subset=300", "schedule.steps=3", "runtime.mesh=batch:1")

pytestmark = pytest.mark.usefixtures("in_empty_folder", "silent", "undrawn")


def compare(*words):
    return gdiff("compare", *words, "hydra.run.dir=run")


def test_a_table_holds_all_pairs_and_agrees_with_direct_sums():
    result = compare("full,wiener", *JOB, "--queries=6")
    assert (result.code, result.last) == (0, "run"), result.err
    with open("run/compare.csv") as file:
        rows = list(csv.DictReader(file))
    levels = list(dict.fromkeys(float(row["sigma"]) for row in rows))
    assert len(rows) == len(levels) * 2 * 4  # kinds of points, pairs of which one is exact
    spec = Digits(subset=300)
    y = spec.load().rows(slice(None)).astype(np.float64).reshape(300, 64)
    covariance, middle = np.cov(y.T, bias=True), y.mean(0)
    noise = np.random.default_rng([0, 1]).standard_normal((6, 8, 8, 1)).reshape(6, 64)
    for kind, dataset in (("train", spec.load()), ("held_out", spec.load_held_out())):
        drawn = np.sort(np.random.default_rng(0).choice(len(dataset), 6, replace=False))
        clean = dataset.rows(drawn).reshape(6, 64)
        for sigma in levels[:2]:
            z = clean + sigma * noise
            exact = posterior(y, z, np.full(6, sigma))[0]
            gain = covariance @ np.linalg.inv(covariance + sigma**2 * np.eye(64))
            linear = middle + (z - middle) @ gain.T
            (row,) = (
                row
                for row in rows
                if (row["points"], row["score"], row["reference"]) == (kind, "wiener", "exact")
                and float(row["sigma"]) == sigma
            )
            error = np.sum((linear - exact) ** 2)
            distance = np.sqrt(error / np.sum((exact - middle) ** 2))
            assert float(row["distance"]) == pytest.approx(distance, rel=2e-3)
            r2 = 1 - error / np.sum((exact - exact.mean()) ** 2)
            assert float(row["r2"]) == pytest.approx(r2, rel=2e-3, abs=1e-3)
            loss = np.mean((linear - clean) ** 2)
            assert float(row["loss"]) == pytest.approx(loss, rel=2e-3)
    full = [row for row in rows if (row["score"], row["reference"]) == ("full", "exact")]
    assert all(float(row["distance"]) < 1e-4 for row in full)


def test_twice_the_mean_is_as_far_away_as_none_at_all():
    assert denoisers._far(2 * np.eye(2), np.eye(2), np.zeros(2)) == (1.0, -1.0)
    assert denoisers._far(np.eye(2), np.eye(2), np.zeros(2)) == (0.0, 1.0)


@pytest.mark.parametrize(
    "words, said",
    [
        (("full", *JOB), "several scores"),
        (("dataset=digits",), "name the scores first"),
        (("full,wiener", "score=golden", *JOB), "leave out score="),
        (("full,exact", *JOB), "exact"),
        (("full,full", *JOB), "twice"),
    ],
)
def test_what_cannot_be_compared_is_one_line(words, said):
    result = compare(*words)
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert said in result.err
