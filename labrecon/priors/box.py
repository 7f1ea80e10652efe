"""Bounds: values between two numbers."""

from __future__ import annotations

import torch
from torch import Tensor

from labrecon.options import number
from labrecon.prior import Prior, PriorError

__all__ = ["Box", "NonNegative"]


class Box(Prior):
    """``low ≤ x ≤ high``: penalty 0 inside and infinite outside; the prox clamps.

    Args:
        low: lower bound, or None.
        high: upper bound, or None.
    """

    separable = True

    def __init__(self, low: float | None = None, high: float | None = None) -> None:
        super().__init__()
        if low is None and high is None:
            raise PriorError("Box: give low, high or both")
        self.low = None if low is None else number("Box: low", low, error=PriorError)
        self.high = None if high is None else number("Box: high", high, error=PriorError)
        if self.low is not None and self.high is not None and self.low > self.high:
            raise PriorError(f"Box: it is empty, low {low} is above high {high}")

    def penalty(self, x: Tensor, ndim: int | None = None) -> Tensor:
        """0 where all samples are within bounds, else infinity."""
        start = x.ndim - (x.ndim if ndim is None else ndim)
        outside = (self.prox(x, 1.0) != x).flatten(start).any(-1)
        return torch.where(outside, torch.inf, torch.zeros((), dtype=x.dtype, device=x.device))

    def prox(self, x: Tensor, step: Tensor | float) -> Tensor:
        """``x`` clamped to the bounds, whatever the step."""
        if x.is_complex():
            raise PriorError(f"{type(self).__name__}: bounds have no meaning for complex objects")
        return x.clamp(self.low, self.high)


class NonNegative(Box):
    """``x ≥ 0``."""

    def __init__(self) -> None:
        super().__init__(low=0.0)
