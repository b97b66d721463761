"""Tables for the screen."""

import io
from importlib.metadata import PackageNotFoundError

from rich.console import Console

from gdiff import report


def shown(table, width=200):
    console = Console(width=width, file=io.StringIO())
    console.print(table)
    return console.file.getvalue()


def test_the_table_shows_what_tells_runs_apart():
    rows = [
        {"run": "0", "status": "complete", "steps": "10", "rounds": 10, "w": 0.25, "same": 1},
        {"run": "1", "status": "complete", "steps": "50", "rounds": 50, "w": 0.125, "same": 1},
    ]
    text = shown(report.sweep_table(rows))
    assert "0.125" in text
    for absent in ("status", "same", "rounds"):  # rounds repeats steps
        assert absent not in text


def test_the_table_of_one_run_shows_all_of_it():
    text = shown(report.sweep_table([{"run": "0", "status": "complete", "w": 0.25}]))
    assert "complete" in text
    assert "0.25" in text


def test_numbers_are_not_broken_in_a_terminal_of_ordinary_width():
    numbers = {"seconds_per_sample": 0.012345, "nn_distance": 1.2345e-5, "copy_fraction": 0.8906}
    numbers |= {"sliced_w2": 0.09471, "frechet_pca": 12.345, "kid_pca": -0.08319}
    rows = [
        {"run": str(i), "sampler": sampler, "schedule.steps": str(10 * i)}
        | {name: number * (i + 1) for name, number in numbers.items()}
        for i, sampler in enumerate(["ddim", "ancestral"])
    ]
    text = shown(report.sweep_table(rows), width=80)
    assert "ancestral" in text
    assert "1.23e-05" in text
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 80


def test_a_table_is_whole_where_there_is_no_terminal(capsys):
    report.show(report.metrics_table({"a" * 150: 1.0, "b": 2.0}))
    assert "a" * 150 in capsys.readouterr().out


def test_a_value_in_brackets_is_no_markup(capsys):
    rows = [{"run": str(k), "condition": f"[cat,dog{k}]"} for k in range(2)]
    report.show(report.sweep_table(rows))
    assert "[cat,dog1]" in capsys.readouterr().out


def test_a_terminal_gets_no_orders_from_names():
    assert report.printable("a\x1b[2Jé σ") == "a�[2Jé σ"


def test_info_is_about_this_machine():
    text = shown(report.info_table())
    assert "jax" in text
    assert report.processors() >= 1
    assert "GiB" in text


def test_info_says_what_is_not_installed(monkeypatch):
    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr("gdiff.report.screen.version", missing)
    assert "not installed" in shown(report.info_table())
