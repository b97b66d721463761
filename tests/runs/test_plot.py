"""Figures of many runs."""

import io
from pathlib import Path

import numpy as np
import pytest
from commands import gdiff
from past import make_sweep
from PIL import Image

pytestmark = pytest.mark.usefixtures("in_empty_folder")


def test_seeds_are_bars_and_names_are_on_the_figure():
    make_sweep(Path("s"))
    words = ("plot", "s", "sliced_w2", "--x", "schedule.steps", "--line", "sampler")
    result = gdiff(*words, "-o", "a.svg")
    assert (result.code, result.out) == (0, "a.svg\n")
    text = Path("a.svg").read_text()
    for word in ("sliced_w2", "schedule.steps", "sampler", "ddim", "heun", ">100<"):
        assert word in text
    assert gdiff(*words, "-o", "b.svg").code == 0
    assert Path("b.svg").read_bytes() == Path("a.svg").read_bytes()
    assert gdiff(*words, "-o", "p.png").code == 0
    pixels = np.asarray(Image.open(io.BytesIO(Path("p.png").read_bytes())).convert("RGB"))
    for colour in ((0xD9, 0x48, 0x0F), (0x19, 0x71, 0xC2)):
        assert np.any(np.abs(pixels.astype(int) - colour).sum(-1) < 20)


def test_names_stand_along_the_axis_and_the_file_is_named_by_the_metric():
    make_sweep(Path("s"))
    words = ("plot", "s", "sliced_w2", "--x", "sampler", "--where", "seed=0")
    assert gdiff(*words).code == 0
    assert Path("sliced_w2.pdf").read_bytes().startswith(b"%PDF")
    assert gdiff(*words, "-o", "a.svg").code == 0
    assert ">ddim<" in Path("a.svg").read_text()


def test_outputs_are_drawn_by_default_and_a_metric_is_asked_for():
    make_sweep(Path("outputs/s"))
    assert gdiff("plot", "sliced_w2", "-o", "a.svg").out == "a.svg\n"
    for words in (("plot",), ("plot", "outputs")):
        result = gdiff(*words)
        assert (result.code, len(result.err.splitlines())) == (2, 1)
        assert "name a metric after the folders, as in gdiff plot outputs sliced_w2" in result.err


@pytest.mark.parametrize(
    "words, message",
    [
        (("fid",), "no run has such a setting or metric"),
        (("sliced_w2", "--x", "step"), "--x step: no run has such"),
        (("sliced_w2", "-o", "a.gif"), "ends in one of .pdf, .svg, .png"),
        (("sliced_w2", "--where", "sampler=ddim", "--where", "schedule.steps=10"), "but their"),
    ],
)
def test_what_cannot_be_drawn_is_one_line(words, message):
    make_sweep(Path("s"))
    result = gdiff("plot", "s", *words)
    assert result.code == 2
    assert message in result.err
    assert len(result.err.splitlines()) == 1


def test_the_figures_of_the_scaling_study_are_drawn_from_its_tables():
    folder = Path("study")
    folder.mkdir()
    rows = [f"ODE,{d},{4 * d**0.5},{5 + d / 16},0.1" for d in (4, 16, 64)]
    (folder / "rounds.csv").write_text("\n".join(["measure,dim,steps,rounds,budget", *rows]))
    rows = [f"{name},{k},{k},{1 / k}" for name in ("ddim", "heun") for k in (10, 20)]
    head = "method,steps,evaluations,total_variation"
    (folder / "errors.csv").write_text("\n".join([head, *rows]))
    for name, word in (("rounds", "dimension d"), ("errors", "heun")):
        assert gdiff("plot", "study", name, "-o", f"{name}.svg").out == f"{name}.svg\n"
        assert word in Path(f"{name}.svg").read_text()
    (folder / "errors.csv").write_text(head + "\nddim,1,2,none")
    result = gdiff("plot", "study", "errors")
    assert (result.code, len(result.err.splitlines())) == (2, 1)
    assert "study/errors.csv is not a table of the scaling study" in result.err


def test_past_runs_are_listed():
    make_sweep(Path("outputs/s"))
    result = gdiff("runs", "--sort", "sliced_w2", "--reverse", "--where", "sampler=ddim")
    assert result.code == 0, result.err
    lines = [line.split()[0] for line in result.out.splitlines() if line.startswith("s/")]
    assert lines == ["s/1", "s/0", "s/3", "s/2"]
    assert "schedule.steps=100 seed=1" in result.out
    assert len(gdiff("runs", "--last", "1").out.splitlines()) < len(result.out.splitlines())
    assert "there is no folder nothing" in gdiff("runs", "nothing").err
    none = gdiff("runs", "--where", "status!=complete")
    assert (none.code, none.out) == (0, "")
    assert none.err.startswith("no run in outputs meets status!=complete")
