"""Non-uniform Fourier sums with derivatives by image, data and trajectory, to any order."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from labrecon_mri.backends import ACCURACY, find_backend, pick

__all__ = ["type1", "type2"]


def type2(x: Tensor, omega: Tensor, backend: str = "auto", accuracy: float | None = None) -> Tensor:
    """From the grid to points: ``y_m = Σ_r x_r exp(−iω_m·r)``, ``r`` counted from ``N//2``.

    Differentiable by ``x`` and ``omega`` as often as wanted: the gradient by the points is
    ``∂L/∂ω_d = Re Σ conj(g) · A(−i r_d x)`` (Wang and Fessler 2023), one more sum per axis.

    Args:
        x: ([points,] batch, *shape) complex.
        omega: ([points,] m, axis) in rad/pixel; several sets of points are done one by one.
        backend: see `labrecon_mri.backends`.
        accuracy: relative error asked for; the backend's default for the dtype otherwise.
    """
    y: Tensor = _Type2.apply(x, omega, backend, accuracy)
    return y


def type1(
    y: Tensor,
    omega: Tensor,
    shape: tuple[int, ...],
    backend: str = "auto",
    accuracy: float | None = None,
) -> Tensor:
    """From points to the grid: ``x_r = Σ_m y_m exp(+iω_m·r)``, the adjoint of `type2`.

    ``∂L/∂ω_d = Re Σ y · conj(A(−i r_d g))``.

    Args:
        y: ([points,] batch, m) complex.
        omega: ([points,] m, axis) in rad/pixel.
        shape: of the grid.
        backend: see `labrecon_mri.backends`.
        accuracy: relative error asked for.
    """
    x: Tensor = _Type1.apply(y, omega, shape, backend, accuracy)
    return x


def _accuracy(backend: str, values: Tensor, asked: float | None) -> float:
    if asked is not None:
        return asked
    return ACCURACY[pick(backend, values.device)][values.dtype]


def _points_gradient(image: Tensor, other: Tensor, omega: Tensor, *how: Any) -> Tensor:
    """``Re Σ_batch conj(other) · A(−i r_d image)`` for each axis: ([points,] m, axis)."""
    ndim = omega.shape[-1]
    shape = image.shape[-ndim:]
    parts = []
    for axis, n in enumerate(shape):
        r = torch.arange(n, dtype=image.real.dtype, device=image.device) - n // 2
        r = r.reshape(-1, *[1] * (ndim - axis - 1))
        moved = type2(-1j * r * image, omega, *how)
        parts.append((other.conj() * moved).real.sum(-2))
    return torch.stack(parts, -1).to(omega.dtype)


class _Type2(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, omega: Tensor, backend: str, accuracy: float | None) -> Tensor:
        ctx.how = backend, accuracy
        ctx.shape = tuple(x.shape[-omega.shape[-1] :])
        needs_image = ctx.needs_input_grad[1]
        ctx.save_for_backward(omega, *([x] if needs_image else []))
        run, eps = find_backend(backend, x.device), _accuracy(backend, x, accuracy)
        if omega.ndim == 2:
            return run.forward(x.detach(), omega.detach(), eps)
        pairs = zip(x.detach(), omega.detach(), strict=True)
        return torch.stack([run.forward(each, points, eps) for each, points in pairs])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (g,) = gradients
        omega, *image = ctx.saved_tensors
        by_image = by_points = None
        if ctx.needs_input_grad[0]:
            by_image = type1(g, omega, ctx.shape, *ctx.how)
        if ctx.needs_input_grad[1]:
            by_points = _points_gradient(image[0], g, omega, *ctx.how)
        return by_image, by_points, None, None


class _Type1(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        y: Tensor,
        omega: Tensor,
        shape: tuple[int, ...],
        backend: str,
        accuracy: float | None,
    ) -> Tensor:
        ctx.how = backend, accuracy
        needs_data = ctx.needs_input_grad[1]
        ctx.save_for_backward(omega, *([y] if needs_data else []))
        run, eps = find_backend(backend, y.device), _accuracy(backend, y, accuracy)
        if omega.ndim == 2:
            return run.adjoint(y.detach(), omega.detach(), shape, eps)
        pairs = zip(y.detach(), omega.detach(), strict=True)
        return torch.stack([run.adjoint(each, points, shape, eps) for each, points in pairs])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (g,) = gradients
        omega, *data = ctx.saved_tensors
        by_data = by_points = None
        if ctx.needs_input_grad[0]:
            by_data = type2(g, omega, *ctx.how)
        if ctx.needs_input_grad[1]:
            # Re{y conj(A(−i r g))} = Re{conj(y) A(−i r g)}.
            by_points = _points_gradient(g, data[0], omega, *ctx.how)
        return by_data, by_points, None, None, None
