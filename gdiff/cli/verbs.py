"""The verbs: thin words over configurations, experiments and run folders."""

import json
import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gdiff.cli import complete, launch, sweeps
from gdiff.cli.endings import shown
from gdiff.cli.options import ConfigDir, DryRun, Overrides, Plugins, Quiet
from gdiff.errors import Failures, PartError, UserError

if TYPE_CHECKING:
    from gdiff.config import Composer
    from gdiff.experiment import Experiment
    from gdiff.prior.base import PriorSpec
    from gdiff.store.outputs import RunFolder

# Everything heavy is imported in the verb that needs it, so that --help is instant.

# What gdiff plan goes by, and its default.
_GOAL, _NATS = "objective", "nats"
# What it leaves, besides its configuration and its log.
_PLAN = "plan.json"
# Priors that take no training, and no data at run time.
_PRIORS = ("standard", "gaussian", "ppca", "gmm", "dpgmm")


def sample(
    overrides: Overrides = None,
    multirun: Annotated[
        bool, typer.Option("-m", "--multirun", help="Hydra's multirun: sweeps and launchers.")
    ] = False,
    resume: Annotated[
        Path | None, typer.Option(help="Continue the interrupted run or sweep in this folder.")
    ] = None,
    dry_run: DryRun = False,
    quiet: Quiet = False,
    config_dir: ConfigDir = None,
    plugin: Plugins = None,
) -> None:
    """Draw samples and leave them, a picture and metrics in a run folder.

    Examples:

        gdiff sample dataset=moons sampler=ancestral schedule.steps=100

        gdiff sample -m dataset=moons sampler=ddim,ancestral schedule.steps=10,50 seed=0,1,2

        gdiff sample --resume outputs/2026-01-31/12-00-00-000000

        gdiff sample sampler='?'
    """
    from gdiff import config

    overrides = overrides or []
    if multirun and (resume is not None or dry_run):
        other = "--dry-run is about one run" if dry_run else "--resume knows what was begun"
        raise UserError(f"{other}: leave out -m")
    if dry_run and resume is not None:
        raise UserError(f"--dry-run with --resume: the configuration is in {resume}/config.yaml")
    asked = [word.removesuffix("=?") for word in overrides if word.endswith("=?")]
    with config.composer(config_dir, plugin or ()) as composer:
        if asked:
            from gdiff.report import rows_table, show

            show(rows_table(composer.about(asked[0])))
        elif resume is not None:
            from gdiff.store import outputs

            is_sweep = (resume / outputs.SWEEP).is_file()
            continued = sweeps.resume if is_sweep else launch.resume
            continued(composer, resume, overrides, quiet=quiet)
        elif multirun:
            sweeps.sweep(composer, overrides, quiet=quiet)
        elif dry_run:
            from gdiff import artefacts

            experiment = composer.experiment(overrides)
            artefacts.require_objective(experiment)
            launch.remark(experiment, overrides)
            print(config.to_yaml(experiment), end="")
        else:
            launch.run(composer, overrides, quiet=quiet)


def evaluate(
    folder: Annotated[Path, typer.Argument(help="A run folder.", show_default=False)],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="METRICS.KEY=VALUE",
            help="Changed settings of the metrics, other devices (runtime.mesh), or where the data "
            "are now (dataset.path, dataset.data_dir); all else belongs to the run.",
            show_default=False,
        ),
    ] = None,
    plugin: Plugins = None,
) -> None:
    """Compute the metrics of a finished run again.

    Example:

        gdiff evaluate outputs/2026-01-31/12-00-00-000000 metrics.projections=2000
    """
    from gdiff import config
    from gdiff import run as runs
    from gdiff.store.outputs import RunFolder

    overrides = overrides or []
    keys = {override: override.partition("=")[0] for override in overrides if "=" in override}
    for override in overrides:
        key = keys.get(override, "")
        if key not in config.PLACES and not re.match(r"(metrics|runtime)\.", key):
            raise UserError(
                f"{override}: evaluate takes metrics.key=value, runtime.key=value and "
                f"{', '.join(config.PLACES)} only; all other settings belong to the run"
            )
    with RunFolder.open(folder) as run_folder:
        job = config.load(folder, overrides, config.Sources.of(plugin or ()))
        if "runtime.mesh" not in keys.values():
            job = replace(job, runtime=job.runtime.as_available())
        launch.say(config.without_effect(job, overrides))
        found = runs.evaluate(job, run_folder)
    if not (found or job.metrics.enabled):
        launch.say(["nothing was measured: add metrics.enabled=true"])
    launch.show_run(folder, found, quiet=False)


def schedule(
    overrides: Overrides = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and write no files.")] = False,
    horizon: Annotated[
        bool, typer.Option("--horizon", help="Also compare priors, by the time that they start at.")
    ] = False,
    spectrum: Annotated[
        Path | None,
        typer.Option(help="Variances of data by direction (.npy, .json, text), instead of data."),
    ] = None,
    export: Annotated[
        Path | None,
        typer.Option(help="Only write the levels of this schedule: FILE.json or FILE.npy."),
    ] = None,
    config_dir: ConfigDir = None,
    plugin: Plugins = None,
) -> None:
    """Compare grids of schedule.steps steps: nats, and how far samples will be from the data.

    `gdiff schedule optimal …` is short for schedule=optimal. With --spectrum no data set is read:
    for a network elsewhere, the variances of its data along their principal directions will do.
    """
    from gdiff import config, progress
    from gdiff.study import schedule as study

    overrides = overrides or []
    if overrides and re.fullmatch(r"\w+", overrides[0]):
        overrides = [f"schedule={overrides[0]}", *overrides[1:]]
    if spectrum is not None and horizon:
        raise UserError("--horizon compares priors on data: leave out --spectrum")
    if export is not None and not (export.suffix in (".json", ".npy") and export.parent.is_dir()):
        raise UserError(f"--export {export}: give FILE.json or FILE.npy in a folder that exists")
    progress.configure(quiet=as_json)
    with config.composer(config_dir, plugin or ()) as composer:
        experiment, folder = composer.plan(overrides)
        chosen = composer.choice("schedule", overrides)
        priors = _priors(composer, overrides) if horizon else {}
        launch.say([experiment.schedule.doubt(experiment.process)])
        prepared = study.prepare(experiment, spectrum)
        if export is not None:
            print(study.export(prepared, export, chosen))
            return
        folder = None if as_json else folder
        with nullcontext() if folder is None else _recorded(composer, experiment, folder):
            result = study.main(prepared, priors, folder, chosen=chosen)
    study.show(result, as_json=as_json)
    if folder is not None:
        print(shown(folder))
        if failed := Failures.of(result):
            raise PartError(f"{failed.line()}: all else is in {shown(folder)}")


def plan(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="tolerance=X [objective=nats|frechet|sliced_w2] OVERRIDES",
            help="How far samples may be from the data, and Hydra overrides.",
            show_default=False,
            autocompletion=complete.of_plan,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    config_dir: ConfigDir = None,
    plugin: Plugins = None,
) -> None:
    """Find the cheapest horizon, prior, grid and score tolerance within a budget in nats.

    With objective=frechet (squared) or sliced_w2, the shortest grid from which the sampler brings
    Gaussian data with the spectrum of these so near to them.
    """
    from gdiff import config, progress
    from gdiff.errors import require_one_of
    from gdiff.report import show
    from gdiff.study import distance
    from gdiff.study import plan as study
    from gdiff.study import schedule as schedule_study

    words = overrides or []
    given = {key: [w for w in words if w.startswith(f"{key}=")] for key in ("tolerance", _GOAL)}
    overrides = [word for word in words if word.partition("=")[0] not in given]
    if len(given["tolerance"]) != 1:
        raise UserError("gdiff plan needs one tolerance: gdiff plan tolerance=0.1 …")
    try:
        tolerance = float(given["tolerance"][0].partition("=")[2])
    except ValueError:
        raise UserError(f"{given['tolerance'][0]} is not a number") from None
    goal = [*given[_GOAL], f"{_GOAL}={_NATS}"][0].partition("=")[2]
    require_one_of(_GOAL, goal, (_NATS, *schedule_study.DISTANCES))
    progress.configure(quiet=as_json)
    with config.composer(config_dir, plugin or ()) as composer:
        experiment, folder = composer.plan(overrides)
        with nullcontext() if as_json else _recorded(composer, experiment, folder) as own:
            if goal == _NATS:
                found = study.main(experiment, _priors(composer, overrides), tolerance)
            else:
                found = distance.main(experiment, tolerance, goal)
            words = composer.with_parts(overrides, found.choices, found.experiment)
            if own is not None:
                own.write_json(_PLAN, found.result | {"overrides": words})
    if as_json:
        print(json.dumps(found.result | {"overrides": words}))
        return
    show(study.table(found.result))
    print(shown(folder))
    options = [] if config_dir is None else ["--config-dir", str(config_dir)]
    options += [word for name in plugin or () for word in ("--plugin", name)]
    print(shlex.join(["gdiff", "sample", *options, *words]))


@contextmanager
def _recorded(
    composer: "Composer", experiment: "Experiment", folder: Path
) -> Iterator["RunFolder"]:
    """A new folder for what a study leaves, with its configuration and its log."""
    from gdiff import config
    from gdiff.store import outputs

    with outputs.vacant(folder, "hydra.run.dir"):
        own = outputs.RunFolder(folder)
        own.write_text(outputs.CONFIG, config.to_yaml(experiment))
        composer.log_to(folder)
        yield own


def _priors(composer: "Composer", overrides: list[str]) -> "dict[str, PriorSpec]":
    """The priors that can be fitted at once, with their usual options, and the one chosen."""
    own = composer.choice("prior", overrides)
    others = [word for word in overrides if not re.match(r"\W*prior\b", word)]
    names = dict.fromkeys([*_PRIORS, own])
    return {
        name: composer.experiment(overrides if name == own else [*others, f"prior={name}"]).prior
        for name in names
    }


def info() -> None:
    """Versions, devices, memory and folders."""
    from gdiff.report import info_table, show

    show(info_table())


def bench(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[peers|scale] OVERRIDES",
            help="peers: against other libraries; scale: data of any size. Then Hydra overrides.",
            show_default=False,
            autocompletion=complete.of_bench,
        ),
    ] = None,
    queries: Annotated[int, typer.Option(min=1, help="Batch of queries, B.")] = 64,
    repeats: Annotated[int, typer.Option(min=1, help="Rounds of measurements.")] = 7,
    output: Annotated[
        Path | None, typer.Option("-o", help="Also write the numbers as JSON.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="peers, scale: print JSON.")] = False,
    config_dir: ConfigDir = None,
    plugin: Plugins = None,
) -> None:
    """Time a score against its matrix products, or several (score=full,golden) side by side.

    `gdiff bench peers` compares the full scan, and another score if one is chosen, with PyTorch,
    KeOps, FAISS and diffusers, as far as they are installed (extra `bench`).

    `gdiff bench scale` compares the full scan with what reading the data and its matrix products
    allow, and with score=golden: seconds, errors, memory, and what devices exchange.

    Several scores are compared at the noise levels of the schedule; unless one is given these are
    the ten of schedule=ddpm. An override of a key such as score.seed=1 reaches the scores that
    have it.

    Examples:

        gdiff bench dataset=mnist score=full,golden

        gdiff bench peers dataset=mnist --json
    """
    from gdiff import config
    from gdiff.bench import harness, kernels, peers, scale, scores

    if output is not None:
        parent = output.absolute().parent
        if not parent.is_dir():
            raise UserError(f"-o {output}: there is no folder {parent}")
        if output.is_dir():
            raise UserError(f"-o {output} is a folder: give a file in it")
    overrides = overrides or []
    kind = overrides[0] if overrides[:1] in (["peers"], ["scale"]) else None
    if as_json and kind is None:
        raise UserError("--json is for gdiff bench peers and gdiff bench scale: use -o FILE")
    names, others = _split_scores(overrides[kind is not None :])
    if kind == "scale" and names not in ([""], ["golden"]):
        chosen = ",".join(names)
        raise UserError(f"gdiff bench scale is for score=golden: leave score={chosen} out")
    with config.composer(config_dir, plugin or ()) as composer:
        if kind == "scale":
            benchmark, subject = scale, composer.experiment(["score=golden", *others])
        elif kind == "peers":
            chosen = [f"score={name}" for name in names if name]
            benchmark, subject = peers, composer.experiment([*chosen, *others])
        elif len(names) == 1:
            benchmark, subject = kernels, composer.experiment(overrides)
        else:
            words = scores.overrides_by_score(names, others, composer.score_keys)
            found = {name: composer.experiment(each) for name, each in words.items()}
            benchmark, subject = scores, found
    for each in subject.values() if isinstance(subject, dict) else (subject,):
        each.require_whole("gdiff bench")
    harness.present(benchmark, subject, queries, repeats, output, as_json=as_json)


def _split_scores(overrides: list[str]) -> tuple[list[str], list[str]]:
    """The names in score=a,b, and all other overrides with a default for the schedule."""
    choices = [override for override in overrides if override.startswith("score=")]
    names = choices[-1].removeprefix("score=").split(",") if choices else [""]
    others = [override for override in overrides if override not in choices]
    if not any(re.match(r"\W*(schedule|experiment)\b", override) for override in others):
        others = ["schedule=ddpm", "schedule.steps=10", *others]
    return names, others
