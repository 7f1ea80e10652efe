"""Density compensation: how much of k-space each sample stands for."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from labrecon_mri.backends import pick
from labrecon_mri.sums import type1, type2

__all__ = ["pipe_menon"]


def pipe_menon(
    matrix: Sequence[int],
    fov: Sequence[float],
    trajectory: Tensor,
    *,
    iterations: int = 30,
    backend: str = "auto",
) -> Tensor:
    """Weights ``d`` that even out the sampling density (Pipe and Menon 1999).

    ``d ← d / (C d)`` where ``C`` convolves the samples with a positive kernel about as wide as a
    Nyquist sample: here the squared transform of a ball as wide as the field of view, so that the
    convolution is two non-uniform sums with the ball's autocorrelation between them. Where samples
    are further apart than Nyquist's distance, none stands for more than a Nyquist cell. The scale
    is that of gridding with the orthonormal transform: ``Aᴴ (d · A x) ≈ x`` where k-space is
    covered.

    Args:
        matrix: image size.
        fov: in m along the same axes.
        trajectory: ([*frames,] shot, sample, axis) in cycles/m.
        iterations: of the fixed point.
        backend: of the sums.

    Returns:
        ([*frames,] shot, sample), float32, positive.
    """
    shape = tuple(matrix)
    device = trajectory.device
    pixel = torch.tensor([f / n for f, n in zip(fov, shape, strict=True)], dtype=torch.float64)
    omega = 2 * math.pi * trajectory.detach().double() * pixel.to(device)
    flat = omega.reshape(-1, math.prod(omega.shape[-3:-1]), len(shape))
    made = [_one(shape, points, iterations, backend) for points in flat]
    return torch.stack(made).reshape(trajectory.shape[:-1])


def _one(shape: tuple[int, ...], omega: Tensor, iterations: int, backend: str) -> Tensor:
    wide = tuple(2 * n for n in shape)
    window = _hat(wide, omega.device)
    accuracy = 1e-3 if pick(backend, omega.device) in ("finufft", "cufinufft") else None
    density = torch.ones(1, len(omega), dtype=torch.complex64, device=omega.device)
    for _ in range(iterations):
        spread = type1(density, omega, wide, backend, accuracy)
        near = type2(window * spread, omega, backend, accuracy).real
        # A sample is always near itself; what rounding leaves below that is no density.
        density = density / near.clamp_min(1e-6 * float(near.max()))
    weights = density.real[0]
    return _scaled(shape, omega, weights, backend, accuracy)


def _hat(shape: tuple[int, ...], device: torch.device) -> Tensor:
    """The autocorrelation of a ball (Euclid's hat), 0 at the edge of the grid and beyond."""
    square = torch.zeros((), device=device)
    for axis, n in enumerate(shape):
        r = (torch.arange(n, device=device) - n // 2) / (n // 2)
        square = square + r.square().reshape(-1, *[1] * (len(shape) - axis - 1))
    r = square.sqrt().clamp_max(1)
    if len(shape) == 2:
        return (2 / math.pi) * (torch.arccos(r) - r * (1 - r * r).sqrt())
    return 1 - 1.5 * r + 0.5 * r**3


def _scaled(
    shape: tuple[int, ...], omega: Tensor, weights: Tensor, backend: str, accuracy: float | None
) -> Tensor:
    """Scaled so that gridding gives back a smooth spot in the middle of the image."""
    spot = torch.ones((), device=omega.device)
    for axis, n in enumerate(shape):
        r = (torch.arange(n, device=omega.device) - n // 2) / n
        spot = spot * torch.exp(-0.5 * (r / 0.12).square()).reshape(
            -1, *[1] * (len(shape) - axis - 1)
        )
    x = spot.to(torch.complex64)[None]
    seen = type2(x, omega, backend, accuracy)
    back = type1(weights * seen, omega, shape, backend, accuracy) / math.prod(shape)
    scale = (back.conj() * x).sum().real / back.abs().square().sum()
    return (weights * scale).float()
