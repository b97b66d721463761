"""Every method under test, by the name of its configuration."""

import dataclasses

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

METHODS = {
    "ddim": DDIM(),
    "ddim_half": DDIM(eta=0.5),
    "ddim_one": DDIM(eta=1.0),
    "ancestral": Ancestral(),
    "ddpm": DDPM(),
    "euler_maruyama": EulerMaruyama(),
    "exponential_sde": Exponential(stochastic=True),
    "exponential_ode": Exponential(stochastic=False),
    "dpmpp_2m": DPMpp2M(),
    "accelerated_sde": AcceleratedSDE(),
    "accelerated_ode": AcceleratedODE(),
    "li_cai": LiCai(),
    "li_cai_back": LiCai(look="back"),
    "midpoint": Midpoint(),
    "srk": SRK(),
    "heun": Heun(),
}
STAGES = dict.fromkeys(METHODS, 1) | dict.fromkeys(("li_cai", "li_cai_back", "midpoint", "heun"), 2)


def unclipped(method):
    """The method without its clip, so that it is linear."""
    return dataclasses.replace(method, clip=None) if hasattr(method, "clip") else method
