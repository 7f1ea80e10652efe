"""Soft thresholding that can be undone."""

from __future__ import annotations

import torch
from torch import Tensor

from labrecon.options import number
from labrecon.prior import PriorError, soft_threshold
from labrecon.priors.weighted import Weighted

__all__ = ["LeakyL1"]


class LeakyL1(Weighted):
    """``a x + (1 − a) soft(x, step · weight)``: slope ``a`` where `L1` gives 0, no ``x`` is lost.

    For memory-efficient learning, which recomputes layers from their outputs (Kellman et al. 2020).
    Not for sparse results: small samples are scaled by ``a``, not set to 0. It has no penalty of
    its own: for one step size it is the prox of a Huber function with a corner at
    ``a · step · weight``.

    Args:
        weight: a number, or a tensor that broadcasts to ``x`` for a weight per coefficient.
        slope: ``a`` in (0, 1); undoing a layer multiplies rounding errors by up to ``1 / a``.

    Example:
        >>> prior = LeakyL1(1.0, slope=0.5)
        >>> prior.prox(torch.tensor([0.5, 3.0]), 1.0)
        tensor([0.2500, 2.5000])
        >>> prior.inverse(torch.tensor([0.25, 2.5]), 1.0)
        tensor([0.5000, 3.0000])
    """

    separable = True

    def __init__(self, weight: Tensor | float = 1.0, *, slope: float = 0.5) -> None:
        super().__init__(weight)
        self.slope = number("LeakyL1: slope", slope, above=0, below=1, error=PriorError)

    def prox(self, x: Tensor, step: Tensor | float) -> Tensor:
        """``a x`` within the threshold, shrunk by ``(1 − a) · step · weight`` outside."""
        a = self.slope
        return a * x + (1 - a) * soft_threshold(x, step * self.weight)

    def inverse(self, u: Tensor, step: Tensor | float) -> Tensor:
        """``u / a`` within ``a · step · weight``, longer by ``(1 − a) · step · weight`` outside."""
        threshold = step * self.weight
        modulus = u.abs()
        inside = modulus <= self.slope * threshold
        longer = 1 + (1 - self.slope) * threshold / torch.where(inside, 1.0, modulus)
        return torch.where(inside, u / self.slope, u * longer)
