"""The verb that compares scores with one another."""

from typing import Annotated

import typer

from gdiff.cli import complete
from gdiff.cli.endings import shown
from gdiff.cli.options import ConfigDir, Overrides, Plugins
from gdiff.errors import UserError


def compare(
    scores: Annotated[
        str,
        typer.Argument(
            metavar="SCORE,SCORE,…",
            help="Scores.",
            show_default=False,
            autocompletion=complete.of_scores,
        ),
    ],
    overrides: Overrides = None,
    queries: Annotated[int, typer.Option(min=2, help="Points of each kind.")] = 64,
    config_dir: ConfigDir = None,
    plugin: Plugins = None,
) -> None:
    """Compare scores by noise level, on noised training and held-out points with the same noise.

    Leaves a table of all pairs, compare.csv, and a figure: how far each is from the exact score of
    the training points, and how well it denoises both kinds. An override of a key such as
    score.path=RUN reaches the scores that have it. Held out is the data set's own test split, or
    what dataset.subset=N leaves out.

    Example:

        gdiff compare full,pca_local,wiener dataset=digits dataset.subset=1400
    """
    from gdiff import config
    from gdiff.bench.scores import overrides_by_score
    from gdiff.report import show
    from gdiff.store import outputs
    from gdiff.study import denoisers

    names, others = scores.split(","), overrides or []
    if "=" in scores or not all(names):
        raise UserError(f"{scores}: name the scores first, as in gdiff compare full,wiener …")
    if any(word.lstrip("+").startswith("score=") for word in others):
        raise UserError("gdiff compare takes the scores as its first word: leave out score=…")
    with config.composer(config_dir, plugin or ()) as composer:
        words = overrides_by_score(names, others, composer.score_keys)
        experiments = {name: composer.experiment(each) for name, each in words.items()}
        _, folder = composer.plan(words[names[0]])
    with outputs.vacant(folder, "hydra.run.dir"):
        rows = denoisers.main(experiments, queries, folder)
    show(denoisers.tables(rows))
    print(shown(folder))
