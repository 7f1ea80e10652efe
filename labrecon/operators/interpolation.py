"""Interpolation between samples: the weights of neighbours, and their derivatives."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import torch
from torch import Tensor

from labrecon.space import SpaceError

__all__ = ["Kernel", "Taps", "require_kernel", "shift_matrix", "taps"]

#: "linear"; "cubic": Keys' convolution with a = −½ (1981), exact for parabolas.
Kernel = Literal["linear", "cubic"]


@dataclass(frozen=True)
class Taps:
    """The neighbours of positions between samples, along a last axis "tap".

    Attributes:
        index: of the neighbours, outside of the axis where these are; the edge sample stands for
            them.
        fraction: how far the position is behind the sample below it.
        kernel: of the interpolation.
    """

    index: Tensor
    fraction: Tensor
    kernel: Kernel

    @cached_property
    def weight(self) -> Tensor:
        """Of each neighbour."""
        f = self.fraction
        if self.kernel == "linear":
            return torch.stack([1 - f, f], -1)
        parts = [
            ((2 - f) * f - 1) * f,
            (3 * f - 5) * f * f + 2,
            ((4 - 3 * f) * f + 1) * f,
            (f - 1) * f * f,
        ]
        return torch.stack(parts, -1) / 2

    @cached_property
    def slope(self) -> Tensor:
        """Derivative of the weights by the position."""
        f = self.fraction
        if self.kernel == "linear":
            return torch.stack([-torch.ones_like(f), torch.ones_like(f)], -1)
        parts = [
            (4 - 3 * f) * f - 1,
            (9 * f - 10) * f,
            (8 - 9 * f) * f + 1,
            (3 * f - 2) * f,
        ]
        return torch.stack(parts, -1) / 2

    def inside(self, size: int) -> Tensor:
        """Whether all neighbours that count are among the ``size`` samples of the axis."""
        within = (self.index >= 0) & (self.index < size)
        return (within | (self.weight == 0)).all(-1)


def require_kernel(kernel: str) -> None:
    """Raise `SpaceError` unless ``kernel`` is one that there is."""
    if kernel not in get_args(Kernel):
        raise SpaceError(f"kernel is one of {', '.join(get_args(Kernel))}, got {kernel!r}")


def taps(position: Tensor, kernel: Kernel) -> Taps:
    """The neighbours of ``position``, in samples; weights are differentiable in it.

    The derivative of the linear kernel jumps at the samples, that of the cubic one does not.

    Example:
        >>> found = taps(torch.tensor([2.25]), "linear")
        >>> found.index, found.weight
        (tensor([[2, 3]]), tensor([[0.7500, 0.2500]]))
    """
    below = position.detach().floor()
    reach = range(2) if kernel == "linear" else range(-1, 3)
    index = below.long().unsqueeze(-1) + torch.tensor(reach, device=position.device)
    return Taps(index, position - below, kernel)


def shift_matrix(
    shift: Tensor, size: int, kernel: Kernel, part: Literal["weight", "slope"] = "weight"
) -> Tensor:
    """``M[…, i, j]`` with ``(M x)[i] = x(i + shift)`` for samples ``x``, or ``∂M/∂shift``.

    Dense: for an image of a thousand rows the product still takes no longer than a gather, and its
    transpose needs no atomic sums.
    """
    at = taps(shift.unsqueeze(-1) + torch.arange(size, device=shift.device), kernel)
    empty = shift.new_zeros(*shift.shape, size, size)
    return empty.scatter_add(-1, at.index.clamp(0, size - 1), getattr(at, part))
