"""Derivatives of a projection by the angles and the rotation axis, for any backend."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

__all__ = ["Backend", "backproject", "project"]


class Backend(Protocol):
    """A linear map from ``(batch, *image)`` to ``(batch, *data)`` and its transpose."""

    def forward(self, x: Tensor) -> Tensor:
        """``A x``."""
        ...

    def backward(self, y: Tensor) -> Tensor:
        """``Aᵀ y``."""
        ...


def project(images: Tensor, angles: Tensor, centre: Tensor, at: Backend) -> Tensor:
    """``A(θ, c) f``, differentiable to any order in all three.

    ``∂_θ P_θ f = P_θ(x ∂_y f − y ∂_x f)`` (turning the gantry is turning the object back) and
    ``∂_c p = −∂_u p`` (moving the axis by a column moves the data by one). Both hold for what is
    smooth on the scale of a pixel.

    Args:
        images: ``(batch, *image)``, y downwards along the last axis but one.
        angles: of the views in rad, those that ``at`` was built for.
        centre: offset of the axis in columns, likewise.
        at: the projector at these values.
    """
    result: Tensor = _Project.apply(images, angles, centre, at)
    return result


def backproject(lines: Tensor, angles: Tensor, centre: Tensor, at: Backend) -> Tensor:
    """``A(θ, c)ᵀ y``, differentiable like `project`."""
    result: Tensor = _Backproject.apply(lines, angles, centre, at)
    return result


class _Project(torch.autograd.Function):
    """The backward pass is made of `project` and `backproject`, hence differentiable itself."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, angles: Tensor, centre: Tensor, at: Backend) -> Tensor:
        lines = at.forward(images)
        ctx.at = at
        ctx.save_for_backward(images, angles, centre, lines)
        return lines

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (v,) = gradients
        images, angles, centre, lines = ctx.saved_tensors
        by_images = backproject(v, angles, centre, ctx.at) if ctx.needs_input_grad[0] else None
        return by_images, *_by_motion(ctx, v, images, lines, angles, centre), None


class _Backproject(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, lines: Tensor, angles: Tensor, centre: Tensor, at: Backend) -> Tensor:
        ctx.at = at
        ctx.save_for_backward(lines, angles, centre)
        return at.backward(lines)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (w,) = gradients
        lines, angles, centre = ctx.saved_tensors
        # ⟨Aᵀy, w⟩ = ⟨y, A w⟩: the derivatives of a projection of w.
        projected = project(w, angles, centre, ctx.at)
        return projected, *_by_motion(ctx, lines, w, projected, angles, centre), None


def _by_motion(
    ctx: Any, v: Tensor, images: Tensor, lines: Tensor, angles: Tensor, centre: Tensor
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of ``⟨v, A(θ, c) f⟩`` by ``θ`` and ``c``, with ``lines = A(θ, c) f``."""
    by_angle = by_centre = None
    if ctx.needs_input_grad[1]:
        turned = v * project(rotation(images), angles, centre, ctx.at)
        others = [axis for axis in range(v.ndim) if axis != v.ndim - 2]
        by_angle = turned.sum(others).to(angles)
    if ctx.needs_input_grad[2]:
        by_centre = -(v * _slope(lines)).sum().to(centre)
    return by_angle, by_centre


def _slope(lines: Tensor) -> Tensor:
    """Derivative along the columns."""
    if lines.shape[-1] < 2:
        return torch.zeros_like(lines)
    slope: Tensor = torch.gradient(lines, dim=-1)[0]
    return slope


def rotation(images: Tensor) -> Tensor:
    """``x ∂_y f − y ∂_x f`` by central differences, y up; 0 outside of the image."""
    ny, nx = images.shape[-2:]
    options: dict[str, Any] = {"dtype": images.dtype, "device": images.device}
    x = torch.arange(nx, **options) - (nx - 1) / 2
    y = (ny - 1) / 2 - torch.arange(ny, **options)
    padded = torch.nn.functional.pad(images, (1, 1, 1, 1))
    d_row = 0.5 * (padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1])
    d_x = 0.5 * (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2])
    return -x * d_row - y[:, None] * d_x
