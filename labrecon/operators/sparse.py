"""A sparse matrix as an operator."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from labrecon.functional import linear_function
from labrecon.operator import Operator
from labrecon.operators.matrix import matrix_spaces
from labrecon.space import Space, SpaceError

__all__ = ["SparseMatrix"]


class SparseMatrix(Operator):
    """``A x = M x`` for a sparse ``M (m, n)``, acting on the flattened domain.

    ``M`` and ``Mᴴ`` are both held by rows (CSR): twice the memory, and both products are fast.
    The entries are given, not learned: derivatives of any order reach ``x`` only.

    Args:
        matrix: a sparse tensor of any two-dimensional layout, real or complex, without gradients.
        domain: a space of ``n`` samples (default: a vector).
        range: a space of ``m`` samples (default: a vector).

    Raises:
        SpaceError: the sizes or dtypes of matrix and spaces differ, or the matrix is dense or
            asks for gradients.

    Example:
        >>> matrix = torch.tensor([[1.0, 2.0], [0.0, 1.0]]).to_sparse()
        >>> SparseMatrix(matrix).adjoint(torch.tensor([3.0, 4.0]))
        tensor([ 3., 10.])
    """

    def __init__(
        self, matrix: Tensor, domain: Space | None = None, range: Space | None = None
    ) -> None:
        if matrix.layout == torch.strided or matrix.requires_grad:
            raise SpaceError("SparseMatrix takes a sparse tensor without gradients; take Matrix")
        super().__init__(*matrix_spaces(matrix, domain, range))
        by_place = matrix.to_sparse_coo().coalesce()
        with warnings.catch_warnings():
            # torch says once per process that CSR is in beta; the product used here is stable.
            warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
            self._hold("", by_place.to_sparse_csr())
            self._hold("adjoint_", by_place.mT.conj().coalesce().to_sparse_csr())

    def _hold(self, prefix: str, csr: Tensor) -> None:
        # The parts, not the tensor: they move, save and load as any buffer does.
        self.register_buffer(f"{prefix}start", csr.crow_indices())
        self.register_buffer(f"{prefix}index", csr.col_indices())
        self.register_buffer(f"{prefix}value", csr.values().resolve_conj())

    def _product(self, prefix: str, x: Tensor, source: Space, target: Space) -> Tensor:
        matrix = torch.sparse_csr_tensor(
            self.get_buffer(f"{prefix}start"),
            self.get_buffer(f"{prefix}index"),
            self.get_buffer(f"{prefix}value"),
            (target.size, source.size),
            check_invariants=False,
        )
        # Samples of one entry for the whole batch lie side by side: each entry is read once.
        columns = x.reshape(-1, source.size).mT.contiguous()
        return (matrix @ columns).mT.reshape(*source.batch(x), *target.shape)

    def _times(self, x: Tensor) -> Tensor:
        return self._product("", x, self.domain, self.range)

    def _adjoint_times(self, y: Tensor) -> Tensor:
        return self._product("adjoint_", y, self.range, self.domain)

    def forward(self, x: Tensor) -> Tensor:
        """``M x``."""
        return linear_function(x, self._times, self._adjoint_times)

    def adjoint(self, y: Tensor) -> Tensor:
        """``Mᴴ y``."""
        return linear_function(y, self._adjoint_times, self._times)
