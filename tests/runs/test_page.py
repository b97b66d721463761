"""The page that compares runs."""

import base64
import hashlib
import html
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import browser
import numpy as np
import pytest
from commands import gdiff
from past import add_samples, config, damage, make, make_sweep

from gdiff import runs
from gdiff.report import page
from gdiff.report.charts import Curve, bar_chart, line_chart

EVIL = "</title><script>alert(1)</script>\"'><img src=x onerror=alert(1)>&amp;"


def page_of(folder):
    return page.html(*runs.find([folder]), "a sweep")


def svgs(text):
    return [ET.fromstring(found) for found in re.findall(r"<svg class=\"chart\".*?</svg>", text)]


@pytest.fixture
def images(tmp_path):
    """A sweep with images, score errors and budgets."""
    folder = make_sweep(tmp_path / "s")
    random = np.random.default_rng(0)
    for run in folder.iterdir():
        add_samples(run, random.normal(size=(9, 4, 4, 1)).astype(np.float32))
        curve = "sigma,relative_error_median,subset_size\n10,0.5,\n1,0.25,\n0.1,0,\n"
        (run / "score_error.csv").write_text(curve)
        (run / "budget.csv").write_text("sigma,total\n80,0\n1,0.5\n0.1,2\n")
        (run / "budget.json").write_text('{"discretization": {"nats": 2}, "score": {"nats": null}}')
        metrics = (run / "metrics.json").read_text()
        (run / "metrics.json").write_text(metrics.replace("{", '{"kl_total": 2.0, ', 1))
        (run / "neighbours.png").write_bytes(page.png(np.zeros((4, 4, 3), np.uint8)))
    return folder


def test_a_page_stands_alone(images):
    text = page_of(images)
    assert not re.search(r"https?://|@import|url\(", text)
    assert re.findall(r"(?:src|href)=\"(?!data:|#)", text) == []
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}" in text


def test_a_page_tells_what_differs_and_shows_it(images):
    text = page_of(images)
    plain = html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", text)))
    assert "8 runs, 8 complete" in plain
    assert "In all runs: dataset=moons" in plain
    assert "0.15 ± 0.05" in plain  # both seeds of ddim in ten steps
    assert "gdiff sample sampler=heun schedule.steps=100 seed=1" in plain
    assert len(re.findall(r"alt=\"sample \d\"", text)) == 8 * 8
    assert text.count("above the nearest data points") == 8
    charts = {svg.get("aria-label"): svg for svg in svgs(text)}
    # The evaluations against the steps say nothing.
    by_level = ("median relative error of the score", "nats spent down to a noise level")
    assert list(charts) == ["sliced_w2", *by_level, "budget"]
    lines = charts["sliced_w2"].findall("g")
    assert len(lines) == 2
    assert [len(line.findall("circle")) for line in lines] == [2, 2]
    for name in by_level:
        assert [len(line.findall("circle")) for line in charts[name].findall("g")] == [2] * 8
    assert len(charts["budget"].findall(".//rect")) == 8


def test_what_runs_hold_is_text(tmp_path):
    words = [f"sampler={EVIL}", "seed=0"]
    folder = make(tmp_path / "a<b>", config() | {EVIL: EVIL}, {EVIL: 1.0}, words=words)
    make(tmp_path / "b", config(seed=1), {EVIL: 2.0}, words=[], status="failed", error=EVIL)
    (folder / "grid.png").write_text(EVIL)
    (folder / "score_error.csv").write_text(f"sigma,{EVIL}\n1,{EVIL}\n")
    (folder / "budget.json").write_text('{"score": [1]}')
    text = page.html(*runs.find([tmp_path]), EVIL)
    assert text.count("<script") == 1
    assert "<img" not in text
    assert "onerror=alert" not in text.replace("onerror=alert(1)&gt;", "")


def test_what_is_damaged_is_named(tmp_path):
    messages = damage(tmp_path)
    make(tmp_path / "whole", config(), {"sliced_w2": 1.0})
    text = page_of(tmp_path)
    assert text.count("Left out:") == len(messages)
    assert "1 run, 1 complete" in text


@pytest.mark.parametrize("metrics", [None, {}, {"sliced_w2": 1.0}])
def test_a_page_of_one_run_needs_nothing_of_it(tmp_path, metrics):
    make(tmp_path / "a", config(), metrics, status="running")
    assert "No setting differs" in page_of(tmp_path)


def test_pictures_beyond_the_size_of_a_page_are_left_out(images, monkeypatch):
    monkeypatch.setattr(page, "_MOST_PICTURES", 2000)
    assert "are left out" in page_of(images)


def test_large_images_are_made_smaller():
    assert page._small(np.zeros((300, 200, 3), np.uint8)).shape == (128, 85, 3)


def test_axes_hold_all_points_and_are_logarithmic_where_that_suits():
    def places(curve, **options):
        svg = ET.fromstring(line_chart([curve], "t", "x", **options))
        marks = [(float(c.get("cx")), float(c.get("cy"))) for c in svg.iter("circle")]
        return np.array(marks), [text.text for text in svg.iter("text")]

    marks, texts = places(Curve("", [1, 10, 100], [1e-6, 1e-3, 1.0]))
    np.testing.assert_allclose(np.diff(marks, axis=0)[0], np.diff(marks, axis=0)[1], atol=0.2)
    assert {"1", "10", "100", "10⁻⁶"} <= set(texts)
    marks, texts = places(Curve("", [1, 2, 3], [0.0, np.nan, 4.0], [1.0, 0, 0]))
    assert len(marks) == 2
    assert "0" in texts
    assert np.all((marks >= 0) & (marks <= 440))
    marks, texts = places(Curve("", [0, 1], [5.0, 5.0]), names=["a", "b" * 40])
    assert "a" in texts
    assert len(set(marks[:, 1])) == 1


def test_parts_of_a_bar_add_up():
    rows = [("a", 0, [("x", 1.0), ("y", 3.0)]), ("b", 1, [("y", 2.0)])]
    svg = ET.fromstring(bar_chart(rows, "nats", "budget"))
    first, second, other = (
        (float(r.get("x")), float(r.get("width")), r.get("class")) for r in svg.iter("rect")
    )
    assert first[0] + first[1] == pytest.approx(second[0], abs=0.2)
    assert second[1] == pytest.approx(3 * first[1], abs=0.3)
    assert other[2] == second[2]
    assert other[0] == first[0]


def test_the_command_writes_a_page(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_sweep(Path("s"))
    damage(Path("t"))
    result = gdiff("report", "s", "t", "--where", "sampler=ddim", "--last", "3", "-o", "p.html")
    assert (result.code, result.out) == (0, "p.html\n")
    assert "warning: left out: t/nojson/run.json cannot be read" in result.err
    assert "3 runs" in Path("p.html").read_text(encoding="utf-8")
    for words, message in {
        ("s", "-o", "p.pdf"): "ends in one of .html",
        ("s", "-o", "no/p.html"): "there is no folder",
        ("no",): "there is no folder no",
        ("s", "--where", "seed=7"): "no run in s meets seed=7",
    }.items():
        result = gdiff("report", *words)
        assert result.code == 2
        assert message in result.err
        assert len(result.err.splitlines()) == 1


@pytest.mark.slow
@pytest.mark.skipif(browser.EXECUTABLE is None, reason="needs Chromium")
def test_a_browser_shows_the_page_and_it_sorts_and_filters(images, tmp_path):
    file = tmp_path / "page.html"
    file.write_text(page_of(images), encoding="utf-8")
    names = "[...document.querySelectorAll('#table tbody tr:not([hidden]) td:first-child')]"
    names += ".map(cell => cell.textContent.trim()).join()"
    with browser.browser(tmp_path / "profile") as tab:
        for width in (1280, 390):
            for dark in (False, True):
                tab.open(f"file://{file}", width, dark=dark)
                assert tab.run("document.documentElement.scrollWidth") <= width
                colour = tab.run("getComputedStyle(document.body).backgroundColor")
                assert (colour != "rgb(255, 255, 255)") == dark
        head = "[...document.querySelectorAll('#table th button')]"
        click = f"{head}.find(b => b.textContent === 'sliced_w2').click()"
        tab.run(click)
        assert tab.run(names) == "2,3,6,7,0,1,4,5"
        tab.run(click)
        assert tab.run(names) == "5,4,1,0,7,6,3,2"
        script = "const i = document.getElementById('filter'); i.value = 'sampler=ddim seed>0';"
        tab.run(f"{script} i.dispatchEvent(new Event('input'))")
        assert tab.run(names) == "1,3"
        assert tab.run("document.getElementById('count').textContent") == "2 of 8"
        hidden = "document.querySelectorAll('#samples figure[hidden]').length"
        assert tab.run(hidden) == 6
        tab.run("location.hash = '#run-3'")
        assert tab.run("document.getElementById('run-3') !== null")
        assert tab.messages == []
