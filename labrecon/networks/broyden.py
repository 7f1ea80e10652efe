"""Broyden's quasi-Newton method for fixed points."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["Broyden"]


class Broyden:
    """Quasi-Newton on ``g(z) = T(z) − z`` with rank-one updates of the inverse (Broyden 1965).

    ``z ← z − H g`` from ``H = −β I``, and ``H ← H + (Δz − H Δg) Δzᵀ H / (Δzᵀ H Δg)`` ("good"
    updates), kept as ``memory`` pairs of vectors; when they are used up it starts anew from where
    it is. Each batch element has its own ``H``. There is no line search: not for starts far from
    the solution of a strongly nonlinear map.

    Args:
        memory: updates that are kept.
        beta: of the first ``H``.
    """

    safeguarded = True

    def __init__(self, memory: int = 20, beta: float = 1.0) -> None:
        self.memory = memory
        self.beta = beta
        self._count = 0
        self._last: tuple[Tensor, Tensor] | None = None

    def propose(self, z: Tensor, image: Tensor) -> Tensor:
        """The quasi-Newton step."""
        g = image - z
        if self._last is None:
            self._left = z.new_zeros(len(z), self.memory, z.shape[-1])
            self._right = torch.zeros_like(self._left)
            self._kept = torch.ones(len(z), dtype=torch.bool, device=z.device)
        else:
            if self._count == self.memory:
                self._count = 0
                self._left, self._right = self._left.zero_(), self._right.zero_()
            self._update(z - self._last[0], g - self._last[1])
        self._last = z, g
        self._kept = torch.ones_like(self._kept)
        return z - self._inverse(g)

    def _inverse(self, v: Tensor) -> Tensor:
        """``H v``."""
        return self._ranks(self._left, self._right, v)

    def _ranks(self, left: Tensor, right: Tensor, v: Tensor) -> Tensor:
        weights = (right @ v[..., None]).squeeze(-1)
        return torch.einsum("bm,bmn->bn", weights, left) - self.beta * v

    def _update(self, move: Tensor, change: Tensor) -> None:
        row = self._ranks(self._right, self._left, move)
        mapped = self._inverse(change)
        curvature = (move * mapped).sum(-1)
        # A step that says nothing about the Jacobian, to rounding.
        scale = move.norm(dim=-1) * mapped.norm(dim=-1)
        usable = self._kept & (curvature.abs() > 1e-3 * torch.finfo(move.dtype).eps ** 0.5 * scale)
        divisor = torch.where(usable, curvature, 1)[:, None]
        self._left[:, self._count] = torch.where(usable[:, None], (move - mapped) / divisor, 0)
        self._right[:, self._count] = torch.where(usable[:, None], row, 0)
        self._count += 1

    def forget(self, elements: Tensor) -> None:
        """Drop the updates of some elements, and the one that leads to their next point."""
        if self._last is None:
            return
        drop = elements[:, None, None]
        self._left = torch.where(drop, 0, self._left)
        self._right = torch.where(drop, 0, self._right)
        self._kept = self._kept & ~elements
