"""The sums as they are defined: slow, exact, the reference of all others."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["adjoint", "forward"]


def _kernel(omega: Tensor, shape: tuple[int, ...], sign: float) -> Tensor:
    """``exp(± i ω_m·r)`` (m, pixel) in double precision."""
    grids = torch.meshgrid(
        *(torch.arange(n, dtype=torch.float64, device=omega.device) - n // 2 for n in shape),
        indexing="ij",
    )
    phase = sign * (omega.double() @ torch.stack([grid.flatten() for grid in grids]))
    return torch.polar(torch.ones_like(phase), phase)


def forward(x: Tensor, omega: Tensor, accuracy: float) -> Tensor:
    """``Σ_r x_r exp(−iω·r)``."""
    kernel = _kernel(omega, tuple(x.shape[1:]), -1.0)
    return (x.flatten(1).to(kernel.dtype) @ kernel.mT).to(x.dtype)


def adjoint(y: Tensor, omega: Tensor, shape: tuple[int, ...], accuracy: float) -> Tensor:
    """``Σ_m y_m exp(+iω·r)``."""
    kernel = _kernel(omega, shape, 1.0)
    return (y.to(kernel.dtype) @ kernel).to(y.dtype).reshape(-1, *shape)
