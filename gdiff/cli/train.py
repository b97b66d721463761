"""The verb that trains a network."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gdiff.cli.endings import Interrupted, shown
from gdiff.cli.options import ConfigDir, DryRun, Overrides, Plugins, Quiet
from gdiff.errors import UserError, interrupt_in

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from gdiff.config import Place, Sources


def train(
    overrides: Overrides = None,
    resume: Annotated[
        Path | None, typer.Option(help="Continue the interrupted training in this folder.")
    ] = None,
    dry_run: DryRun = False,
    quiet: Quiet = False,
    config_dir: ConfigDir = None,
    plugin: Plugins = None,
) -> None:
    """Train a network that denoises; the groups are dataset, network, process, runtime and recipe.

    Its folder holds the network, its loss by noise level, and samples; score=network draws more.

    Examples:

        gdiff train dataset=digits hydra.run.dir=net

        gdiff sample score=network score.path=net

        gdiff train recipe=mnist

        gdiff train --resume net
    """
    from gdiff import config, progress
    from gdiff.report import rows_table, show
    from gdiff.store import outputs
    from gdiff.train.spec import Training

    overrides = overrides or []
    asked = [word.removesuffix("=?") for word in overrides if word.endswith("=?")]
    progress.configure(quiet=quiet)
    with config.composer(config_dir, plugin or (), Training) as composer:
        if asked:
            show(rows_table(composer.about(asked[0])))
        elif resume is not None:
            _resume(resume, overrides, composer.sources, quiet=quiet)
        elif dry_run:
            print(config.to_yaml(composer.plan(overrides)[0]), end="")
        else:
            folder = composer.plan(overrides)[1]  # finds most mistakes before a folder is made
            with outputs.vacant(folder, "hydra.run.dir"):
                ended = composer.run(partial(_job, composer.sources), overrides, folder)
                if isinstance(ended, Exception):
                    raise ended
            _show(folder, ended, quiet=quiet)


def _job(sources: "Sources", cfg: "DictConfig", place: "Place") -> dict[str, Any] | Exception:
    """A training in its folder; the user's mistakes are returned, which Hydra would dress up."""
    from gdiff import config
    from gdiff.store.outputs import RunFolder
    from gdiff.train.run import run
    from gdiff.train.spec import Training

    try:
        training = config.build(cfg, sources, Training)
        text = config.to_yaml(training)
        with RunFolder.create(place.folder, text, is_claimed=True) as folder:
            return run(training, folder)
    except (UserError, OSError) as error:
        return error
    except Exception as error:
        if interrupt_in(error):
            raise Interrupted(place.folder) from None
        raise
    except KeyboardInterrupt:
        raise Interrupted(place.folder) from None


def _resume(path: Path, overrides: list[str], sources: "Sources", *, quiet: bool) -> None:
    """Go on with a training; devices and the place of the data may be others."""
    from gdiff import config
    from gdiff.store.outputs import RunFolder, require_run
    from gdiff.train.run import run
    from gdiff.train.spec import Training

    free = ("runtime.mesh", *config.PLACES)
    for word in overrides:
        if word.partition("=")[0] not in free:
            raise UserError(
                f"{word} with --resume: all but {', '.join(free)} belongs to the training that "
                f"{path} was begun with; leave it out"
            )
    require_run(path)
    training = config.load(path, overrides, sources, Training)
    with RunFolder.open(path) as folder:
        try:
            record = run(training, folder)
        except KeyboardInterrupt:
            raise Interrupted(path) from None
    _show(path, record, quiet=quiet)


def _show(path: Path, record: dict[str, Any], *, quiet: bool) -> None:
    """The result on stdout; the last line is the folder."""
    from gdiff.report import metrics_table, show

    if not quiet:
        last = record["history"][-1]
        losses = {f"loss_{name}": value for name, value in last.items() if name != "step"}
        show(metrics_table({"parameters": record["parameters"], **losses}))
    print(shown(path))
