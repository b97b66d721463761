"""Runs of the past: found, read without trust, chosen, and told apart by what differs."""

from gdiff.runs.choose import chosen, newest, ordered
from gdiff.runs.differ import Difference, common, differing
from gdiff.runs.groups import Group, seeds_apart
from gdiff.runs.past import PastRun, find, read

__all__ = [
    "Difference",
    "Group",
    "PastRun",
    "chosen",
    "common",
    "differing",
    "find",
    "newest",
    "ordered",
    "read",
    "seeds_apart",
]
