"""A run in its folder: what is done, what is left, and in which order it is written."""

import sys
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from importlib.metadata import version

import numpy as np

from gdiff import __version__, artefacts
from gdiff.artefacts import Artefact, Sampled
from gdiff.clock import Clock
from gdiff.errors import Failures, UserError, interrupt_in, require
from gdiff.experiment import Experiment
from gdiff.kernels import streamed
from gdiff.memory import Peaks, remedied
from gdiff.parallel import processes
from gdiff.prepared import ACCOUNT, Prepared
from gdiff.progress import Progress, notice, track
from gdiff.runtime import environment
from gdiff.sampler.drivers.account import columns, summary
from gdiff.store.files import Member
from gdiff.store.outputs import CONFIG, METRICS, PER_SAMPLE, RUN, SAMPLES, RunFolder


@remedied("the run")
def run(experiment: Experiment, folder: RunFolder) -> dict[str, float]:
    """Run an experiment, or what is left of it, in a run folder.

    A picture, plot or metric that cannot be made does not cost the rest: run.json names it as
    `failed`, and the next call tries again.

    Of several processes all run the experiment of the first, and that one alone looks at the
    samples as a whole.

    Returns:
        The metrics, as in metrics.json.

    Raises:
        UserError: the data cannot be had, or are not those that the run began with, or the
            numbers of the schedule are beyond the arithmetic.
    """
    try:
        return _run(experiment, folder)
    except BaseException as error:
        if interrupt_in(error) and not processes.is_on() and folder.has(RUN):
            folder.write_json(RUN, folder.read_json(RUN) | {"status": "interrupted"})
        raise


def _run(experiment: Experiment, folder: RunFolder) -> dict[str, float]:
    experiment = processes.broadcast(lambda: experiment)
    streamed.rest()  # those of earlier runs of a sweep
    before = folder.read_json(RUN)
    known = _known_grid(experiment, folder, before)
    wanted = artefacts.wanted(experiment)
    files = [SAMPLES, METRICS, *(name for artefact in wanted for name in artefact.files)]
    is_whole = before.get("status") == "complete" and not before.get("failed")
    if is_whole and all(map(folder.has, files)):
        if processes.is_first():
            event = before.get("dataset", {}).get("event_shape")
            folder.samples(None if event is None else (experiment.num_samples, *event))
        return folder.read_json(METRICS)
    if experiment.condition is not None and experiment.metrics.asks_for_budget:
        notice("no account in nats with condition: it is about the data as a whole")
    prepared = Prepared(experiment, clock=Clock(before.get("seconds", {})), sigma=known)
    _ = prepared.mesh  # before anything is computed
    peaks = Peaks()
    _require_measures(prepared)
    record = _record(prepared, before)
    failed = record["failed"] = _still_failed(before, wanted)
    folder.write_json(RUN, record)
    record["sigma"] = prepared.grid.tolist()
    folder.write_json(RUN, record)
    if not (folder.has(SAMPLES) and "rounds" in record):
        if prepared.advice is not None:
            notice(prepared.advice)
        prepared.require_room()
        record |= _sample(prepared, folder, wanted, record)
        # In this order, so that a run with samples always has the account of them.
        folder.write_json(RUN, record)
        folder.gather_chunks(record["chunks"])
    metrics = {"seconds_per_sample": record["sampling_seconds"] / experiment.num_samples}
    metrics |= {name: record[name] for name in ACCOUNT if name in record}
    shape = (experiment.num_samples, *prepared.dataset.event_shape)
    samples = folder.samples(shape) if processes.is_first() else None
    sampled = Sampled(prepared, folder, samples, failed)
    _make([artefact for artefact in wanted if not artefact.is_measure], sampled)
    # Of the run itself: comparing it with the data takes memory of its own.
    earlier = record.get("peak_memory_bytes", {})
    record["peak_memory_bytes"] = earlier | {
        name: max(peak, earlier.get(name, 0)) for name, peak in peaks.read().items()
    }
    metrics |= _make([artefact for artefact in wanted if artefact.is_measure], sampled)
    folder.write_json(METRICS, metrics)
    folder.write_json(RUN, record | {"status": "complete"})
    return metrics


@remedied("the evaluation")
def evaluate(experiment: Experiment, folder: RunFolder) -> dict[str, float]:
    """Compute the metrics of a finished run again, with the options that `experiment` has now.

    Returns:
        The metrics computed, which take their places in metrics.json.

    Raises:
        UserError: there are no samples, or the data are not those of the run.
    """
    record = folder.read_json(RUN)
    folder.require_samples()  # before the data, which may take long
    prepared = Prepared(experiment, sigma=_known_grid(experiment, folder, record))
    _ = prepared.mesh  # before anything is computed, as in a run
    dataset = prepared.dataset
    require("dataset" in record, f"{folder.path} has no whole {RUN}: finish the run with --resume")
    if record["dataset"].get("fingerprint") != dataset.fingerprint():
        raise UserError(
            f"the data set {dataset.name} is not the one that {folder.path} was made with (see "
            f"{RUN}): restore it"
        )
    _require_measures(prepared)
    samples = folder.samples((experiment.num_samples, *dataset.event_shape))
    measures = [each for each in artefacts.wanted(experiment) if each.is_measure]
    failed = _still_failed(record, measures)
    metrics = _make(measures, Sampled(prepared, folder, samples, failed))
    # What cannot be had any more must not stand there from another time.
    made = [measure for measure in measures if measure.phase not in failed]
    names = {name for each in made for name in (*each.names(experiment), *each.more_names)}
    kept = {name: v for name, v in folder.read_json(METRICS).items() if name not in names}
    folder.write_json(METRICS, kept | metrics)
    # The other phases stay those of the run.
    phases = {measure.phase for measure in measures} & prepared.clock.seconds.keys()
    latest = {phase: prepared.clock.seconds[phase] for phase in phases}
    latest = {"seconds": record.get("seconds", {}) | latest, "failed": failed}
    folder.write_json(RUN, record | latest)
    return metrics


def _require_measures(prepared: Prepared) -> None:
    """Raise `UserError` if the data lack what the metrics ask for, before anything is drawn."""
    experiment = prepared.experiment
    experiment.metrics.require_data(prepared.dataset)
    if experiment.metrics.enabled and experiment.metrics.bits_per_dim:
        experiment.require_whole("metrics.bits_per_dim")
        experiment.dataset.load_held_out()


def _known_grid(experiment: Experiment, folder: RunFolder, record: dict) -> np.ndarray | None:
    """The noise levels that a run began with, if it did."""
    if "sigma" not in record:
        return None
    levels = np.array(record["sigma"])
    require(
        experiment.may_have(levels),
        f"the noise levels in {folder.path / RUN} are not those of the schedule in "
        f"{folder.path / CONFIG}: restore the one that was changed, or start a new run",
    )
    return levels


def _make(wanted: list[Artefact], sampled: Sampled) -> dict[str, float]:
    """Make artefacts; all their numbers, in the order of the artefacts.

    What fails is named in `sampled.failed`. Where several processes make it, it fails the run: the
    others would wait for the one.
    """
    found: dict[Artefact, dict[str, float]] = {}
    # What takes all processes comes first: but for the first one they are free then.
    for artefact in sorted(wanted, key=lambda each: not each.is_shared):
        spare = sampled.failed.spare(artefact.phase)
        if artefact.is_late:  # what sampling could not leave for it may be had now
            sampled.failed.pop(artefact.phase, None)
        if artefact.is_shared:
            with nullcontext() if processes.is_on() else spare:
                found[artefact] = artefact.make(sampled)
        elif sampled.samples is not None:
            with spare, processes.first_only(), sampled.prepared.clock.phase(artefact.phase):
                found[artefact] = artefact.make(sampled)
    numbers = (found.get(artefact, {}) for artefact in wanted)
    return {name: value for each in numbers for name, value in each.items()}


def _still_failed(before: dict, wanted: list[Artefact]) -> Failures:
    """What could not be made earlier, and is not to be made now."""
    phases = {artefact.phase for artefact in wanted if artefact.is_late}
    failed = Failures.of(before).items()
    return Failures({name: why for name, why in failed if name.partition(":")[0] not in phases})


def _record(prepared: Prepared, before: dict) -> dict:
    """The start of run.json; `before` is what an interrupted run wrote there."""
    mesh, dataset = prepared.mesh, prepared.dataset
    fingerprint, (shift, scale) = dataset.fingerprint(), dataset.to_file_map
    turns = [] if prepared.classes is None else prepared.classes.tolist()
    if before.get("dataset", {}).get("fingerprint", fingerprint) != fingerprint:
        raise UserError(
            f"the data set {dataset.name} has changed since this run began: start a new run"
        )
    packages = ("jax", "jaxlib", "numpy", "hydra-core", "equinox")
    return (
        {"sampling_seconds": 0.0}
        | {key: value for key, value in before.items() if key != "error"}
        | {
            "status": "running",
            "seconds": prepared.clock.seconds,  # as they grow
            "dataset": {
                "name": dataset.name,
                "points": len(dataset),
                "event_shape": list(dataset.event_shape),
                "fingerprint": fingerprint,
                # A value of the file is shift + scale times a model coordinate.
                "shift": np.asarray(shift).tolist(),
                "scale": scale,
            }
            | ({"condition": [dataset.class_name(c) for c in turns]} if turns else {}),
            "versions": {"gdiff": __version__, "python": sys.version.split()[0]}
            | {name: version(name) for name in packages},
            "environment": environment(),
            "devices": [str(device) for device in mesh.devices.flat],
            "mesh": dict(mesh.shape),
        }
    )


def _sample(prepared: Prepared, folder: RunFolder, wanted: list[Artefact], record: dict) -> dict:
    """Draw every batch that is not on disk yet; returns the account of all."""
    count, size, steps = prepared.experiment.num_samples, prepared.batch_size, prepared.steps.count
    batches = -(-count // size)

    def before(first: int) -> int:
        """How many steps the samples before number `first` take in whole batches.

        Counted from the end: batches that are done may be of another size.
        """
        return (batches - -(-(count - first) // size)) * steps

    members = {
        "samples": Member(np.floating, ("k", *prepared.dataset.event_shape)),
        "index": Member(np.integer, ("k",)),
        "seconds": Member(np.floating, ()),
    }
    sampler = prepared.experiment.sampler
    is_parallel = sampler.block_size != 1
    doubt = sampler.doubt(size, prepared.dataset.dim, prepared.mesh.devices.flat[0].platform)
    if doubt is not None:
        notice(doubt)
    counted = columns(prepared.blocks, is_parallel=is_parallel)
    members |= {name: Member(kind, ("k", *shape)) for name, (kind, shape) in counted.items()}
    if prepared.classes is not None:
        members["labels"] = Member(np.integer, ("k",))
    accounts, first = [], 0
    with track("sampling", batches * steps, "steps") as progress:
        while first < count:
            number = len(accounts)
            chunk = folder.chunk(number, members)
            # One of other samples is of another batch size.
            held = chunk is not None and len(chunk["index"])
            is_done = (
                held
                and first + held <= count
                and np.all(chunk["index"] == np.arange(first, first + held))
            )
            if not is_done:
                index = np.arange(first, min(first + size, count))
                _ = prepared.batches  # fitted, so that it is on record how long that took
                folder.write_json(RUN, record)
                report = partial(_report, progress, before(first))
                chunk = _draw(prepared, folder, wanted, index, report, record["failed"])
                folder.write_chunk(number, **chunk)
            kind = chunk["samples"].dtype.type  # the same in all chunks
            members["samples"] = members["samples"]._replace(kind=kind)
            accounts.append({k: v for k, v in chunk.items() if k not in PER_SAMPLE})
            first += len(chunk["index"])
            progress.reach(before(first), skipped=is_done)
    return {"chunks": len(accounts)} | summary(prepared.blocks, accounts)


def _draw(
    prepared: Prepared,
    folder: RunFolder,
    wanted: list[Artefact],
    index: np.ndarray,
    report: Callable[[int, str], None],
    failed: Failures,
) -> dict[str, np.ndarray]:
    """A batch of samples, as a chunk; what the first one shows on its way is written."""
    watched = [(each, each.states(prepared)) for each in wanted if index[0] == 0]
    watched = [(each, states) for each, states in watched if states.stops]
    samples, account = prepared.batches.draw(index, [states for _, states in watched], report)
    for artefact, states in watched:
        with failed.spare(artefact.phase):
            artefact.keep(prepared, folder, states)
    labels = prepared.labels(index)
    known = {} if labels is None else {"labels": labels}
    return {"samples": samples, "index": index} | known | account


def _report(progress: Progress, before: int, done: int, note: str) -> None:
    """So many steps of a batch are done, and of all that came before."""
    progress.reach(before + done, note)
