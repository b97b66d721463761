"""Levels that are given."""

import json

import numpy as np
import pytest

from gdiff.errors import UserError
from gdiff.process.ou import OU
from gdiff.schedule.levels import Levels

GIVEN = [80.0, 20.0, 5.0, 1.0]


@pytest.mark.parametrize("levels", [GIVEN, [*GIVEN, 0.0]])
def test_a_list_is_the_grid(levels):
    assert Levels(levels=levels).grid(OU()).tolist() == [*GIVEN, 0]
    assert Levels(levels=levels, to_zero=False).grid(OU()).tolist() == GIVEN
    assert Levels(levels=levels, steps=4).node_count == 4


def test_ends_leave_levels_out():
    spec = Levels(levels=GIVEN, sigma_max=30.0, sigma_min=2.0)
    assert spec.grid(OU()).tolist() == [20, 5, 0]
    assert Levels(levels=GIVEN).reaching(6.0, OU()).grid(OU()).tolist() == [20, 5, 1, 0]
    assert Levels(levels=GIVEN, horizon=1.7).grid(OU()).tolist() == [1, 0]


def test_files_of_all_kinds(tmp_path):
    np.save(tmp_path / "a.npy", GIVEN)
    (tmp_path / "b.json").write_text(json.dumps(GIVEN))
    (tmp_path / "c.json").write_text(json.dumps({"sigmas": [*GIVEN, 0]}))
    (tmp_path / "d.txt").write_text("80, 20\n5 1\n")
    for path in sorted(tmp_path.iterdir()):
        assert Levels(file=path).grid(OU()).tolist() == [*GIVEN, 0]


@pytest.mark.parametrize(
    "fields, message",
    [
        ({}, "give one of them"),
        ({"levels": [1.0, 2.0]}, "must decrease"),
        ({"levels": [2.0, -1.0]}, "must be positive"),
        ({"levels": []}, "must be positive"),
        ({"levels": [2.0], "to_zero": False}, "two or more"),
        ({"levels": GIVEN, "steps": 7}, "the levels make 4 steps"),
        ({"levels": GIVEN, "sigma_max": 0.5}, "leave too few"),
    ],
)
def test_what_is_no_grid_is_refused_in_one_line(fields, message):
    with pytest.raises(UserError, match=message) as caught:
        Levels(**fields).grid(OU())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["one two", "{}", "[1, [2]]", ""])
def test_files_without_numbers_are_refused_in_one_line(tmp_path, text):
    for name in ("a.json", "a.txt", "a.npy"):
        (tmp_path / name).write_text(text)
        with pytest.raises(UserError, match=r"^file=.*"):
            Levels(file=tmp_path / name)
    with pytest.raises(UserError, match="cannot be read"):
        Levels(file=tmp_path / "missing.json")
