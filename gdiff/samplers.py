"""Sampling methods, each with the options of how its steps are run."""

from gdiff.sampler.methods.accelerated_ode import AcceleratedODE
from gdiff.sampler.methods.accelerated_sde import AcceleratedSDE
from gdiff.sampler.methods.ancestral import Ancestral
from gdiff.sampler.methods.ddim import DDIM
from gdiff.sampler.methods.ddpm import DDPM
from gdiff.sampler.methods.dpmpp_2m import DPMpp2M
from gdiff.sampler.methods.euler_maruyama import EulerMaruyama
from gdiff.sampler.methods.exponential import Exponential
from gdiff.sampler.methods.heun import Heun
from gdiff.sampler.methods.li_cai import LiCai
from gdiff.sampler.methods.midpoint import Midpoint
from gdiff.sampler.methods.srk import SRK

__all__ = [
    "DDIM",
    "DDPM",
    "SRK",
    "AcceleratedODE",
    "AcceleratedSDE",
    "Ancestral",
    "DPMpp2M",
    "EulerMaruyama",
    "Exponential",
    "Heun",
    "LiCai",
    "Midpoint",
]
