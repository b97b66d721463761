"""The command line: thin verbs over configurations, experiments and run folders."""

import json
import logging
import os
import re
import shlex
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer
from typer.core import TyperGroup

from gdiff.errors import UserError

if TYPE_CHECKING:
    from types import FrameType

    from omegaconf import DictConfig

    from gdiff.config import Composer, Place
    from gdiff.prepared import Experiment
    from gdiff.prior.base import PriorSpec

# Everything heavy is imported in the verb that needs it, so that --help is instant.

# Priors that take no training, and no data at run time.
_PRIORS = ("standard", "gaussian", "ppca", "gmm", "dpgmm")

# Exit code of shells for Ctrl-C.
_INTERRUPTED = 130

# Typer does not export it by name: a command line that cannot be read.
_UsageError = typer.BadParameter.__mro__[1]


class _Interrupted(KeyboardInterrupt):
    """Ctrl-C during the run in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder


class _Commands(TyperGroup):
    """A user's mistake is one line and exit code 2; an interrupt is exit code 130."""

    def main(
        self, args: Sequence[str] | None = None, standalone_mode: bool = True, **extra: Any
    ) -> Any:
        """Run the command line, with usage errors as one line too."""
        try:
            code = super().main(args, standalone_mode=False, **extra)
        except _UsageError as error:
            command = error.ctx.command_path if error.ctx else "gdiff"
            print(_line(f"{error.format_message()} (see {command} --help)"), file=sys.stderr)
            code = 2
        if standalone_mode:
            sys.exit(code)
        return code

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:
        """Without arguments, show the help."""
        return super().parse_args(ctx, args or ["--help"])

    def invoke(self, ctx: typer.Context) -> Any:
        """Run a verb and print its error."""
        try:
            return super().invoke(ctx)
        except (UserError, KeyboardInterrupt) as error:
            line, code = _ending(error)
            print(line, file=sys.stderr)
            raise typer.Exit(code) from None


def _ending(error: UserError | KeyboardInterrupt) -> tuple[str, int]:
    """The last line of a command that was not done, and its exit code."""
    if isinstance(error, UserError):
        if os.environ.get("GDIFF_DEBUG") == "1":
            traceback.print_exc()
        return _line(error), 2
    hint = ""
    if isinstance(error, _Interrupted) and (error.folder / "config.yaml").is_file():
        folder = shlex.quote(str(_shown(error.folder)))
        hint = f"; continue with: gdiff sample --resume {folder}"
    return f"interrupted{hint}", _INTERRUPTED


def _line(error: object, where: str = "") -> str:
    """A user's mistake as one line."""
    return " ".join(f"error: {where}{error}".split())


app = typer.Typer(
    cls=_Commands,
    help="Experiments in analytical diffusion: the score comes from the data set itself.",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
data_app = typer.Typer(cls=_Commands, help="What data sets there are and what they need.")
app.add_typer(data_app, name="data")

Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="OVERRIDES",
        help="Hydra overrides: group=option, key=value. The groups are dataset, process, score, "
        "schedule, prior, sampler, metrics, runtime and experiment; group=? lists the options.",
        show_default=False,
    ),
]
ConfigDir = Annotated[
    Path | None, typer.Option("--config-dir", help="A folder with groups and options of your own.")
]


def main() -> None:
    """Entry point of the `gdiff` command."""
    sys.unraisablehook = _on_lost_exception
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it is to be ignored
        signal.signal(signal.SIGINT, _on_interrupt)
    try:
        app()
    except SystemExit as ending:
        if ending.code != _INTERRUPTED:
            raise
    except Exception as error:
        cause = _interrupt_in(error)
        if cause is None:
            raise
        print(_ending(cause)[0], file=sys.stderr)
    # Ending the usual way, with threads of JAX still at work, crashes now and then.
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):  # nobody reads it any more
            stream.flush()
    os._exit(_INTERRUPTED)


def _interrupt_in(error: BaseException | None) -> KeyboardInterrupt | None:
    """The interrupt that an error came from: interrupted libraries may fail in cleaning up."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error


def _on_interrupt(_: int, frame: "FrameType | None") -> None:
    """Ctrl-C, but not in an import: modules in C may abort the process if interrupted."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            _interrupt_again()
            return
        frame = frame.f_back
    raise KeyboardInterrupt


def _on_lost_exception(lost: Any) -> None:
    """Python drops what is raised in callbacks and destructors; Ctrl-C must not get lost there.

    JAX has such a callback of the garbage collector.
    """
    if lost.exc_type is KeyboardInterrupt:
        _interrupt_again()
    else:
        sys.__unraisablehook__(lost)


def _interrupt_again() -> None:
    """Ctrl-C in a moment."""
    main_thread = threading.main_thread().ident
    again = threading.Timer(0.1, signal.pthread_kill, (main_thread, signal.SIGINT))
    again.daemon = True
    again.start()


@app.command()
def sample(
    overrides: Overrides = None,
    multirun: Annotated[
        bool, typer.Option("-m", "--multirun", help="Hydra's multirun: sweeps and launchers.")
    ] = False,
    resume: Annotated[
        Path | None, typer.Option(help="Continue the interrupted run in this folder.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the resolved configuration and stop.")
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="No progress; print only the run folder.")
    ] = False,
    config_dir: ConfigDir = None,
) -> None:
    """Draw samples and leave them, a picture and metrics in a run folder."""
    from gdiff import config

    overrides = overrides or []
    if multirun and (resume is not None or dry_run):
        other = "--dry-run" if dry_run else "--resume"
        raise UserError(f"{other} is about one run: leave out -m")
    if dry_run and resume is not None:
        raise UserError(f"--dry-run with --resume: the configuration is in {resume}/config.yaml")
    with config.composer(config_dir) as composer:
        if resume is not None:
            _resume(composer, resume, overrides, quiet=quiet)
        elif multirun:
            _sweep(composer, overrides, quiet=quiet)
        elif dry_run:
            print(config.to_yaml(composer.experiment(overrides)), end="")
        else:
            _run(composer, overrides, quiet=quiet)


class _Outcome(NamedTuple):
    """What a run ended with: metrics and the objective, or the error."""

    metrics: dict[str, float] | None = None
    objective: float | None = None
    error: Exception | None = None


def _run(composer: "Composer", overrides: list[str], *, quiet: bool) -> None:
    """A new run in a folder of its own."""
    from gdiff import progress
    from gdiff.store import outputs

    progress.configure(quiet=quiet)
    # Finds most mistakes before a folder is made.
    experiment, folder = composer.plan(overrides)
    with _together(experiment) as is_first:
        if not is_first:
            return
        with outputs.vacant(folder, "hydra.run.dir"):
            outcome = composer.run(_job, overrides, folder)
            if outcome.error is not None:
                raise outcome.error
        _show(folder, outcome.metrics, quiet=quiet)


@contextmanager
def _together(experiment: "Experiment") -> Iterator[bool]:
    """The block in the first of the processes that work on a run; the others do their part here.

    The block is told whether it is in the first process. If one process fails, all do.
    """
    if not experiment.runtime.distributed:
        yield True
        return
    from gdiff import progress
    from gdiff.parallel import processes
    from gdiff.run import run
    from gdiff.store.outputs import RunFolder

    try:
        experiment.runtime.join()
        is_first = processes.is_first()
        if not is_first:
            progress.configure(quiet=True)
            logging.getLogger().addHandler(logging.NullHandler())
            run(experiment, RunFolder.of_first())
        yield is_first
        processes.leave()
    except (UserError, KeyboardInterrupt) as error:
        processes.abandon(*_ending(error))
    except Exception as error:
        processes.abandon(processes.lost(error) or traceback.format_exc(), 1)


def _job(cfg: "DictConfig", place: "Place") -> _Outcome:
    """One run in its folder; what the user can put right is returned: Hydra would dress it up."""
    from gdiff import config
    from gdiff.parallel import processes
    from gdiff.run import run
    from gdiff.store.outputs import RunFolder

    is_sweep = place.number is not None
    try:
        experiment = config.build(cfg, place.cwd)
        if is_sweep and experiment.runtime.distributed:
            raise UserError("runtime.distributed=true is for one run: leave it out, or -m")
        text = _text(experiment)
        with RunFolder.create(place.folder, text, is_claimed=not is_sweep) as folder:
            metrics = run(experiment, folder)
        if experiment.objective is None:
            return _Outcome(metrics)
        if experiment.objective not in metrics:
            raise UserError(f"objective={experiment.objective} cannot be had for this run")
        return _Outcome(metrics, float(metrics[experiment.objective]))
    except UserError as error:
        return _Outcome(error=error)
    except Exception as error:
        if _interrupt_in(error):
            raise _Interrupted(place.folder) from None
        if processes.lost(error) is None:
            raise
        return _Outcome(error=error)
    except KeyboardInterrupt:
        raise _Interrupted(place.folder) from None


def _text(experiment: "Experiment") -> str:
    """What config.yaml says: all but the processes that share the work."""
    from gdiff import config

    return config.to_yaml(replace(experiment, runtime=experiment.runtime.without_processes()))


def _sweep(composer: "Composer", overrides: list[str], *, quiet: bool) -> None:
    """Hydra's multirun, and then one table of its runs."""
    from gdiff import report
    from gdiff.store import outputs

    folder = composer.sweep_dir(overrides)
    with outputs.vacant(folder, "hydra.sweep.dir"):
        try:
            composer.multirun(partial(_sweep_job, quiet=quiet), overrides, folder)
        finally:  # also of the runs before an error or an interrupt
            rows = report.sweep_rows(folder)
            if rows:
                outputs.write_csv(folder / report.SWEEP, report.columns(rows), rows)
    if not quiet:
        report.show(report.sweep_table(rows))
    print(_shown(folder / report.SWEEP))
    failed = [str(row["run"]) for row in rows if row["status"] == "failed"]
    if failed:
        raise UserError(f"{len(failed)} of {len(rows)} runs failed: {', '.join(failed)}")


def _sweep_job(cfg: "DictConfig", place: "Place", *, quiet: bool) -> float | None:
    """One run of a sweep: an error fails this run and not the others."""
    from gdiff import progress
    from gdiff.store import outputs

    label = f"run {place.number}"
    # Runs that go on at the same time cannot share a terminal's bars.
    progress.configure(quiet=quiet, live=place.launcher == "basic", label=f"{label}:")
    if not quiet:
        print(f"{label}: {' '.join(place.overrides)}", file=sys.stderr, flush=True)
    try:
        outcome = _job(cfg, place)
    except Exception as error:
        traceback.print_exc()
        outcome = _Outcome(error=error)
    if outcome.error is None:
        return outcome.objective
    print(_line(outcome.error, f"{label}: "), file=sys.stderr, flush=True)
    outputs.write_failure(place.folder, str(outcome.error) or type(outcome.error).__name__)
    return float("nan")


def _resume(composer: "Composer", path: Path, overrides: list[str], *, quiet: bool) -> None:
    """Continue a run; devices, processes and the batch size may be others."""
    from gdiff import progress
    from gdiff.run import run
    from gdiff.store import outputs

    progress.configure(quiet=quiet)
    outputs.require_run(path)
    experiment = composer.resumed(path, overrides)
    with _together(experiment) as is_first:
        if not is_first:
            return
        with outputs.RunFolder.open(path) as folder:
            composer.log_to(path)
            # What it goes on with is what `evaluate` will find.
            text = _text(experiment)
            if text != (path / "config.yaml").read_text():
                folder.write_text("config.yaml", text)
            try:
                metrics = run(experiment, folder)
            except KeyboardInterrupt:
                raise _Interrupted(path) from None
        _show(path, metrics, quiet=quiet)


def _show(path: Path, metrics: dict[str, float], *, quiet: bool) -> None:
    """The result on stdout; the last line is the folder."""
    from gdiff.report import metrics_table, show

    if not quiet:
        show(metrics_table(metrics))
    print(_shown(path))


def _shown(path: Path) -> Path:
    """A path as people like to read it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


@app.command()
def evaluate(
    folder: Annotated[Path, typer.Argument(help="A run folder.", show_default=False)],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="METRICS.KEY=VALUE",
            help="Changed settings of the metrics; all others belong to the run.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Compute the metrics of a finished run again, for example with metrics.projections=2000."""
    from gdiff import config
    from gdiff import run as runs
    from gdiff.store.outputs import RunFolder

    overrides = overrides or []
    for override in overrides:
        if not re.match(r"metrics\.[^=]+=", override):
            raise UserError(
                f"{override}: evaluate takes metrics.key=value only; all other settings belong "
                "to the run"
            )
    with RunFolder.open(folder) as run_folder:
        found = runs.evaluate(config.load(folder, overrides), run_folder)
    _show(folder, found, quiet=False)


@app.command()
def schedule(
    overrides: Overrides = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and write no files.")] = False,
    horizon: Annotated[
        bool, typer.Option("--horizon", help="Also compare priors, by the time that they start at.")
    ] = False,
    config_dir: ConfigDir = None,
) -> None:
    """Compare grids of schedule.steps steps by the KL divergence that they cost on the data."""
    from gdiff import config, progress
    from gdiff.store import outputs
    from gdiff.study import schedule as study

    overrides = overrides or []
    progress.configure(quiet=as_json)
    with config.composer(config_dir) as composer:
        experiment, folder = composer.plan(overrides)
        chosen = composer.choice("schedule", overrides)
        priors = _priors(composer, overrides) if horizon else {}
    with outputs.vacant(folder, "hydra.run.dir") if not as_json else nullcontext():
        folder = None if as_json else folder
        result = study.main(experiment, priors, folder, chosen=chosen)
    study.show(result, as_json=as_json)
    if folder is not None:
        print(_shown(folder))


@app.command()
def plan(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="tolerance=NATS OVERRIDES",
            help="The KL divergence from data to samples that is allowed, and Hydra overrides.",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    config_dir: ConfigDir = None,
) -> None:
    """Find the cheapest horizon, prior, grid and score tolerance within a budget in nats."""
    from gdiff import config, progress
    from gdiff.report import show
    from gdiff.study import plan as study

    words = overrides or []
    given = [word for word in words if word.startswith("tolerance=")]
    overrides = [word for word in words if word not in given]
    if len(given) != 1:
        raise UserError("gdiff plan needs one tolerance in nats: gdiff plan tolerance=0.1 …")
    try:
        tolerance = float(given[0].partition("=")[2])
    except ValueError:
        raise UserError(f"{given[0]} is not a number of nats") from None
    progress.configure(quiet=as_json)
    with config.composer(config_dir) as composer:
        experiment = composer.experiment(overrides)
        priors = _priors(composer, overrides)
    result = study.main(experiment, priors, tolerance)
    if as_json:
        print(json.dumps(result))
        return
    show(study.table(result))
    replaced = {word.partition("=")[0] for word in result["overrides"]}
    kept = [word for word in overrides if word.partition("=")[0] not in replaced]
    print(shlex.join(["gdiff", "sample", *kept, *result["overrides"]]))


def _priors(composer: "Composer", overrides: list[str]) -> "dict[str, PriorSpec]":
    """The priors that can be fitted at once, with their usual options, and the one chosen."""
    own = composer.choice("prior", overrides)
    others = [word for word in overrides if not re.match(r"\W*prior\b", word)]
    names = dict.fromkeys([*_PRIORS, own])
    return {
        name: composer.experiment(overrides if name == own else [*others, f"prior={name}"]).prior
        for name in names
    }


@app.command()
def info() -> None:
    """Versions, devices, memory and folders."""
    from gdiff.report import info_table, show

    show(info_table())


@app.command()
def bench(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[peers|scale] OVERRIDES",
            help="peers: against other libraries; scale: data of any size. Then Hydra overrides.",
            show_default=False,
        ),
    ] = None,
    queries: Annotated[int, typer.Option(min=1, help="Batch of queries, B.")] = 64,
    repeats: Annotated[int, typer.Option(min=1, help="Rounds of measurements.")] = 7,
    output: Annotated[
        Path | None, typer.Option("-o", help="Also write the numbers as JSON.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="peers, scale: print JSON.")] = False,
    config_dir: ConfigDir = None,
) -> None:
    """Time a score against its matrix products, or several (score=full,golden) side by side.

    `gdiff bench peers` compares the full scan, and another score if one is chosen, with PyTorch,
    KeOps, FAISS and diffusers, as far as they are installed (extra `bench`).

    `gdiff bench scale` compares the full scan with what reading the data and its matrix products
    allow, and with score=golden: seconds, errors, memory, and what devices exchange.

    Several scores are compared at the noise levels of the schedule; unless one is given these are
    the ten of schedule=ddpm. An override of a key such as score.seed=1 reaches the scores that
    have it.
    """
    from gdiff import config
    from gdiff.bench import kernels, peers, scale, scores

    if output is not None and not output.absolute().parent.is_dir():
        raise UserError(f"-o {output}: there is no folder {output.absolute().parent}")
    options = {"queries": queries, "repeats": repeats, "output": output}
    overrides = overrides or []
    kind = overrides[0] if overrides[:1] in (["peers"], ["scale"]) else None
    if as_json and kind is None:
        raise UserError("--json is for gdiff bench peers and gdiff bench scale: use -o FILE")
    names, others = _split_scores(overrides[kind is not None :])
    if kind == "scale" and names not in ([""], ["golden"]):
        chosen = ",".join(names)
        raise UserError(f"gdiff bench scale is for score=golden: leave score={chosen} out")
    with config.composer(config_dir) as composer:
        if kind == "scale":
            experiment = composer.experiment(["score=golden", *others])
        elif kind == "peers":
            chosen = [f"score={name}" for name in names if name]
            experiment = composer.experiment([*chosen, *others])
        elif len(names) == 1:
            experiments = {names[0]: composer.experiment(overrides)}
        else:
            words = scores.overrides_by_score(names, others, lambda w: composer.experiment(w).score)
            experiments = {name: composer.experiment(each) for name, each in words.items()}
    if kind is not None:
        {"peers": peers, "scale": scale}[kind].main(experiment, as_json=as_json, **options)
    elif len(names) == 1:
        kernels.main(*experiments.values(), **options)
    else:
        scores.main(experiments, **options)


def _split_scores(overrides: list[str]) -> tuple[list[str], list[str]]:
    """The names in score=a,b, and all other overrides with a default for the schedule."""
    choices = [override for override in overrides if override.startswith("score=")]
    names = choices[-1].removeprefix("score=").split(",") if choices else [""]
    others = [override for override in overrides if override not in choices]
    if not any(re.match(r"\W*(schedule|experiment)\b", override) for override in others):
        others = ["schedule=ddpm", "schedule.steps=10", *others]
    return names, others


@data_app.command("list")
def data_list(
    data_dir: Annotated[Path | None, typer.Option(help="Folder of prepared data sets.")] = None,
) -> None:
    """Data sets known by name, and which are ready on this machine."""
    from gdiff.dataset import prepare
    from gdiff.report import rows_table, show

    show(rows_table(prepare.available(data_dir)))


@data_app.command("info")
def data_info(overrides: Overrides = None, config_dir: ConfigDir = None) -> None:
    """Size, range and classes of a data set, for example: gdiff data info dataset=mnist."""
    from gdiff import config
    from gdiff.dataset import prepare
    from gdiff.report import metrics_table, show

    with config.composer(config_dir) as composer:
        experiment = composer.experiment(overrides or [])
    show(metrics_table(prepare.describe(experiment.dataset.load())))


@data_app.command("prepare")
def data_prepare(
    name: Annotated[
        str,
        typer.Argument(help="A name of TensorFlow Datasets, or synthetic.", show_default=False),
    ],
    data_dir: Annotated[Path | None, typer.Option(help="Where to put it.")] = None,
    points: Annotated[int | None, typer.Option(help="synthetic: images.")] = None,
    resolution: Annotated[int | None, typer.Option(help="synthetic: pixels a side.")] = None,
    output: Annotated[Path | None, typer.Option("-o", help="synthetic: the .npy file.")] = None,
) -> None:
    """Download a data set and store it in the format that gdiff reads.

    `synthetic` is made here: a .npy file of the size of ImageNet-64, or of --points images of
    --resolution pixels, crops of CIFAR-10 laid over each other.
    """
    from gdiff.dataset import prepare

    options = {"output": output, "points": points, "resolution": resolution}
    given = {key: value for key, value in options.items() if value is not None}
    if name == "synthetic":
        print(prepare.prepare_synthetic(data_dir, **given))
        return
    if given:
        raise UserError(f"--{next(iter(given))} is for gdiff data prepare synthetic: leave it out")
    print(prepare.prepare(name, data_dir))
