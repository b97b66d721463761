"""What devices exchange, read from XLA's text of a compiled program."""

import math
import re
from itertools import chain
from typing import NamedTuple

import numpy as np

_OPERATIONS = (
    "all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute|collective-broadcast"
)


class Program(NamedTuple):
    """Compiled code of one device, the same for all.

    Attributes:
        computations: the instructions of each, by its name.
        entry: name of the one that begins.
        is_once: whether loops of unknown length count as if they ran once.
    """

    computations: dict[str, list[str]]
    entry: str
    is_once: bool

    @classmethod
    def of(cls, text: str, *, is_once: bool = False) -> "Program":
        """From the text that `as_text` of a compiled program gives."""
        computations, entry, lines = {}, "", []
        for line in text.splitlines():
            if found := re.match(r"(ENTRY )?%?([\w.-]+) .*\{$", line):
                lines = computations[found[2]] = []
                entry = found[2] if found[1] else entry
            else:
                lines.append(line.strip())
        return cls(computations, entry, is_once)

    def collectives(self) -> list[str]:
        """Instructions by which devices exchange something, wherever they stand."""
        return [line for line in chain(*self.computations.values()) if _is_exchange(line)]

    def moved(self, name: str | None = None) -> list[int]:
        """Sizes of what collectives give to a device, on the way through the dearest branches.

        Args:
            name: of the computation where the way begins; None for the whole program.

        Raises:
            ValueError: a loop of unknown length exchanges something, unless `is_once`.
        """
        sizes = []
        for line in self.computations[name or self.entry]:
            inside = [self.moved(callee) for callee in _callees(line)]
            if _is_exchange(line):
                sizes.append(size(line))
            elif " conditional(" in line:
                sizes += max(inside, key=sum)
            elif " call(" in line:
                sizes += inside[0]
            elif " while(" in line and any(inside):
                sizes += self._rounds(line) * [*chain(*inside)]
        return sizes

    def _rounds(self, line: str) -> int:
        found = re.search(r'"known_trip_count":\{"n":"(\d+)"', line)
        if found is None and not self.is_once:
            raise ValueError(f"nobody knows how often this loop runs: {line}")
        return int(found[1]) if found else 1


def size(line: str) -> int:
    """Numbers in what a collective gives."""
    result = re.split(rf" (?:{_OPERATIONS})", line.partition(" = ")[2])[0]
    shapes = re.findall(r"\w+\[([\d,]*)\]", result)
    return sum(math.prod(int(n) for n in shape.split(",") if n) for shape in shapes)


def groups(line: str) -> list[list[int]] | None:
    """Numbers of the devices that a collective connects with each other; None for all."""
    if found := re.search(r"replica_groups=\{(\{[\d,{} ]*\})\}", line):
        listed = re.findall(r"\{([\d, ]+)\}", found[1])
        return [[int(number) for number in group.split(",")] for group in listed]
    found = re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", line)
    if found is None:
        return None
    shape, source, order = ([int(n) for n in x.split(",")] if x else None for x in found.groups())
    numbers = np.arange(math.prod(source)).reshape(source)
    return numbers.transpose(order or range(numbers.ndim)).reshape(shape).tolist()


def _is_exchange(line: str) -> bool:
    """Whether it is a collective that connects several devices."""
    if re.search(rf" ({_OPERATIONS})(-start)?\(", line) is None:
        return False
    connected = groups(line)
    return connected is None or any(len(group) > 1 for group in connected)


def _callees(line: str) -> list[str]:
    """Names of the computations that an instruction refers to."""
    names = re.findall(r"(?:body|to_apply|true_computation|false_computation)=%?([\w.-]+)", line)
    for several in re.findall(r"branch_computations=\{([^}]*)\}", line):
        names += [name.strip(" %") for name in several.split(",")]
    return names
