"""Real objects in front of an operator of complex ones."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from labrecon.operator import Operator
from labrecon.space import Space, SpaceError

__all__ = ["AsComplex"]


class AsComplex(Operator):
    """``A x = x + 0i``: tells an operator of complex objects that they are real.

    ``MaskedFourier(...) @ AsComplex(...)`` measures real images; the adjoint takes the real part,
    which is the transpose in the real inner product ``Re Σ conj(a) b``.

    Args:
        space: the real domain.

    Raises:
        SpaceError: the space is complex already.

    Example:
        >>> operator = AsComplex(Space((2,)))
        >>> operator.adjoint((1 + 2j) * operator.range.zeros() + 3 - 4j)
        tensor([3., 3.])
    """

    def __init__(self, space: Space) -> None:
        if space.dtype.is_complex:
            raise SpaceError(f"AsComplex takes a real space, got {space.dtype}")
        super().__init__(space, Space(space.shape, space.dtype.to_complex(), space.axes))

    def forward(self, x: Tensor) -> Tensor:
        """``x + 0i``."""
        return x.to(self.range.dtype)

    def adjoint(self, y: Tensor) -> Tensor:
        """``Re y``."""
        return y.real

    def solve(
        self, rhs: Tensor, rho: Tensor | float, *, weights: Tensor | None = None, **_: Any
    ) -> Tensor:
        """``rhs / (w + ρ)``."""
        return rhs / ((1.0 if weights is None else weights) + rho)

    def norm(self, iterations: int = 60, tolerance: float = 1e-4) -> float:
        """1."""
        return 1.0
