"""Which runs are meant, and in which order."""

import difflib
import operator
import re
from collections.abc import Callable, Iterable, Sequence

from gdiff.errors import UserError
from gdiff.runs.differ import as_text, number_of
from gdiff.runs.past import PastRun, natural

_COMPARED: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}
_CONDITION = re.compile(r"([^=<>!]+?)\s*(!=|<=|>=|==?|<|>)\s*(.*)", re.DOTALL)
# What runs have besides settings and metrics.
_OWN: dict[str, Callable[[PastRun], float | str]] = {
    "age": lambda run: run.age,
    "name": lambda run: run.name,
    "size": lambda run: run.size,
    "status": lambda run: run.status,
}


def chosen(runs: Sequence[PastRun], conditions: Iterable[str]) -> list[PastRun]:
    """The runs that meet all conditions.

    Args:
        runs: to choose from.
        conditions: `key=value`, `key=one,other`, `key!=value`, `key<1` and so on, where a key is a
            setting, a metric, or one of name, status, age (seconds) and size (bytes). A run that
            has no such key meets no condition on it.

    Raises:
        UserError: a condition cannot be read, or no run has its key.
    """
    for condition in conditions:
        found = _CONDITION.fullmatch(condition.strip())
        if found is None:
            raise UserError(f"--where {condition}: write key=value, key!=value, key<1 or key>1")
        key, sign, wanted = found.groups()
        require_known(runs, key, "--where")
        if sign in _COMPARED and number_of(wanted) is None:
            raise UserError(f"--where {condition}: {wanted} is not a number")
        runs = [run for run in runs if _meets(value_of(run, key), sign, wanted)]
    return list(runs)


def ordered(runs: Iterable[PastRun], key: str) -> list[PastRun]:
    """Runs by a setting, a metric, or name, status, age or size; those without it come last.

    Raises:
        UserError: no run has it.
    """
    runs = list(runs)
    require_known(runs, key, "--sort")

    def place(run: PastRun) -> tuple:
        value = value_of(run, key)
        number = number_of(None if value is None else str(value))
        return value is None, number is None, number or 0.0, natural(str(value))

    return sorted(runs, key=place)


def newest(runs: Sequence[PastRun], count: int) -> list[PastRun]:
    """The runs that were written to last, in their order."""
    limit = sorted((run.changed for run in runs), reverse=True)[:count][-1:]
    return [run for run in runs if limit and run.changed >= limit[0]][-count:]


def value_of(run: PastRun, key: str) -> float | str | None:
    """A metric as a number, a setting as text; None where the run has neither."""
    if key in _OWN:
        return _OWN[key](run)
    if key in run.metrics:
        return run.metrics[key]
    return as_text(run.settings[key]) if key in run.settings else None


def require_known(runs: Iterable[PastRun], key: str, where: str) -> None:
    """Raise `UserError` if there are runs and none of them has a key."""
    runs = list(runs)
    known = dict.fromkeys([*_OWN, *(k for r in runs for k in (*r.metrics, *r.settings))])
    if runs and key not in known:
        near = difflib.get_close_matches(key, known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ": gdiff runs shows what they have"
        raise UserError(f"{where} {key}: no run has such a setting or metric{hint}")


def _meets(value: float | str | None, sign: str, wanted: str) -> bool:
    if value is None:
        return False
    number = number_of(str(value))
    if sign in _COMPARED:
        return number is not None and _COMPARED[sign](number, float(wanted))
    options = [wanted, *wanted.split(",")]
    is_one = str(value) in options or (number is not None and number in map(number_of, options))
    return is_one != (sign == "!=")
