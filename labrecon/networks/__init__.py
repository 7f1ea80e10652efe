"""Networks made of solvers, priors and learnable parameters."""

from labrecon.networks.equilibrium import Equilibrium
from labrecon.networks.reversed import ReversalError
from labrecon.networks.unrolled import Unrolled

__all__ = ["Equilibrium", "ReversalError", "Unrolled"]
