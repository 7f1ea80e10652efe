"""Operators that act on each sample alone: identity, scaling, mask."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from labrecon.operator import Operator
from labrecon.space import Space, SpaceError

__all__ = ["Diagonal", "Identity", "Mask"]


class Identity(Operator):
    """``A x = x``: denoising."""

    def __init__(self, space: Space) -> None:
        super().__init__(space, space)

    def forward(self, x: Tensor) -> Tensor:
        """``x``."""
        return x

    def adjoint(self, y: Tensor) -> Tensor:
        """``y``."""
        return y

    def solve(
        self, rhs: Tensor, rho: Tensor | float, *, weights: Tensor | None = None, **_: Any
    ) -> Tensor:
        """``rhs / (w + ρ)``."""
        return rhs / ((1.0 if weights is None else weights) + rho)


class Diagonal(Operator):
    """``A x = d · x`` for an array ``d`` that broadcasts to the space.

    Args:
        space: domain and range.
        values: ``d``; complex values need a complex space.
    """

    values: Tensor

    def __init__(self, space: Space, values: Tensor) -> None:
        super().__init__(space, space)
        try:
            torch.broadcast_to(values, space.shape)
        except RuntimeError as error:
            raise SpaceError(
                f"values {tuple(values.shape)} do not broadcast to {space.shape}"
            ) from error
        if values.is_complex() and not space.dtype.is_complex:
            raise SpaceError("complex values need a space with a complex dtype")
        self.register_buffer("values", values)

    def forward(self, x: Tensor) -> Tensor:
        """``d · x``."""
        return self.values * x

    def adjoint(self, y: Tensor) -> Tensor:
        """``conj(d) · y``."""
        return self.values.conj() * y

    def solve(
        self, rhs: Tensor, rho: Tensor | float, *, weights: Tensor | None = None, **_: Any
    ) -> Tensor:
        """``rhs / (w |d|² + ρ)``."""
        power = self.values.abs().square()
        return rhs / ((power if weights is None else weights * power) + rho)


class Mask(Operator):
    """Keep the samples where ``mask`` is true: ``A x = x[mask]``, a vector.

    Args:
        space: the domain.
        mask: boolean, of the domain's shape.
    """

    index: Tensor

    def __init__(self, space: Space, mask: Tensor) -> None:
        if mask.dtype != torch.bool or tuple(mask.shape) != space.shape:
            raise SpaceError(
                f"the mask must be boolean with shape {space.shape}, got {mask.dtype} "
                f"{tuple(mask.shape)}"
            )
        index = mask.flatten().nonzero().squeeze(-1)
        super().__init__(space, Space((max(len(index), 1),), space.dtype, ("sample",)))
        if not len(index):
            raise SpaceError("the mask keeps no sample")
        self.register_buffer("index", index)

    def forward(self, x: Tensor) -> Tensor:
        """``x[mask]``."""
        return x.flatten(x.ndim - self.domain.ndim)[..., self.index]

    def adjoint(self, y: Tensor) -> Tensor:
        """``y`` at the kept samples, 0 elsewhere."""
        flat = torch.zeros(*y.shape[:-1], self.domain.size, dtype=y.dtype, device=y.device)
        flat = flat.index_copy(-1, self.index, y)
        return flat.reshape(*y.shape[:-1], *self.domain.shape)
