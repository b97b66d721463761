"""What devices exchange, read from the compiled programs."""

import math
import re
from itertools import chain
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gdiff.dataset import Dataset
from gdiff.mesh import batch_sharding, make_mesh
from gdiff.sampler.ddpm import DDPM
from gdiff.sampler.engine import Engine, _advance, start_of
from gdiff.score.full import Full
from gdiff.score.golden import Golden
from gdiff.score.pca_local import PcaLocal

OPERATIONS = (
    "all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute|collective-broadcast"
)
SIGMAS = (0.05, 0.5, 5.0)
B = 16  # of all devices


class Program(NamedTuple):
    """Compiled code: the instructions of each computation, and the name of the first one."""

    computations: dict[str, list[str]]
    entry: str
    is_once: bool

    @classmethod
    def of(cls, text, is_once=False):
        """From XLA's text; `is_once` counts loops of unknown length as if they ran once."""
        computations, entry, lines = {}, "", []
        for line in text.splitlines():
            if found := re.match(r"(ENTRY )?%?([\w.-]+) .*\{$", line):
                lines = computations[found[2]] = []
                entry = found[2] if found[1] else entry
            else:
                lines.append(line.strip())
        return cls(computations, entry, is_once)

    def collectives(self):
        lines = (line for lines in self.computations.values() for line in lines)
        return [line for line in lines if is_collective(line)]

    def moved(self, name=None):
        """Sizes of what collectives give, on the way through the dearest branches."""
        sizes = []
        for line in self.computations[name or self.entry]:
            inside = [self.moved(callee) for callee in callees(line)]
            if is_collective(line):
                sizes.append(size(line))
            elif " conditional(" in line:
                sizes += max(inside, key=sum)
            elif " call(" in line:
                sizes += inside[0]
            elif " while(" in line and any(inside):
                trips = re.search(r'"known_trip_count":\{"n":"(\d+)"', line)
                assert trips or self.is_once, line
                sizes += [*chain(*inside)] * (int(trips[1]) if trips else 1)
        return sizes


def is_collective(line):
    return re.search(rf" ({OPERATIONS})(-start)?\(", line) is not None


def callees(line):
    names = re.findall(r"(?:body|to_apply|true_computation|false_computation)=%?([\w.-]+)", line)
    for several in re.findall(r"branch_computations=\{([^}]*)\}", line):
        names += [name.strip(" %") for name in several.split(",")]
    return names


def size(line):
    """Numbers in the result of an instruction."""
    result = re.split(rf" (?:{OPERATIONS})", line.partition(" = ")[2])[0]
    shapes = re.findall(r"\w+\[([\d,]*)\]", result)
    return sum(math.prod(int(n) for n in shape.split(",") if n) for shape in shapes)


def groups(line):
    """Devices that a collective connects: lists of numbers."""
    if found := re.search(r"replica_groups=\{(\{[\d,{} ]*\})\}", line):
        return [
            [int(n) for n in group.split(",")] for group in re.findall(r"\{([\d, ]+)\}", found[1])
        ]
    found = re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", line)
    if found is None:  # named axes: taken to connect all
        return [list(range(8))]
    shape, source, order = ([int(n) for n in x.split(",")] if x else None for x in found.groups())
    ids = np.arange(math.prod(source)).reshape(source)
    return (ids if order is None else ids.transpose(order)).reshape(shape).tolist()


@pytest.fixture(scope="module")
def dataset():
    rng = np.random.default_rng(0)
    coarse = rng.standard_normal((515, 4, 4, 3))
    x = 127.5 + 60 * coarse.repeat(2, axis=1).repeat(2, axis=2)
    x = x + 15 * rng.standard_normal(x.shape)
    return Dataset("images", x.clip(0, 255).astype(np.uint8), shift=127.5, scale=127.5)


def queries(dataset, mesh):
    z = np.zeros((B, *dataset.event_shape), np.float32)
    return [jax.device_put(x, batch_sharding(mesh)) for x in (z, np.ones(B, np.float32))]


def check(program, across=0):
    """Nothing is exchanged by devices with different samples; returns all sizes on the way."""
    assert sum(size(line) for line in program.collectives() if is_across(line)) <= across
    return program.moved()


def is_across(line):
    """Whether a collective connects devices with different samples on the mesh data:4/batch:2."""
    return any(len({device % 2 for device in group}) > 1 for group in groups(line))


# Scans are repeated where rounding might matter: the full scan once, with more leaders; a golden
# one by its reserve, by the full scan, and by that with more leaders.
@pytest.mark.parametrize(
    "score,scans",
    [(Full(), 2), (PcaLocal(), 1), pytest.param(Golden(), 4, marks=pytest.mark.slow)],
    ids=["full", "pca_local", "golden"],
)
def test_devices_exchange_three_numbers_per_coordinate_and_scan_at_most(score, scans, dataset):
    mesh = make_mesh("data:4/batch:2")
    denoiser = score.fit(dataset, mesh, SIGMAS)
    arrays, rest = eqx.partition(denoiser, eqx.is_array)
    call = jax.jit(lambda arrays, z, sigma: eqx.combine(arrays, rest)(z, sigma).mean)
    program = Program.of(call.lower(arrays, *queries(dataset, mesh)).compile().as_text())
    moved = check(program)
    assert 0 < sum(moved) <= 3 * scans * (B // 2) * dataset.dim


def test_a_step_exchanges_no_more_than_its_scan_and_one_flag(dataset):
    mesh = make_mesh("data:4/batch:2")
    z, _ = queries(dataset, mesh)
    keys = jax.random.split(jax.random.key(0), B)
    engine = Engine(Full().fit(dataset, mesh), DDPM().steps(np.array([3.0, 1.0, 0.3, 0.0])))
    fixed = (engine._denoiser, engine._table, jax.device_put(keys, batch_sharding(mesh)))
    step = (start_of(engine.steps, z), jnp.int32(0), jnp.int32(1))
    text = _advance.lower(fixed, *step, is_stochastic=True).compile().compiled.as_text()
    # Whether all samples are finite is all that those of different ones need to know.
    moved = check(Program.of(text, is_once=True), across=1)
    assert sum(moved) <= 3 * 2 * (B // 2) * dataset.dim
