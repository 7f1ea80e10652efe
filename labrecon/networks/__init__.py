"""Networks made of solvers, priors and learnable parameters."""

from labrecon.networks.unrolled import Unrolled

__all__ = ["Unrolled"]
