"""Networks made of solvers, priors and learnable parameters."""

from labrecon.networks.equilibrium import Equilibrium
from labrecon.networks.reversed import ReversalError
from labrecon.networks.tikhonov import Tikhonov
from labrecon.networks.unrolled import Unrolled

__all__ = ["Equilibrium", "ReversalError", "Tikhonov", "Unrolled"]
