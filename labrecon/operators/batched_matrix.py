"""A dense matrix for each batch element."""

from __future__ import annotations

import torch
from torch import Tensor

from labrecon.functional import Map
from labrecon.operator import Operator
from labrecon.operators.matrix import matrix_spaces
from labrecon.space import Space, SpaceError

__all__ = ["BatchedMatrix"]


class BatchedMatrix(Operator):
    """``y_b = M_b x_b`` for ``M (*batch, m, n)``: matrices that are data, such as radio channels.

    It takes vectors ``(*lead, *batch, n)``, one for each matrix. `norm` is the largest of all. The
    entries are a nuisance: ``at(matrix=…)`` replaces them. For one matrix take `Matrix`.

    Args:
        matrix: real or complex; its dtype is that of both spaces.
        domain: a space of ``n`` samples (default: a vector).
        range: a space of ``m`` samples (default: a vector).
        learn: turn gradients of the entries on.

    Raises:
        SpaceError: there is no batch axis, or the sizes or dtypes of matrices and spaces differ.

    Example:
        >>> two = torch.stack([torch.eye(2), 3 * torch.eye(2)])
        >>> BatchedMatrix(two)(torch.ones(2, 2))
        tensor([[1., 1.],
                [3., 3.]])
    """

    matrix: Tensor

    def __init__(
        self,
        matrix: Tensor,
        domain: Space | None = None,
        range: Space | None = None,
        *,
        learn: bool = False,
    ) -> None:
        if matrix.ndim < 3:
            raise SpaceError(
                f"BatchedMatrix has axes (*batch, m, n), got shape {tuple(matrix.shape)}; for one "
                "matrix take Matrix"
            )
        one = matrix[(0,) * (matrix.ndim - 2)]
        super().__init__(*matrix_spaces(one, domain, range))
        self.nuisance("matrix", matrix)
        self.matrix.requires_grad_(learn)

    def forward(self, x: Tensor) -> Tensor:
        """``M_b x_b``."""
        return self._each(self.matrix, x, self.domain, self.range)

    def adjoint(self, y: Tensor) -> Tensor:
        """``M_bᴴ y_b``."""
        return self._each(self.matrix.mH, y, self.range, self.domain)

    def normal(self, x: Tensor, weights: Tensor | None = None) -> Tensor:
        """``M_bᴴ W M_b x_b``."""
        # That it is named here tells a problem to prepare a `normal_map`.
        return super().normal(x, weights)

    def normal_map(self, weights: Tensor | None = None) -> Map:
        """`normal` with ``MᴴM`` computed once, where that is the smaller matrix."""
        rows, columns = self.matrix.shape[-2:]
        if weights is not None or columns > rows:
            return super().normal_map(weights)
        gram = self.matrix.mH @ self.matrix
        return lambda x: self._each(gram, x, self.domain, self.domain)

    def norm(self, iterations: int = 60, tolerance: float = 1e-4) -> float:
        """The largest singular value of all matrices."""
        with torch.no_grad():
            return float(torch.linalg.matrix_norm(self.matrix, 2).max())

    def _each(self, matrix: Tensor, x: Tensor, source: Space, target: Space) -> Tensor:
        batch = matrix.shape[:-2]
        lead = source.batch(x)
        if lead[-len(batch) :] != batch:
            raise SpaceError(
                f"{self.name}: one vector for each of {tuple(batch)} matrices, got a batch "
                f"{tuple(lead)}"
            )
        flat = x.flatten(x.ndim - source.ndim)
        y = (matrix @ flat.unsqueeze(-1)).squeeze(-1)
        return y.reshape(*lead, *target.shape)
