"""What the shell offers, and what help and version say."""

import pytest
from commands import gdiff

from gdiff import __version__
from gdiff.cli import app


@pytest.fixture
def offered(monkeypatch, capsys):
    """The words that a shell is offered after words that are typed."""

    def complete(shell, *words):
        monkeypatch.setenv("_GDIFF_COMPLETE", f"complete_{shell}")
        monkeypatch.setenv("COMP_WORDS", "\n".join(words))
        monkeypatch.setenv("COMP_CWORD", str(len(words) - 1))
        monkeypatch.setenv("_TYPER_COMPLETE_ARGS", " ".join(words))
        with pytest.raises(SystemExit):
            app(prog_name="gdiff")
        return capsys.readouterr().out.split()

    return complete


@pytest.mark.parametrize(
    "words, some",
    [
        (("sampler", "="), ["ancestral", "ddim", "heun"]),  # as bash takes it apart
        (("sampler", "=", "dd"), ["ddim", "ddpm"]),
        (("sampler", "=", "ddim,hu"), []),
        (("sampler", "=", "ddim,he"), ["ddim,heun"]),
        (("sam",), ["sampler=", "sampler."]),
        (("num_s",), ["num_samples=", "num_samples=64"]),
        (("schedule.st",), ["schedule.steps="]),
        (("score=golden", "score.tol"), ["score.tolerance="]),
        (("trajectory", "="), ["true", "false"]),
        (("score=nothing", "score.tol"), []),
        (("nothing", "="), []),
    ],
)
def test_bash_is_offered_groups_options_and_keys(offered, words, some):
    found = offered("bash", "gdiff", "sample", *words)
    assert set(some) <= set(found)
    assert some or not found


def test_a_training_is_offered_its_own_groups_and_keys(offered):
    assert {"network=", "recipe="} <= set(offered("bash", "gdiff", "train", ""))
    assert "sampler=" not in offered("bash", "gdiff", "train", "sam")
    assert {"unet", "mlp"} <= set(offered("bash", "gdiff", "train", "network", "="))
    assert "train.steps=" in offered("bash", "gdiff", "train", "train.st")
    assert "network=" not in offered("bash", "gdiff", "sample", "net")


def test_a_comparison_is_offered_scores_that_are_not_named_yet(offered):
    assert {"full", "golden", "wiener"} <= set(offered("bash", "gdiff", "compare", ""))
    found = offered("bash", "gdiff", "compare", "full,go")
    assert {"full,golden", "full,golddiff"} <= set(found)
    assert "full,golden,full" not in offered("bash", "gdiff", "compare", "full,golden,")
    assert "sampler=" in offered("bash", "gdiff", "compare", "full,wiener", "sam")


def test_a_plan_is_offered_its_tolerance(offered):
    assert offered("bash", "gdiff", "plan", "tol") == ["tolerance="]
    assert "objective=" in offered("bash", "gdiff", "plan", "obj")
    assert {"sampler=", "sampler."} <= set(offered("bash", "gdiff", "plan", "sam"))


def test_other_shells_are_offered_whole_words(offered):
    found = " ".join(offered("zsh", "gdiff", "sample", "score=gold"))
    assert '"score=golden":"' in found
    assert "score=full" not in found


def test_a_benchmark_is_offered_its_kinds(offered):
    assert "peers" in offered("bash", "gdiff", "bench", "pe")
    assert offered("bash", "gdiff", "bench", "peers", "sc") == [
        "schedule=",
        "schedule.",
        "score=",
        "score.",
    ]


def test_options_of_a_users_folder_are_offered(offered, tmp_path):
    (tmp_path / "score").mkdir()
    (tmp_path / "score/mine.yaml").write_text("# a score\nwidth: 1\n")
    words = ("gdiff", "sample", "--config-dir", str(tmp_path), "score", "=", "mi")
    assert offered("bash", *words) == ["mine"]


def test_the_options_of_a_group_are_listed_with_a_line_each():
    result = gdiff("sample", "sampler=?")
    assert result.code == 0, result.err
    (line,) = [line for line in result.out.splitlines() if " heun " in line]
    assert "Heun" in line.partition(" heun ")[2]
    result = gdiff("sample", "smapler=?")
    assert (result.code, "Did you mean 'sampler'?" in result.err) == (2, True)


def test_the_version():
    result = gdiff("--version")
    assert (result.code, result.out) == (0, f"gdiff {__version__}\n")


@pytest.mark.parametrize("verb", ["sample", "evaluate", "bench", "runs", "report", "plot"])
def test_help_has_examples(verb):
    assert f"gdiff {verb} " in gdiff(verb, "--help").out.partition("Example")[2]
