"""Finite differences: the discrete gradient of an image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from labrecon.operator import Operator
from labrecon.space import Space, SpaceError

__all__ = ["FiniteDifference"]


class FiniteDifference(Operator):
    """Forward differences along the last ``ndim`` axes, with a leading axis "direction".

    ``y[d, …, i, …] = (x[…, i+1, …] − x[…, i, …]) / spacing[d]``; the last difference is 0
    (Neumann) or wraps around (periodic).

    Args:
        domain: real or complex space.
        ndim: how many trailing axes (default all).
        boundary: "neumann" or "periodic".
        spacing: sample distance along each of these axes, for anisotropic voxels.
    """

    def __init__(
        self,
        domain: Space,
        ndim: int | None = None,
        boundary: Literal["neumann", "periodic"] = "neumann",
        spacing: Sequence[float] | None = None,
    ) -> None:
        ndim = domain.ndim if ndim is None else ndim
        if not 1 <= ndim <= domain.ndim:
            raise SpaceError(f"{ndim} axes of a space with {domain.ndim}")
        if boundary not in ("neumann", "periodic"):
            raise SpaceError(f'boundary is "neumann" or "periodic", got {boundary!r}')
        self_spacing = tuple(spacing) if spacing is not None else (1.0,) * ndim
        if len(self_spacing) != ndim or min(self_spacing) <= 0:
            raise SpaceError(f"spacing needs {ndim} positive numbers, got {self_spacing}")
        target = Space((ndim, *domain.shape), domain.dtype, ("direction", *domain.axes))
        super().__init__(domain, target)
        self.spacing = self_spacing
        self.boundary = boundary
        self.axes = tuple(range(-ndim, 0))

    def forward(self, x: Tensor) -> Tensor:
        """``∇x``."""
        return torch.stack(
            [self._along(x, a) / h for a, h in zip(self.axes, self.spacing, strict=True)],
            dim=x.ndim - self.domain.ndim,
        )

    def adjoint(self, y: Tensor) -> Tensor:
        """``−div y``."""
        parts = y.unbind(y.ndim - self.range.ndim)
        terms = zip(parts, self.axes, self.spacing, strict=True)
        total = torch.zeros_like(parts[0])
        for part, axis, h in terms:
            total = total + self._back(part, axis) / h
        return total

    def norm(self, iterations: int = 60, tolerance: float = 1e-4) -> float:
        """``(Σ 4 / spacing²)^½``, an upper bound that is tight for large images."""
        return sum(4 / h**2 for h in self.spacing) ** 0.5

    def _along(self, x: Tensor, axis: int) -> Tensor:
        if self.boundary == "periodic":
            return torch.roll(x, -1, axis) - x
        n = x.shape[axis]
        last = torch.zeros_like(x.narrow(axis, 0, 1))
        return torch.cat([x.narrow(axis, 1, n - 1) - x.narrow(axis, 0, n - 1), last], axis)

    def _back(self, y: Tensor, axis: int) -> Tensor:
        if self.boundary == "periodic":
            return torch.roll(y, 1, axis) - y
        n = y.shape[axis]
        inner = y.narrow(axis, 0, n - 1)
        zero = torch.zeros_like(y.narrow(axis, 0, 1))
        return torch.cat([zero, inner], axis) - torch.cat([inner, zero], axis)
