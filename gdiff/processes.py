"""Processes: the maps between a time and a noise level."""

from gdiff.process.cosine import Cosine
from gdiff.process.ddpm import DDPM
from gdiff.process.flow import LinearFlow
from gdiff.process.ou import OU
from gdiff.process.ve import VE
from gdiff.process.vp import VPLinear

__all__ = ["DDPM", "OU", "VE", "Cosine", "LinearFlow", "VPLinear"]
