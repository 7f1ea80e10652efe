"""A dense matrix as an operator."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from labrecon.operator import Operator
from labrecon.space import Space, SpaceError

__all__ = ["Matrix"]


class Matrix(Operator):
    """``A x = M x`` for ``M (m, n)``, acting on the flattened domain.

    Args:
        matrix: real or complex; its dtype is that of both spaces.
        domain: a space of ``n`` samples (default: a vector).
        range: a space of ``m`` samples (default: a vector).
        learn: make the entries a parameter with gradients.
    """

    def __init__(
        self,
        matrix: Tensor,
        domain: Space | None = None,
        range: Space | None = None,
        *,
        learn: bool = False,
    ) -> None:
        if matrix.ndim != 2:
            raise SpaceError(f"a matrix has two axes, got shape {tuple(matrix.shape)}")
        rows, columns = matrix.shape
        domain = domain or Space((columns,), matrix.dtype)
        range = range or Space((rows,), matrix.dtype)
        if (range.size, domain.size) != (rows, columns):
            raise SpaceError(
                f"a {rows}×{columns} matrix can not map {domain.shape} to {range.shape}"
            )
        super().__init__(domain, range)
        self.matrix = nn.Parameter(matrix.detach().clone(), requires_grad=learn)

    def forward(self, x: Tensor) -> Tensor:
        """``M x``."""
        flat = x.flatten(x.ndim - self.domain.ndim)
        return (flat @ self.matrix.mT).reshape(*self.domain.batch(x), *self.range.shape)

    def adjoint(self, y: Tensor) -> Tensor:
        """``Mᴴ y``."""
        flat = y.flatten(y.ndim - self.range.ndim)
        return (flat @ self.matrix.conj()).reshape(*self.range.batch(y), *self.domain.shape)

    def norm(self, iterations: int = 60, tolerance: float = 1e-4) -> float:
        """The largest singular value."""
        with torch.no_grad():
            return float(torch.linalg.matrix_norm(self.matrix, 2))
