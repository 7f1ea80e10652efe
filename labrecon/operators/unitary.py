"""What all unitary transforms share."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from labrecon.operator import Operator
from labrecon.space import is_per_element

__all__ = ["Unitary"]


class Unitary(Operator):
    """An operator with ``AᴴA = A Aᴴ = I``: the adjoint is the inverse.

    A subclass writes `forward` and `adjoint`.
    """

    def normal(self, x: Tensor, weights: Tensor | None = None) -> Tensor:
        """``x``, or ``Aᴴ W A x`` with weights."""
        return x if weights is None else super().normal(x, weights)

    def solve(
        self,
        rhs: Tensor,
        rho: Tensor | float,
        *,
        weights: Tensor | None = None,
        **options: Any,
    ) -> Tensor:
        """``rhs / (1 + ρ)``, or ``Aᴴ((A rhs) / (w + ρ))`` with weights.

        By conjugate gradients where both weights and ``ρ`` vary from sample to sample.
        """
        if weights is None:
            return rhs / (1 + rho)
        if not is_per_element(rho, self.domain.ndim):
            return super().solve(rhs, rho, weights=weights, **options)
        return self.adjoint(self(rhs) / (weights + rho))

    def norm(self, iterations: int = 60, tolerance: float = 1e-4) -> float:
        """1."""
        return 1.0
