"""Solvers: one iteration of each algorithm."""

from labrecon.solvers.admm import ADMM
from labrecon.solvers.alternating import Alternating
from labrecon.solvers.cg import CG
from labrecon.solvers.direct import Direct
from labrecon.solvers.gauss_newton import GaussNewton
from labrecon.solvers.gradient import GradientDescent
from labrecon.solvers.hqs import HQS
from labrecon.solvers.lucas_kanade import LucasKanade
from labrecon.solvers.mlem import MLEM
from labrecon.solvers.pdhg import PDHG
from labrecon.solvers.proximal import FISTA, ISTA
from labrecon.solvers.sirt import SIRT

__all__ = [
    "ADMM",
    "CG",
    "FISTA",
    "HQS",
    "ISTA",
    "MLEM",
    "PDHG",
    "SIRT",
    "Alternating",
    "Direct",
    "GaussNewton",
    "GradientDescent",
    "LucasKanade",
]
