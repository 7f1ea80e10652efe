"""SigPy's NUFFT with a grid of twice the size and a kernel of six points: a reference."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["adjoint", "forward"]


def _coordinates(omega: Tensor, shape: tuple[int, ...]) -> Tensor:
    size = torch.tensor(shape, dtype=torch.float64)
    return omega.double() * size / (2 * math.pi)


def forward(x: Tensor, omega: Tensor, accuracy: float) -> Tensor:
    """``Σ_r x_r exp(−iω·r)``."""
    import sigpy

    shape = tuple(x.shape[1:])
    points = _coordinates(omega, shape).numpy()
    y = sigpy.nufft(x.resolve_conj().numpy(), points, oversamp=2, width=6)
    return torch.from_numpy(y * math.prod(shape) ** 0.5).to(x.dtype)


def adjoint(y: Tensor, omega: Tensor, shape: tuple[int, ...], accuracy: float) -> Tensor:
    """``Σ_m y_m exp(+iω·r)``."""
    import sigpy

    points = _coordinates(omega, shape).numpy()
    full = (len(y), *shape)
    x = sigpy.nufft_adjoint(y.resolve_conj().numpy(), points, full, oversamp=2, width=6)
    return torch.from_numpy(x * math.prod(shape) ** 0.5).to(y.dtype)
