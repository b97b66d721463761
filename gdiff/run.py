"""A run in its folder: what is done, what is left, and in which order it is written."""

import sys
from importlib.metadata import version

import numpy as np

from gdiff import __version__, artefacts
from gdiff.artefacts import Artefact, Sampled
from gdiff.clock import Clock
from gdiff.errors import UserError
from gdiff.kernels import streamed
from gdiff.memory import Peaks
from gdiff.parallel import processes
from gdiff.prepared import ACCOUNT, Experiment, Prepared
from gdiff.progress import Progress, track
from gdiff.sampler.drivers.account import summary
from gdiff.store.outputs import METRICS, RUN, SAMPLES, RunFolder


def run(experiment: Experiment, folder: RunFolder) -> dict[str, float]:
    """Run an experiment, or what is left of it, in a run folder.

    Of several processes all run the experiment of the first, and that one alone looks at the
    samples as a whole.

    Returns:
        The metrics, as in metrics.json.

    Raises:
        UserError: the data cannot be had, or are not those that the run began with, or the
            numbers of the schedule are beyond the arithmetic.
    """
    experiment = processes.broadcast(lambda: experiment)
    streamed.rest()  # those of earlier runs of a sweep
    before = folder.read_json(RUN)
    wanted = artefacts.wanted(experiment)
    files = [SAMPLES, METRICS, *(name for artefact in wanted for name in artefact.files)]
    if before.get("status") == "complete" and all(map(folder.has, files)):
        return folder.read_json(METRICS)
    known = before.get("sigma")
    prepared = Prepared(
        experiment,
        clock=Clock(before.get("seconds", {})),
        sigma=None if known is None else np.array(known),
    )
    _ = prepared.mesh  # before anything is computed
    peaks = Peaks()
    record = _record(prepared, before)
    folder.write_json(RUN, record)
    record["sigma"] = prepared.grid.tolist()
    folder.write_json(RUN, record)
    if not (folder.has(SAMPLES) and "rounds" in record):
        record |= _sample(prepared, folder, wanted, record)
        # In this order, so that a run with samples always has the account of them.
        folder.write_json(RUN, record)
        folder.gather_chunks(record["chunks"])
    metrics = {"seconds_per_sample": record["sampling_seconds"] / experiment.num_samples}
    metrics |= {name: record[name] for name in ACCOUNT if name in record}
    sampled = Sampled(prepared, folder, folder.samples() if processes.is_first() else None)
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


def evaluate(experiment: Experiment, folder: RunFolder) -> dict[str, float]:
    """Compute the metrics of a finished run again, with the options that `experiment` has now.

    Returns:
        The metrics computed, which take their places in metrics.json.

    Raises:
        UserError: there are no samples, or the data are not those of the run.
    """
    samples, record = folder.samples(), folder.read_json(RUN)
    known = record.get("sigma")
    prepared = Prepared(experiment, sigma=None if known is None else np.array(known))
    _ = prepared.mesh  # before anything is computed, as in a run
    dataset = prepared.dataset
    if record.get("dataset", {}).get("fingerprint") != dataset.fingerprint():
        raise UserError(
            f"the data set {dataset.name} is not the one that {folder.path} was made with (see "
            f"{RUN}): restore it"
        )
    measures = [each for each in artefacts.wanted(experiment) if each.is_measure]
    metrics = _make(measures, Sampled(prepared, folder, samples))
    folder.write_json(METRICS, folder.read_json(METRICS) | metrics)
    # The other phases stay those of the run.
    phases = {measure.phase for measure in measures} & prepared.clock.seconds.keys()
    latest = {phase: prepared.clock.seconds[phase] for phase in phases}
    folder.write_json(RUN, record | {"seconds": record.get("seconds", {}) | latest})
    return metrics


def _make(wanted: list[Artefact], sampled: Sampled) -> dict[str, float]:
    """Make artefacts; all their numbers, in the order of the artefacts."""
    found: dict[Artefact, dict[str, float]] = {}
    # What takes all processes comes first: but for the first one they are free then.
    for artefact in sorted(wanted, key=lambda each: not each.is_shared):
        if artefact.is_shared:
            found[artefact] = artefact.make(sampled)
        elif sampled.samples is not None:
            with processes.first_only(), sampled.prepared.clock.phase(artefact.phase):
                found[artefact] = artefact.make(sampled)
    numbers = (found.get(artefact, {}) for artefact in wanted)
    return {name: value for each in numbers for name, value in each.items()}


def _record(prepared: Prepared, before: dict) -> dict:
    """The start of run.json; `before` is what an interrupted run wrote there."""
    mesh, dataset = prepared.mesh, prepared.dataset
    fingerprint, (shift, scale) = dataset.fingerprint(), dataset.to_file_map
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
            },
            "versions": {"gdiff": __version__, "python": sys.version.split()[0]}
            | {name: version(name) for name in packages},
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

    accounts, first = [], 0
    with track("sampling", batches * steps, "steps") as progress:
        while first < count:
            number = len(accounts)
            chunk = folder.chunk(number)
            # One that begins elsewhere is of another batch size.
            is_done = chunk is not None and chunk["index"][0] == first
            if not is_done:
                index = np.arange(first, min(first + size, count))
                _ = prepared.batches  # fitted, so that it is on record how long that took
                folder.write_json(RUN, record)
                chunk = _draw(prepared, folder, wanted, index, progress, before(first))
                folder.write_chunk(number, **chunk)
            accounts.append({k: v for k, v in chunk.items() if k not in ("samples", "index")})
            first += len(chunk["index"])
            progress.reach(before(first), skipped=is_done)
    return {"chunks": len(accounts)} | summary(prepared.blocks, accounts)


def _draw(
    prepared: Prepared,
    folder: RunFolder,
    wanted: list[Artefact],
    index: np.ndarray,
    progress: Progress,
    before: int,
) -> dict[str, np.ndarray]:
    """A batch of samples, as a chunk; what the first one shows on its way is written."""
    watched = [(each, each.states(prepared)) for each in wanted if index[0] == 0]
    watched = [(each, states) for each, states in watched if states.stops]

    def report(done: int, note: str) -> None:
        progress.reach(before + done, note)

    samples, account = prepared.batches.draw(index, [states for _, states in watched], report)
    for artefact, states in watched:
        artefact.keep(prepared, folder, states)
    return {"samples": samples, "index": index} | account
