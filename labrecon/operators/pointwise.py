"""Operators that act on each sample alone: identity, scaling, mask."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from labrecon.design import FeasibleSet
from labrecon.operator import Operator
from labrecon.space import Space, SpaceError

__all__ = ["Diagonal", "Identity", "Mask"]


class Identity(Operator):
    """``A x = x``: denoising.

    Example:
        >>> Identity(Space((2,))).solve(torch.tensor([3.0, 6.0]), 2.0)
        tensor([1., 2.])
    """

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

    def norm(self, iterations: int = 60, tolerance: float = 1e-4) -> float:
        """1."""
        return 1.0


class Diagonal(Operator):
    """``A x = d · x`` for an array ``d`` that broadcasts to the space.

    The values (a gain, a sensitivity, a coded aperture) are a nuisance, or a design where
    ``feasible`` is given: ``at(values=…)`` replaces them, also by others per batch element.

    Args:
        space: domain and range.
        values: ``d``; complex values need a complex space.
        feasible: what the values may be; makes them a design.

    Raises:
        SpaceError: the values do not broadcast to the space, or not within its dtype.

    Example:
        >>> Diagonal(Space((2,)), torch.tensor([2.0, 3.0]))(torch.ones(2))
        tensor([2., 3.])
    """

    values: Tensor

    def __init__(
        self, space: Space, values: Tensor, *, feasible: FeasibleSet | None = None
    ) -> None:
        super().__init__(space, space)
        try:
            torch.broadcast_to(values, space.shape)
        except RuntimeError as error:
            raise SpaceError(
                f"values {tuple(values.shape)} do not broadcast to {space.shape}"
            ) from error
        if torch.result_type(values, space.zeros()) != space.dtype:
            raise SpaceError(f"values of {values.dtype} in a space of {space.dtype}; convert them")
        if feasible is None:
            self.nuisance("values", values)
        else:
            self.design("values", values, feasible)

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
        power = (self.values.conj() * self.values).real
        return rhs / ((power if weights is None else weights * power) + rho)

    def norm(self, iterations: int = 60, tolerance: float = 1e-4) -> float:
        """The largest ``|d|``."""
        return float(self.values.detach().abs().max())


class Mask(Operator):
    """Keep the samples where ``mask`` is true: ``A x = x[mask]``, a vector.

    Args:
        space: the domain.
        mask: boolean, of the domain's shape.

    Raises:
        SpaceError: the mask is not boolean, of another shape, or keeps no sample.

    Example:
        >>> Mask(Space((3,)), torch.tensor([True, False, True]))(torch.tensor([1.0, 2.0, 3.0]))
        tensor([1., 3.])
    """

    index: Tensor

    def __init__(self, space: Space, mask: Tensor) -> None:
        if mask.dtype != torch.bool or tuple(mask.shape) != space.shape:
            raise SpaceError(
                f"the mask must be boolean with shape {space.shape}, got {mask.dtype} "
                f"{tuple(mask.shape)}"
            )
        index = mask.flatten().nonzero().squeeze(-1)
        if not len(index):
            raise SpaceError("the mask keeps no sample")
        super().__init__(space, Space((len(index),), space.dtype, ("sample",)))
        self.register_buffer("index", index)

    def forward(self, x: Tensor) -> Tensor:
        """``x[mask]``."""
        return x.flatten(x.ndim - self.domain.ndim)[..., self.index]

    def adjoint(self, y: Tensor) -> Tensor:
        """``y`` at the kept samples, 0 elsewhere."""
        return self._spread(y)

    def solve(
        self, rhs: Tensor, rho: Tensor | float, *, weights: Tensor | None = None, **_: Any
    ) -> Tensor:
        """``rhs / (w + ρ)`` at the kept samples, ``rhs / ρ`` elsewhere."""
        w = rhs.real.new_ones(()) if weights is None else weights
        kept = self._spread(w.expand(torch.broadcast_shapes(w.shape, self.range.shape)))
        return rhs / (kept + rho)

    def norm(self, iterations: int = 60, tolerance: float = 1e-4) -> float:
        """1."""
        return 1.0

    def _spread(self, y: Tensor) -> Tensor:
        flat = y.new_zeros((*y.shape[:-1], self.domain.size)).index_copy(-1, self.index, y)
        return flat.reshape(*y.shape[:-1], *self.domain.shape)
