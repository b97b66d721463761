"""Schedules: `gdiff.schedules.EDM(steps=32).grid(process)` is an array of noise levels."""

from gdiff.schedule.asymptotic import Asymptotic
from gdiff.schedule.ddpm import DDPMIndices
from gdiff.schedule.edm import EDM
from gdiff.schedule.entropic import Entropic
from gdiff.schedule.las import LAS
from gdiff.schedule.levels import Levels
from gdiff.schedule.logsnr import LogSNR
from gdiff.schedule.optimal import Optimal
from gdiff.schedule.piadm import Piadm
from gdiff.schedule.time import UniformTime
from gdiff.schedule.uniform import UniformSigma

__all__ = [
    "EDM",
    "LAS",
    "Asymptotic",
    "DDPMIndices",
    "Entropic",
    "Levels",
    "LogSNR",
    "Optimal",
    "Piadm",
    "UniformSigma",
    "UniformTime",
]
