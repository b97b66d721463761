"""What devices exchange, read from the compiled programs."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gdiff.bench.collectives import Program, groups, size
from gdiff.dataset import Dataset
from gdiff.dataset.placed import Placed
from gdiff.parallel.mesh import batch_sharding, make_mesh
from gdiff.sampler.drivers.rows import Carry
from gdiff.sampler.drivers.sequential import Engine, _advance
from gdiff.sampler.methods.ddpm import DDPM
from gdiff.score.exact import Exact
from gdiff.score.golden.scan import GoldenScan
from gdiff.score.golden.spec import Golden
from gdiff.score.local.levels import ByLevel
from gdiff.score.local.spec import PcaLocal

SIGMAS = (0.05, 0.5, 5.0)
B = 16  # of all devices


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
    """Whether a collective connects devices with different samples on the mesh data:2/batch:2."""
    connected = groups(line) or [range(4)]
    return any(len({device % 2 for device in group}) > 1 for group in connected)


# Scans are repeated where rounding might matter: the full scan once, with more leaders; a golden
# one by its reserve, by the full scan, and by that with more leaders.
@pytest.mark.parametrize(
    "score,scans",
    [(Exact(), 2), (PcaLocal(), 1), pytest.param(Golden(), 4, marks=pytest.mark.slow)],
    ids=["full", "pca_local", "golden"],
)
def test_devices_exchange_three_numbers_per_coordinate_and_scan_at_most(score, scans, dataset):
    mesh = make_mesh("data:2/batch:2")
    denoiser = score.fit(Placed(dataset, mesh), SIGMAS)
    assert isinstance(denoiser, GoldenScan) == isinstance(score, Golden)
    arrays, rest = eqx.partition(denoiser, eqx.is_array)
    call = jax.jit(lambda arrays, z, sigma: eqx.combine(arrays, rest)(z, sigma).mean)
    program = Program.of(call.lower(arrays, *queries(dataset, mesh)).compile().as_text())
    moved = check(program)
    # Blocks of a local score are filled up to whole words; it has one scan a width of its masks.
    parts = denoiser.parts if isinstance(denoiser, ByLevel) else ()
    numbers = sum(part.masks.outputs.size for part in parts) or dataset.dim
    assert 0 < sum(moved) <= 3 * scans * (B // 2) * numbers


def test_a_step_exchanges_no_more_than_its_scan_and_one_flag(dataset):
    mesh = make_mesh("data:2/batch:2")
    z, _ = queries(dataset, mesh)
    keys = jax.random.split(jax.random.key(0), B)
    engine = Engine(
        Exact().fit(Placed(dataset, mesh)), DDPM().steps(np.array([3.0, 1.0, 0.3, 0.0]))
    )
    fixed = (engine._denoiser, engine._table, jax.device_put(keys, batch_sharding(mesh)))
    step = (Carry.before(engine.steps, z), jnp.int32(0), jnp.int32(1))
    text = _advance.lower(fixed, *step, is_stochastic=True).compile().compiled.as_text()
    # Whether all samples are finite is all that those of different ones need to know.
    moved = check(Program.of(text, is_once=True), across=1)
    assert sum(moved) <= 3 * 2 * (B // 2) * dataset.dim


def test_devices_of_a_collective_are_read_in_all_ways_that_they_are_written():
    assert groups("x = f32[2] all-reduce(y), replica_groups={{0,2},{1,3}}, to_apply=%a") == [
        [0, 2],
        [1, 3],
    ]
    assert groups("x = f32[2] all-reduce(y), replica_groups=[2,2]<=[4]") == [[0, 1], [2, 3]]
    assert groups("x = f32[2] all-reduce(y), replica_groups=[2,2]<=[2,2]T(1,0)") == [[0, 2], [1, 3]]
    assert groups("x = f32[2] all-reduce(y), replica_groups={}") is None


def test_sizes_count_trips_of_loops_and_the_dearest_branch():
    text = """HloModule small
%once (x: f32[3]) -> f32[3] {
  %a = f32[3]{0} all-reduce(%x), replica_groups={{0,1}}, to_apply=%add
}
%twice (x: f32[3]) -> f32[3] {
  %b = (f32[3,2]{1,0}, f32[]) all-reduce-start(%x, %y), replica_groups={{0,1}}, to_apply=%add
}
%alone (x: f32[3]) -> f32[3] {
  %c = f32[9]{0} all-reduce(%x), replica_groups={{0},{1}}, to_apply=%add
}
%add (x: f32[], y: f32[]) -> f32[] {
  %sum = f32[] add(%x, %y)
}
ENTRY %main (x: f32[3]) -> f32[3] {
  %l = f32[3]{0} while(%x), condition=%c, body=%once, backend_config={"known_trip_count":{"n":"4"}}
  %m = f32[3]{0} conditional(%p, %l, %l, %l), branch_computations={%once, %twice, %alone}
  ROOT %n = f32[3]{0} call(%m), to_apply=%once
}
"""
    program = Program.of(text)
    assert program.moved() == [3] * 4 + [7] + [3]
    assert len(program.collectives()) == 2
    unknown = text.replace("known_trip_count", "other")
    with pytest.raises(ValueError, match="how often"):
        Program.of(unknown).moved()
    assert sum(Program.of(unknown, is_once=True).moved()) == 3 + 7 + 3
