"""What run.json may say: a run goes on from it, so it is checked before it is believed."""

import itertools
from collections.abc import Callable, Mapping

from gdiff.store.files import is_number


def _is_number(value: object) -> bool:
    return is_number(value) and value >= 0


def _is_count(value: object) -> bool:
    return _is_number(value) and value == int(value) and value >= 1


def _is_grid(value: object) -> bool:
    is_list = isinstance(value, list) and len(value) > 1 and all(map(_is_number, value))
    return is_list and all(a > b for a, b in itertools.pairwise(value))


def _is_numbers(value: object) -> bool:
    return isinstance(value, dict) and all(map(_is_number, value.values()))


def _is_dataset(value: object) -> bool:
    shape = value.get("event_shape", []) if isinstance(value, dict) else None
    is_shape = isinstance(shape, list) and all(map(_is_count, shape))
    return is_shape and isinstance(value.get("fingerprint", ""), str)


def _is_blocks(value: object) -> bool:
    return isinstance(value, list) and all(
        _is_numbers(block) and _is_count(block.get("rows")) and "residual" in block
        for block in value
    )


# What is read back, by key; the rest is for people.
_CHECKS: dict[str, tuple[Callable[[object], bool], str]] = {
    "status": (lambda value: isinstance(value, str), "a word"),
    "error": (lambda value: isinstance(value, str), "a text"),
    "sigma": (_is_grid, "a list of decreasing noise levels"),
    "seconds": (_is_numbers, "seconds by phase"),
    "peak_memory_bytes": (_is_numbers, "bytes by device"),
    "dataset": (_is_dataset, "the shape and fingerprint of data"),
    "blocks": (_is_blocks, "the account of blocks"),
    "chunks": (_is_count, "a number of chunks"),
    **dict.fromkeys(("sampling_seconds", "denoiser_evaluations"), (_is_number, "a number")),
    **dict.fromkeys(("rounds", "speedup_in_rounds", "clip_rate"), (_is_number, "a number")),
}


def problem(record: Mapping) -> str | None:
    """What is wrong with a record, in a few words; None for a good one."""
    for key, (is_valid, what) in _CHECKS.items():
        if key in record and not is_valid(record[key]):
            return f"{key} is not {what}"
    return None


def problem_of_metrics(metrics: Mapping) -> str | None:
    """What is wrong with the content of metrics.json, in a few words; None for a good one."""
    wrong = [name for name, value in metrics.items() if not is_number(value)]
    return f"{wrong[0]} is not a number" if wrong else None
