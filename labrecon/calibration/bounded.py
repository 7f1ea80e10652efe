"""A Newton step within bounds."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["bounded_step"]


def bounded_step(matrix: Tensor, gradient: Tensor, p: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """``argmin_d ½ dᵀ M d + gᵀ d`` with ``low ≤ p + d ≤ high``, by an active set.

    A number whose step leaves its bounds is put there, and the others are stepped anew.

    Example:
        >>> m, g, p = torch.tensor([[2.0, 1.0], [1.0, 2.0]]), torch.full((2,), -3.0), torch.zeros(2)
        >>> bounded_step(m, g, p, torch.full((2,), -9.0), torch.tensor([0.5, 9.0]))
        tensor([0.5000, 1.2500])
    """
    step = torch.zeros_like(p)
    free = torch.ones_like(p, dtype=torch.bool)
    least, most = low.to(p) - p, high.to(p) - p
    while bool(free.any()):
        right = -gradient[free] - matrix[free][:, ~free] @ step[~free]
        # What changes nothing has a row of zeros, and stays.
        step[free] = torch.linalg.lstsq(
            matrix[free][:, free], right[:, None], driver="gelsd"
        ).solution[:, 0]
        out = free & ((step < least) | (step > most))
        if not bool(out.any()):
            break
        step = torch.where(out, torch.minimum(torch.maximum(step, least), most), step)
        free = free & ~out
    return step
