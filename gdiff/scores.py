"""Scores: `gdiff.scores.Exact().fit(data)` is a denoiser."""

from gdiff.score.exact import Exact
from gdiff.score.golddiff import GoldDiff
from gdiff.score.golden import Golden
from gdiff.score.local import PcaLocal
from gdiff.score.network import Network
from gdiff.score.patch import Patch
from gdiff.score.smoothed import Smoothed
from gdiff.score.wiener import Wiener

__all__ = ["Exact", "GoldDiff", "Golden", "Network", "Patch", "PcaLocal", "Smoothed", "Wiener"]
