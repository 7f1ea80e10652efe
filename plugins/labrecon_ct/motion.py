"""Derivatives of a projection by angles, rotation axis and tilt, for any backend."""

from __future__ import annotations

import math
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

__all__ = ["Backend", "Motion", "backproject", "project"]


class Backend(Protocol):
    """A linear map from ``(batch, *image)`` to ``(batch, *data)`` and its transpose."""

    def forward(self, x: Tensor) -> Tensor:
        """``A x``."""
        ...

    def backward(self, y: Tensor) -> Tensor:
        """``Aᵀ y``."""
        ...


class Motion(NamedTuple):
    """What moves in an acquisition.

    Attributes:
        angles: of the views in rad.
        centre: offset of the rotation axis in columns.
        tilt: rotation of the detector in its plane in degrees.
        aspect: row pitch over column pitch.
        row_offset: of the row about which the detector turns, from the middle of these rows: a
            slab's rows turn about the whole detector's.
    """

    angles: Tensor
    centre: Tensor
    tilt: Tensor
    aspect: float = 1.0
    row_offset: float = 0.0


def project(images: Tensor, motion: Motion, at: Backend) -> Tensor:
    """``A(θ, c, τ) f``, differentiable to any order in all four.

    ``∂_θ P_θ f = P_θ(x ∂_y f − y ∂_x f)`` (turning the gantry is turning the object back),
    ``∂_c p = −∂_u p`` (moving the axis by a column moves the data by one) and, with u and v from
    where the detector turns, ``∂_τ p = u ∂_v p − v ∂_u p``. All hold for what is smooth on the
    scale of a pixel.

    Args:
        images: ``(batch, *image)``, y downwards along the last axis but one.
        motion: the values that ``at`` was built for.
        at: the projector at these values.
    """
    result: Tensor = _Project.apply(images, *motion, at)
    return result


def backproject(lines: Tensor, motion: Motion, at: Backend) -> Tensor:
    """``A(θ, c, τ)ᵀ y``, differentiable like `project`."""
    result: Tensor = _Backproject.apply(lines, *motion, at)
    return result


class _Project(torch.autograd.Function):
    """The backward pass is made of `project` and `backproject`, hence differentiable itself."""

    @staticmethod
    def forward(
        ctx: Any,
        images: Tensor,
        angles: Tensor,
        centre: Tensor,
        tilt: Tensor,
        aspect: float,
        row_offset: float,
        at: Backend,
    ) -> Tensor:
        lines = at.forward(images)
        ctx.at, ctx.fixed = at, (aspect, row_offset)
        ctx.save_for_backward(images, angles, centre, tilt, lines)
        return lines

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (v,) = gradients
        images, angles, centre, tilt, lines = ctx.saved_tensors
        motion = Motion(angles, centre, tilt, *ctx.fixed)
        by_images = backproject(v, motion, ctx.at) if ctx.needs_input_grad[0] else None
        return by_images, *_by_motion(ctx, v, images, lines, motion), None, None, None


class _Backproject(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        lines: Tensor,
        angles: Tensor,
        centre: Tensor,
        tilt: Tensor,
        aspect: float,
        row_offset: float,
        at: Backend,
    ) -> Tensor:
        ctx.at, ctx.fixed = at, (aspect, row_offset)
        ctx.save_for_backward(lines, angles, centre, tilt)
        return at.backward(lines)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (w,) = gradients
        lines, angles, centre, tilt = ctx.saved_tensors
        motion = Motion(angles, centre, tilt, *ctx.fixed)
        # ⟨Aᵀy, w⟩ = ⟨y, A w⟩: the derivatives of a projection of w.
        projected = project(w, motion, ctx.at)
        return projected, *_by_motion(ctx, lines, w, projected, motion), None, None, None


def _by_motion(
    ctx: Any, v: Tensor, images: Tensor, lines: Tensor, motion: Motion
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of ``⟨v, A(θ, c, τ) f⟩`` by what moves, with ``lines = A(θ, c, τ) f``."""
    by_angle = by_centre = by_tilt = None
    if ctx.needs_input_grad[1]:
        turned = v * project(rotation(images), motion, ctx.at)
        others = [axis for axis in range(v.ndim) if axis != v.ndim - 2]
        by_angle = turned.sum(others).to(motion.angles)
    if ctx.needs_input_grad[2]:
        by_centre = -(v * _slope(lines, -1)).sum().to(motion.centre)
    if ctx.needs_input_grad[3]:
        turned = v * _turned(lines, motion.aspect, motion.row_offset)
        by_tilt = turned.sum().to(motion.tilt) * math.pi / 180
    return by_angle, by_centre, by_tilt


def _turned(lines: Tensor, aspect: float, row_offset: float) -> Tensor:
    """``u ∂_v p − v ∂_u p`` of data ``(batch, row, angle, column)``, per rad."""
    options: dict[str, Any] = {"dtype": lines.dtype, "device": lines.device}
    rows, columns = lines.shape[-3], lines.shape[-1]
    u = torch.arange(columns, **options) - (columns - 1) / 2
    v = torch.arange(rows, **options) - (rows - 1) / 2 - row_offset
    return u / aspect * _slope(lines, -3) - aspect * v[:, None, None] * _slope(lines, -1)


def _slope(lines: Tensor, axis: int) -> Tensor:
    """Derivative along an axis, per sample."""
    if lines.shape[axis] < 2:
        return torch.zeros_like(lines)
    slope: Tensor = torch.gradient(lines, dim=axis)[0]
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
