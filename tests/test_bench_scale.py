import json
import re
from itertools import pairwise

import fields
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from commands import gdiff

from gdiff import report
from gdiff.bench import harness, memory, scale
from gdiff.dataset import Dataset
from gdiff.dataset.array import Array
from gdiff.dataset.placed import Placed
from gdiff.parallel.mesh import batch_sharding, make_mesh
from gdiff.score.exact import Exact
from gdiff.trajectory import Queries

QUERIES, LEVELS = 8, 2


pytestmark = pytest.mark.usefixtures("silent")


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("scale") / "small.npy"
    np.save(path, fields.pictures(601))
    return path


def measured(file, *words):
    result = gdiff(
        *("bench", "scale", "dataset=array", f"dataset.path={file}", "score.pilot_queries=8"),
        *("schedule=ddpm", f"schedule.steps={LEVELS}", "--queries", QUERIES, "--repeats", "2"),
        *words,
        "--json",
    )
    assert result.code == 0, result.err
    return json.loads(result.out)


@pytest.fixture(scope="module")
def results(file, tmp_path_factory):
    output = tmp_path_factory.mktemp("scale") / "scale.json"
    results = measured(file, "runtime.mesh=batch:1", "-o", output)
    assert json.loads(output.read_text()) == results
    return results


def refused(*words):
    result = gdiff("bench", *words)
    assert (result.code, result.err.count("\n")) == (2, 1)
    return result.err


def test_numbers_say_what_they_are_of(results):
    assert (results["points"], results["dim"], results["queries"]) == (601, 432, QUERIES)
    assert results["bytes"] == 601 * 432
    assert (results["dtype"], results["rows"]) == ("uint8", "device")
    assert results["read"]["from"] == "file"
    assert len(results["machine"]["devices"]) == 1
    assert all(a > b > 0 for a, b in pairwise(results["sigma"]))
    for name in ("read", "product", "full", "golden"):
        assert len(results[name]["seconds"]) == LEVELS
        assert results[name]["total_seconds"] == pytest.approx(sum(results[name]["seconds"]))
    assert results["full"]["calls"] == results["golden"]["calls"] == [2] * LEVELS


def test_a_scan_takes_as_many_times_as_long_as_the_slower_of_reading_and_products(results):
    full = results["full"]
    for read, product, slower in zip(
        full["times_read"], full["times_product"], full["times_slower_of_both"], strict=True
    ):
        assert 0 < slower <= min(read, product) * (1 + 1e-9)
    total = full["total_seconds"]
    assert full["total_times_read"] == pytest.approx(total / results["read"]["total_seconds"])


def test_the_golden_scan_is_compared_with_the_full_one_at_its_own_states(results):
    golden = results["golden"]
    assert max(golden["relative_error_max"]) < 2 * golden["tolerance"]
    assert all(0 <= rows <= 601 for rows in golden["rows"])
    assert min(golden["rows"]) < 601
    ratios = np.divide(results["full"]["seconds"], golden["seconds"])
    np.testing.assert_allclose(golden["times_faster"], ratios)


def test_one_device_exchanges_nothing(results):
    assert results["exchanged"] == {"full": 0, "golden": 0}


def test_devices_exchange_three_numbers_per_coordinate_and_scan_at_most():
    dataset, mesh = fields.dataset(50), make_mesh("data:2")
    z = jax.device_put(np.ones((2, 12, 12, 3), np.float32), batch_sharding(mesh))
    _, moved = scale._compiled(Exact().fit(Placed(dataset, mesh)), z)
    assert 1 < moved / z.size < 3 * 2  # the second scan is for data that crowd


@pytest.mark.slow
def test_rows_may_be_on_the_host_and_split_over_devices(file):
    results = measured(file, "score.rows=host", "runtime.mesh=data:2")
    assert (results["rows"], len(results["machine"]["devices"])) == ("host", 2)
    assert max(results["golden"]["relative_error_max"]) < 0.02
    assert 1 < results["exchanged"]["full"] < 3 * 2
    # The scans of a golden one: its own, its reserve, and the full one twice.
    assert 1 < results["exchanged"]["golden"] < 3 * 4


@pytest.mark.skipif(not memory.is_known(), reason="Linux alone tells")
def test_memory_is_that_of_the_process(results):
    found = results["memory"]
    assert found["peak_bytes"] >= found["anonymous_bytes"] > 2**20


def test_tables_have_a_row_for_every_level_and_one_for_all(results, capsys):
    for table in scale.tables(results):
        report.show(table)
    shown = capsys.readouterr().out
    assert len(re.findall(r"│ +all │", shown)) == 2
    for sigma in results["sigma"]:
        assert shown.count(f"{sigma:.3g} │") >= 2
    assert "golden: memory, peak, GiB" in shown
    tables = list(scale.tables(results | {"memory": None}))
    assert tables[-1].row_count == 5


def test_states_are_those_of_ddim():
    levels = np.array([4.0, 2.0, 1.0])
    z = jnp.array([[3.0]])
    states = scale._trajectory(lambda z, sigma: (z / 2, None), z, levels)
    np.testing.assert_allclose(np.ravel(states), 3 * 0.75 ** np.arange(3), rtol=1e-6)


def test_reading_and_products_are_timed_before_and_after_a_full_scan(monkeypatch):
    monkeypatch.setattr(harness, "SLOW_SECONDS", -1.0)  # so that everything is called once
    calls = []

    def ask(name):
        def call(z, sigma):
            calls.append(name)
            return z * (1 + (name == "golden")), jnp.array([3, 5])

        return call

    def limit(name, seconds):
        return lambda: calls.append(name) or next(seconds)

    limits = limit("read", iter([1.0, 3.0])), limit("product", iter([5.0, 9.0]))
    z = jnp.array([[3.0, 4.0], [0.0, 0.0]])
    (level,) = scale._measured(ask("golden"), ask("full"), limits, Queries([z], np.ones(1)), 7)
    assert calls == ["golden", "product", "read", "full", "read", "product"]
    assert (level.read.tolist(), level.product.tolist(), len(level.full)) == ([2.0], [7.0], 1)
    assert level.error == 1
    assert level.rows.tolist() == [3, 5]


def test_data_in_memory_and_in_a_file_are_read_to_their_end(file, monkeypatch):
    monkeypatch.setattr(scale, "_BUFFER_BYTES", 1000)
    mapped = Array(path=file).load()
    assert scale._reading(mapped)() > 0
    rows = Dataset("rows", fields.pictures(50)[:, ::2])
    assert scale._reading(rows)() > 0
    file_gone = Array(path=file).load()
    file_gone.x.filename = file.parent / "gone.npy"
    assert scale._reading(file_gone)() > 0  # what is mapped is still there


def test_mistakes_are_one_line():
    assert "leave score=full out" in refused("scale", "score=full")
    assert "leave score=full,golden out" in refused("scale", "score=full,golden")
    assert "too small for gdiff bench scale" in refused(
        "scale", "dataset=two_points", "runtime.mesh=batch:1"
    )
    assert "multiple of 4 devices" in refused("scale", "dataset=digits", "--queries", "3")
