"""A dense matrix as an operator."""

from __future__ import annotations

import torch
from torch import Tensor

from labrecon.design import FeasibleSet
from labrecon.operator import Operator
from labrecon.space import Space, SpaceError

__all__ = ["Matrix", "matrix_spaces"]


def matrix_spaces(matrix: Tensor, domain: Space | None, range: Space | None) -> tuple[Space, Space]:
    """The spaces that an ``(m, n)`` matrix maps between: vectors unless given.

    Raises:
        SpaceError: the tensor has not two axes, or a space not the matrix's size or dtype.
    """
    if matrix.ndim != 2:
        raise SpaceError(f"a matrix has two axes, got shape {tuple(matrix.shape)}")
    rows, columns = matrix.shape
    domain = domain or Space((columns,), matrix.dtype)
    range = range or Space((rows,), matrix.dtype)
    if (range.size, domain.size) != (rows, columns):
        raise SpaceError(f"a {rows}×{columns} matrix can not map {domain.shape} to {range.shape}")
    if not domain.dtype == range.dtype == matrix.dtype:
        raise SpaceError(
            f"a matrix of {matrix.dtype} can not map {domain.dtype} to {range.dtype}; convert it "
            "or the spaces"
        )
    return domain, range


class Matrix(Operator):
    """``A x = M x`` for ``M (m, n)``, acting on the flattened domain.

    The entries are a nuisance, or a design where ``feasible`` is given: ``at(matrix=…)`` replaces
    them, also by one matrix per batch element ``(*batch, m, n)``. For a matrix of mostly zeros
    take `SparseMatrix`.

    Args:
        matrix: real or complex; its dtype is that of both spaces.
        domain: a space of ``n`` samples (default: a vector).
        range: a space of ``m`` samples (default: a vector).
        learn: turn gradients of the entries on.
        feasible: what the entries may be; makes them a design.

    Raises:
        SpaceError: the sizes or dtypes of matrix and spaces differ, or the matrix is sparse.

    Example:
        >>> Matrix(torch.tensor([[1.0, 2.0], [0.0, 1.0]]))(torch.tensor([3.0, 4.0]))
        tensor([11.,  4.])
    """

    matrix: Tensor

    def __init__(
        self,
        matrix: Tensor,
        domain: Space | None = None,
        range: Space | None = None,
        *,
        learn: bool = False,
        feasible: FeasibleSet | None = None,
    ) -> None:
        if matrix.layout != torch.strided:
            raise SpaceError(f"Matrix is dense, got {matrix.layout}; take SparseMatrix")
        super().__init__(*matrix_spaces(matrix, domain, range))
        if feasible is None:
            self.nuisance("matrix", matrix)
        else:
            self.design("matrix", matrix, feasible)
        self.matrix.requires_grad_(learn)

    def forward(self, x: Tensor) -> Tensor:
        """``M x``."""
        flat = _times(self.matrix, x.flatten(x.ndim - self.domain.ndim))
        return flat.reshape(*flat.shape[:-1], *self.range.shape)

    def adjoint(self, y: Tensor) -> Tensor:
        """``Mᴴ y``."""
        flat = _times(self.matrix.mH, y.flatten(y.ndim - self.range.ndim))
        return flat.reshape(*flat.shape[:-1], *self.domain.shape)

    def norm(self, iterations: int = 60, tolerance: float = 1e-4) -> float:
        """The largest singular value."""
        with torch.no_grad():
            return float(torch.linalg.matrix_norm(self.matrix, 2))


def _times(matrix: Tensor, x: Tensor) -> Tensor:
    # One product for the whole batch where the matrix is shared.
    return x @ matrix.mT if matrix.ndim == 2 else (matrix @ x.unsqueeze(-1)).squeeze(-1)
