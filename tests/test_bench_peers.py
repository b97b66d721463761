import json
import os
import sys
from importlib.util import find_spec

import numpy as np
import pytest
from commands import gdiff

from gdiff import config, report
from gdiff.bench import contenders, memory, peers, samplers
from gdiff.bench.contenders import OTHERS, Peer, Problem, own
from gdiff.bench.harness import Timed, present, relative_errors
from gdiff.bench.memory import Memory
from gdiff.dataset.toy import Moons
from gdiff.metrics.exact import exact_posterior
from gdiff.report import processors
from gdiff.runtime import Runtime
from gdiff.score.exact import Exact
from gdiff.score.wiener import Wiener
from gdiff.trajectory import Queries

SMALL = (
    *("dataset=moons", "dataset.num_points=500", "schedule=ddpm", "schedule.steps=3"),
    "runtime.mesh=batch:1",
)
MODULES = {"torch": "torch", "faiss-cpu": "faiss", "pykeops": "pykeops", "diffusers": "diffusers"}
HELD, PASSING = 48 * 2**20, 96 * 2**20


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr("gdiff.progress._SHOW_AFTER_SECONDS", 3600.0)


@pytest.fixture
def nothing_installed(monkeypatch):
    monkeypatch.setattr(memory, "measure", lambda *_: Memory(2**20, 3 * 2**20))
    for module in MODULES.values():
        for name in [module, *(n for n in sys.modules if n.startswith(f"{module}."))]:
            monkeypatch.setitem(sys.modules, name, None)
    known = peers.version_of
    monkeypatch.setattr(peers, "version_of", lambda p: None if p in MODULES else known(p))


def experiment(*words):
    with config.composer() as composer:
        return composer.experiment([*SMALL, *words])


def problem(dim=2, n=500):
    dataset = Moons(num_points=n).load()
    if dim != 2:
        x = np.random.default_rng(0).standard_normal((n, dim)).astype(np.float32)
        dataset = type(dataset)("normal", x)
    return Problem(dataset, Runtime(mesh="batch:1"))


def queries_of(problem, sigma):
    rng = np.random.default_rng(1)
    rows = problem.dataset.rows(np.arange(4)).reshape(4, -1)
    return (rows + sigma * rng.standard_normal(rows.shape)).astype(np.float32)


def assert_exact(peer, problem, sigmas, rtol):
    ask = peer.prepare(problem)
    for sigma in sigmas:
        z = queries_of(problem, sigma)
        shaped = z.reshape(len(z), *problem.dataset.event_shape)
        expected = exact_posterior(problem.dataset, shaped, np.full(len(z), sigma)).mean
        np.testing.assert_allclose(ask(z, sigma), expected, rtol=rtol, atol=rtol)


def run(capsys, *words, **options):
    present(peers, experiment(*words), 4, 1, **options)
    return capsys.readouterr().out


def test_without_any_library_every_peer_is_one_line(nothing_installed, capsys, tmp_path):
    file = tmp_path / "peers.json"
    shown = run(capsys, "score=wiener", output=file)
    for name in ("gdiff full", "gdiff wiener", "2 products, XLA"):
        assert f"│ {name}" in shown
    for package in MODULES:
        assert f"not installed: pip install {package}, or 'gdiff[bench]'" in shown
    lines = shown.splitlines()
    assert sum(line.startswith("PyTorch cdist: not") for line in lines) == 1
    assert sum(line.startswith("samplers: not") for line in lines) == 1
    numbers = json.loads(file.read_text())
    assert list(numbers["means"]) == ["gdiff full", "gdiff wiener", "2 products, XLA"]
    assert len(numbers["missing"]) == 7
    assert numbers["samplers"] == {}


def test_json_on_stdout_has_machine_levels_and_all_numbers(nothing_installed, capsys):
    numbers = json.loads(run(capsys, as_json=True))
    machine = numbers["machine"]
    assert machine["threads"] == processors() <= machine["cores"]
    assert machine["cpu"]
    assert {"gdiff", "jax", "numpy"} <= set(machine["versions"])
    assert (numbers["points"], numbers["dim"], numbers["queries"]) == (500, 2, 4)
    assert np.all(np.diff(numbers["sigma"]) < 0)
    full, products = numbers["means"].values()
    assert full["times_slower"] == 1
    assert max(full["relative_error_max"]) < 1e-4
    assert len(full["seconds"]) == len(full["relative_error_max"]) == len(numbers["sigma"]) == 3
    assert full["seconds_per_call"] == pytest.approx(np.mean(full["seconds"]))
    assert full["calls"] == [1, 1, 1]
    assert products["relative_error_max"] is None


def test_a_library_that_fails_is_one_line_too(nothing_installed, monkeypatch, capsys):
    def broken(problem):
        def ask(z, sigma):
            raise OSError("no compiler\nat all")

        return ask

    monkeypatch.setattr(peers, "OTHERS", (Peer("KeOps", broken, "numpy"),))
    assert "KeOps: numpy fails: OSError: no compiler at all" in run(capsys)


def test_an_error_of_our_own_is_not_hidden():
    def broken(problem):
        raise ValueError("a bug")

    points = Queries(np.zeros((1, 4, 2)), np.ones(1))
    with pytest.raises(ValueError, match="a bug"):
        peers._prepared([Peer("gdiff", broken)], problem(), points)


def test_gdiff_is_a_contender_like_the_others():
    assert_exact(own(Exact(), ()), problem(dim=5), [0.1, 1.0, 10.0], 1e-5)
    assert own(Wiener(), ()).name == "gdiff wiener"


@pytest.mark.parametrize("peer", [p for p in OTHERS if not p.is_mean], ids=lambda p: p.name)
def test_products_are_those_of_a_scan(peer):
    pytest.importorskip("torch" if peer.package else "jax")
    small = problem(dim=5)
    z = queries_of(small, 1.0)
    expected = z @ small.rows.T @ small.rows
    np.testing.assert_allclose(peer.prepare(small)(z, 1.0), expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("peer", [p for p in OTHERS if p.is_mean], ids=lambda p: p.name)
def test_peers_compute_the_posterior_mean(peer, monkeypatch):
    if find_spec(MODULES[peer.package]) is None:
        pytest.skip(f"{peer.package} is not installed")
    monkeypatch.setattr(contenders, "PROBED", 10**6)
    # FAISS weighs the nearest rows, which here are all.
    assert_exact(peer, problem(dim=5), [0.1, 1.0, 10.0], 1e-4)


def test_samplers_of_diffusers_give_our_samples():
    pytest.importorskip("diffusers")
    found = samplers.measure(problem().data, 4, Wiener(), seed=3, repeats=2)
    assert list(found) == list(samplers.PAIRS)
    for name, pair in found.items():
        assert pair["seconds"] > 0
        assert pair["scheduler_seconds"] > 0
        if name.endswith("own noise"):
            assert pair["max_difference"] is None
        else:
            assert pair["max_difference"] < 1e-4


def _hog(problem):
    held = np.ones(HELD, np.uint8) if len(problem.dataset) > 100 else None

    def ask(z, sigma):
        assert held is None or held.all()
        return z * np.ones(PASSING, np.uint8)[0]

    return ask


def _killed(problem):
    os._exit(137)  # as if out of memory


def measured_memory(peer):
    z, sigma = np.zeros((2, 4, 2), np.float32), np.array([1.0, 0.1])
    return memory.measure(peer, Moons(num_points=500), Runtime(mesh="batch:1"), z, sigma)


@pytest.mark.skipif(not memory.is_known(), reason="Linux alone tells")
def test_memory_is_what_a_contender_holds_and_what_a_call_adds():
    found = measured_memory(Peer("hog", _hog))
    assert found.held == pytest.approx(HELD, abs=4 * 2**20)
    assert found.peak == pytest.approx(HELD + PASSING, abs=8 * 2**20)


def test_a_contender_that_dies_has_no_memory():
    assert measured_memory(Peer("killed", _killed)) is None


@pytest.mark.skipif(not memory.is_known(), reason="Linux alone tells")
def test_memory_of_our_score_is_measured_in_another_process():
    found = measured_memory(own(Exact(), (1.0, 0.1)))
    assert found.held <= found.peak < 64 * 2**20


def test_errors_are_the_largest_relative_ones_of_a_level():
    exact = np.array([[[3.0, 4.0], [0.0, 2.0]], [[0.0, 0.0], [0.0, 8.0]]])
    means = [exact[0] + [[0.5, 0.0], [0.0, 0.1]], exact[1] + [[0.0, 0.8], [0.0, 0.0]]]
    assert relative_errors(np.stack(means), exact).tolist() == pytest.approx([0.1, 0.1])


def test_a_ratio_is_the_median_over_rounds_of_all_levels():
    seconds = {"first": [[1.0, 2.0], [1.0, 2.0]], "other": [[3.0, 5.0], [5.0, 3.0]]}
    means = np.ones((4, 2), np.float32)
    rounds = [
        {name: Timed(means, np.array(levels[i])) for name, levels in seconds.items()}
        for i in range(2)
    ]
    first, other = (Peer(name, None) for name in seconds)
    numbers = peers._numbers(other, first, rounds, np.ones((2, 4, 2)))
    assert numbers["times_slower"] == pytest.approx((8 / 2 + 8 / 4) / 2)
    assert numbers["seconds"] == [4.0, 4.0]
    assert numbers["seconds_per_call"] == 4
    assert numbers["relative_error_max"] == [0, 0]


def test_tables_leave_out_what_was_not_measured(capsys):
    full = {"seconds_per_call": 0.5, "times_slower": 1.0, "relative_error_max": [1e-6]}
    products = full | {"relative_error_max": None, "memory_bytes": None}
    full |= {"memory_bytes": {"held": 2**20, "peak": 3 * 2**20}}
    results = {"dataset": "d", "points": 1, "dim": 2, "queries": 3, "machine": {"threads": 4}}
    results |= {"sigma": [1.5], "means": {"gdiff full": full, "products": products}}
    results |= {"samplers": {}, "missing": {"samplers": "not installed"}}
    for each in peers.tables(results):
        print(each) if isinstance(each, str) else report.show(each)
    lines = capsys.readouterr().out.splitlines()
    assert any("gdiff full" in line and "0.5" in line and "3 │" in line for line in lines)
    assert any("1.5" in line and "1.0e-06" in line for line in lines)
    assert sum("products" in line for line in lines) == 1
    assert lines[-1] == "samplers: not installed"


@pytest.mark.parametrize("has_memory", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_command_prints_json_only_for_peers(has_memory, monkeypatch):
    if not has_memory:
        monkeypatch.setattr(memory, "measure", lambda *_: None)
    words = ("peers", *SMALL, "--queries", "4", "--repeats", "1")
    result = gdiff("bench", *words, "--json")
    assert result.code == 0, result.err
    assert set(json.loads(result.out)) >= {"dataset", "means"}
    result = gdiff("bench", "--json")
    assert (result.code, result.err.count("\n")) == (2, 1)
