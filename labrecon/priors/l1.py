"""Sparsity: the ℓ₁ norm, of samples or of groups."""

from __future__ import annotations

import torch
from torch import Tensor

from labrecon.options import flag
from labrecon.prior import PriorError, soft_threshold
from labrecon.priors.weighted import Weighted, grouped

__all__ = ["L1", "GroupL1"]


class L1(Weighted):
    """``g(x) = Σ weight · |x|``, real or complex: few samples differ from 0.

    For objects that are sparse themselves (stars, spikes, codes). It lowers the samples it keeps
    by the weight: not for quantitative values without a refit, nor for objects that are sparse
    only after a transform (`WaveletL1`, `TV`).

    Args:
        weight: a number, or a tensor that broadcasts to ``x`` for a weight per coefficient.
        nonneg: also ask for ``x ≥ 0`` (real objects).
    """

    separable = True

    def __init__(self, weight: Tensor | float = 1.0, *, nonneg: bool = False) -> None:
        super().__init__(weight)
        self.nonneg = flag("L1: nonneg", nonneg, error=PriorError)

    def penalty(self, x: Tensor, ndim: int | None = None) -> Tensor:
        """``Σ weight · |x|``; infinite where ``nonneg`` is broken."""
        start = x.ndim - (x.ndim if ndim is None else ndim)
        value = (self.weight * x.abs()).flatten(start).sum(-1)
        return below_zero(x, value, start) if self.nonneg else value

    def prox(self, x: Tensor, step: Tensor | float) -> Tensor:
        """Soft thresholding by ``step · weight``."""
        if self.nonneg:
            return nonnegative(x - step * self.weight, "L1")
        return soft_threshold(x, step * self.weight)


class GroupL1(Weighted):
    """``g(x) = Σ weight · ‖x‖₂`` with the 2-norm taken along ``axis``.

    Isotropic TV is this penalty of ``∇x`` with the direction axis as the group.

    Args:
        weight: a number, or a tensor that broadcasts to ``x`` without the group axis.
        axis: the axis within which samples are one group, counted from the end (negative).
    """

    def __init__(self, weight: Tensor | float = 1.0, *, axis: int = -1) -> None:
        super().__init__(weight)
        if isinstance(axis, bool) or not isinstance(axis, int) or axis >= 0:
            raise PriorError(f"GroupL1: axis is counted from the end (-1, -2, …), got {axis!r}")
        self.axis = axis

    def penalty(self, x: Tensor, ndim: int | None = None) -> Tensor:
        """``Σ weight · ‖x‖₂``."""
        lengths = group_length(x, self.axis)
        start = x.ndim - (x.ndim if ndim is None else ndim)
        return (grouped(self.weight, self.axis) * lengths).flatten(start).sum(-1)

    def prox(self, x: Tensor, step: Tensor | float) -> Tensor:
        """Each group shrunk in length by ``step · weight``."""
        length = group_length(x, self.axis)
        strength = step * grouped(self.weight, self.axis)
        kept = 1 - strength / torch.where(length > 0, length, 1.0)
        return x * torch.where(length > 0, kept.clamp_min(0), 0.0)


def squared_length(x: Tensor, axis: int) -> Tensor:
    """``Σ |x|²`` along ``axis``, which is kept."""
    square = x.real.square() + x.imag.square() if x.is_complex() else x.square()
    return square.sum(axis, keepdim=True)


def group_length(x: Tensor, axis: int) -> Tensor:
    """``‖x‖₂`` along ``axis``, which is kept; its derivative at 0 is 0."""
    square = squared_length(x, axis)
    # The root is taken of a positive number only: its derivative at 0 is infinite.
    return torch.where(square > 0, torch.where(square > 0, square, 1.0).sqrt(), 0.0)


def nonnegative(x: Tensor, prior: str) -> Tensor:
    """``max(x, 0)``, for real ``x``."""
    if x.is_complex():
        raise PriorError(f"{prior}: non-negativity has no meaning for complex objects")
    return x.clamp_min(0)


def below_zero(x: Tensor, value: Tensor, start: int) -> Tensor:
    """``value`` of each batch element, infinite where ``x`` has a negative sample."""
    return torch.where((x < 0).flatten(start).any(-1), torch.inf, value)
