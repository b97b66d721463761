from typing import NamedTuple

import jax
import numpy as np
import pytest

from gdiff.errors import UserError
from gdiff.parallel.mesh import make_mesh, place_rows
from gdiff.runtime import Runtime


@pytest.mark.parametrize(
    "layout,data,batch",
    [("auto", 1, 4), ("data:2/batch:2", 2, 2), ("batch:1,data:3", 3, 1), ("data:4", 4, 1)],
)
def test_layouts(layout, data, batch):
    assert dict(make_mesh(layout).shape) == {"data": data, "batch": batch}


@pytest.mark.parametrize("layout", ["", "data", "data:0", "rows:2", "data:2 batch:2", "data:-1"])
def test_a_layout_that_cannot_be_read_is_refused_with_an_example(layout):
    with pytest.raises(UserError, match="data:4/batch:2"):
        make_mesh(layout)


def test_more_devices_than_there_are():
    with pytest.raises(UserError, match="asks for 16 devices, and there are 4"):
        make_mesh("data:16")


@pytest.mark.parametrize("n", [1, 8, 13])
def test_rows_are_split_and_padded_with_zeros(n):
    x = np.arange(1, 3 * n + 1).reshape(n, 3)
    placed = place_rows(x, make_mesh("data:4"))
    assert placed.shape[0] % 4 == 0
    assert np.array_equal(placed[:n], x)
    assert not np.any(placed[n:])
    assert {s.data.shape[0] for s in placed.addressable_shards} == {placed.shape[0] // 4}
    assert len(jax.devices()) == 4


CLUSTER = {"distributed": True, "coordinator": "node1:1234", "process_id": 0, "num_processes": 2}


@pytest.mark.parametrize(
    "changes,message",
    [
        ({"process_id": None}, "process_id=null: set all three of them, or none"),
        ({"coordinator": None, "num_processes": None}, "coordinator=null and num_processes=null: "),
        ({"distributed": False}, "add distributed=true"),
        ({"coordinator": "node1"}, "coordinator=node1 must be an address and a port"),
        ({"num_processes": 0}, "num_processes=0 must be at least 1"),
        ({"process_id": 2}, "process_id=2 must be between 0 and 1"),
        ({"process_id": -1}, "process_id=-1 must be between 0 and 1"),
    ],
)
def test_what_is_said_of_the_processes_must_fit_together(changes, message):
    with pytest.raises(UserError, match=message):
        Runtime(**(CLUSTER | changes))


def test_the_processes_do_not_belong_to_the_run():
    runtime = Runtime(mesh="data:2", x64=True, **CLUSTER)
    assert runtime.without_processes() == Runtime(mesh="data:2", x64=True)


def test_no_process_may_be_left_without_a_device(monkeypatch):
    class Device(NamedTuple):
        process_index: int

    monkeypatch.setattr(jax, "devices", lambda: [Device(i // 2) for i in range(8)])
    with pytest.raises(UserError, match="leaves process 3 without a device: use all 8"):
        make_mesh("data:3/batch:2")
