"""Settings that contradict each other, and settings that were given and do nothing."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from gdiff.config.words import key_of
from gdiff.errors import require
from gdiff.experiment import Experiment


class _Use(NamedTuple):
    """When keys have an effect, and what to say where they have none."""

    keys: tuple[str, ...]
    is_used: Callable[[Experiment], bool]
    hint: str


_USES = (
    _Use(("metrics.",), lambda e: e.metrics.enabled, "metrics.enabled=false measures nothing"),
    _Use(
        ("metrics.score_queries",),
        lambda e: e.measures_score,
        "the score is not measured, which metrics.score_error=always does",
    ),
    _Use(
        ("schedule.loss_file", "schedule.loss_type", "schedule.loss_on", "schedule.loss_samples"),
        lambda e: e.schedule.needs_losses,
        "this schedule follows no loss, as for example schedule=las does",
    ),
    _Use(
        ("schedule.loss_type",),
        lambda e: e.schedule.loss_file is not None,
        "it is about schedule.loss_file, which is not given",
    ),
    _Use(
        ("schedule.loss_on", "schedule.loss_samples"),
        lambda e: e.schedule.loss_file is None,
        "the loss is that of schedule.loss_file",
    ),
    _Use(
        ("schedule.horizon_tolerance",),
        lambda e: e.schedule.horizon == "auto",
        "it is about schedule.horizon=auto",
    ),
    _Use(
        (
            *("sampler.tolerance", "sampler.max_sweeps", "sampler.sweep", "sampler.head"),
            *("sampler.split", "sampler.start"),
        ),
        lambda e: e.sampler.block_size != 1,
        "sampler.block_size=1 runs the steps one by one",
    ),
    _Use(
        ("sampler.corrector_step", "sampler.corrector_friction"),
        lambda e: e.sampler.corrector > 0,
        "sampler.corrector=0 corrects nothing",
    ),
)
# Values by which a setting asks for nothing, and so for what it has.
_NOTHING = ("false", "null", "never", "0")


def require_consistent(experiment: Experiment, overrides: Iterable[str]) -> None:
    """Raise `UserError` if overrides of an experiment contradict each other."""
    keys = {key_of(word) for word in overrides}
    horizon = experiment.schedule.horizon
    require(
        "schedule.sigma_max" not in keys or horizon is None or isinstance(horizon, str),
        f"schedule.horizon={horizon} takes the place of schedule.sigma_max: leave out one of them",
    )


def without_effect(experiment: Experiment, overrides: Sequence[str]) -> list[str]:
    """A line for each override that does nothing in an experiment, and why."""
    found = {}
    for word in overrides:
        key, value = key_of(word), word.partition("=")[2]
        for use in _USES:
            is_meant = any(key == k or (k[-1] == "." and key.startswith(k)) for k in use.keys)
            if is_meant and value.lower() not in _NOTHING and not use.is_used(experiment):
                found.setdefault(word, f"{word} has no effect: {use.hint}")
    return list(found.values())
