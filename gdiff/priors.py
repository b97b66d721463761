"""Priors: what trajectories start from."""

from gdiff.prior.dpgmm import DPGMM
from gdiff.prior.empirical import Empirical
from gdiff.prior.flow import Flow
from gdiff.prior.gaussian import Gaussian
from gdiff.prior.gmm import GMM
from gdiff.prior.ppca import PPCA
from gdiff.prior.standard import Standard

__all__ = ["DPGMM", "GMM", "PPCA", "Empirical", "Flow", "Gaussian", "Standard"]
