"""Autoregression: what a slow drift over frames leaves unexplained, for a prior on aberrations."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from labrecon.operator import Operator
from labrecon.space import Space, SpaceError

__all__ = ["Autoregression"]


class Autoregression(Operator):
    """``z_0 = x_0``, ``z_t = (x_t − a x_{t−1}) / √(1 − a²)``: whitens an AR(1) process.

    A stationary process of variance 1 whose neighbours have the correlation ``a`` becomes white
    noise of variance 1, so that ``Tikhonov(1/σ², operator=Autoregression(space, a))`` is minus the
    logarithm of its density: aberrations of deviation σ that drift from frame to frame.

    Args:
        domain: of the process, frames along its first axis.
        correlation: ``a`` of neighbours, within (−1, 1); ``exp(−Δt/τ)`` for frames Δt apart.

    Raises:
        SpaceError: the domain has no axis, or the correlation is out of range.

    Example:
        >>> drift = Autoregression(Space((3,), torch.float64), 0.6)
        >>> drift(torch.tensor([1.0, 1.0, 1.0], dtype=torch.float64))
        tensor([1.0000, 0.5000, 0.5000], dtype=torch.float64)
    """

    def __init__(self, domain: Space, correlation: float) -> None:
        if domain.ndim < 1 or not -1 < correlation < 1:
            raise SpaceError(
                f"an AR(1) process has frames and a correlation within (-1, 1); got {domain} and "
                f"{correlation:g}"
            )
        super().__init__(domain, domain)
        self.linear = True
        self.correlation = float(correlation)
        self._scale = 1 / math.sqrt(1 - self.correlation**2)

    def forward(self, x: Tensor) -> Tensor:
        """Innovations."""
        axis = -self.domain.ndim
        n = x.shape[axis]
        later = x.narrow(axis, 1, n - 1) - self.correlation * x.narrow(axis, 0, n - 1)
        return torch.cat([x.narrow(axis, 0, 1), self._scale * later], axis)

    def adjoint(self, y: Tensor) -> Tensor:
        """``x_t = s_t z_t − a s_{t+1} z_{t+1}`` with ``s_0 = 1`` and else ``1/√(1 − a²)``."""
        axis = -self.domain.ndim
        n = y.shape[axis]
        later = self._scale * y.narrow(axis, 1, n - 1)
        scaled = torch.cat([y.narrow(axis, 0, 1), later], axis)
        nothing = torch.zeros_like(y.narrow(axis, 0, 1))
        return scaled - self.correlation * torch.cat([later, nothing], axis)
