"""Rays sampled in torch: any dtype and device, 2D and 3D, differentiable in the geometry."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from labrecon_ct.geometry import CTGeometry

__all__ = ["RayBackend"]

#: samples of one chunk of views, slices counted: bounds the memory to about 0.3 GB in float32
CHUNK = 2**22
GRID_SAMPLE: dict[str, Any] = {"mode": "bilinear", "padding_mode": "zeros", "align_corners": False}


_TRANSPOSES = {
    2: torch.ops.aten.grid_sampler_2d_backward,
    3: torch.ops.aten.grid_sampler_3d_backward,
}


class RayBackend:
    """Line integrals by interpolation at equidistant points, half a voxel apart.

    The transpose is that of the same interpolation: the adjoint is exact. Slow; the reference for
    the other backends, and the only 3D one without CUDA.

    Args:
        geometry: any.
        poses: ``(views, 12)`` as `CTGeometry.poses`; gradients flow to it through `project`.
        step: distance of samples in voxels.
    """

    def __init__(self, geometry: CTGeometry, poses: Tensor, step: float = 0.5) -> None:
        self.geometry = geometry
        self.poses = poses
        self.voxel = geometry.voxel
        self.step = step * min(self.voxel)
        sides = [n * h for n, h in zip(geometry.volume_shape, self.voxel, strict=True)]
        self.radius = 0.5 * math.hypot(*sides) + min(self.voxel)
        self.samples = math.ceil(2 * self.radius / self.step)

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, *image)`` to ``(batch, *data)``, without a graph."""
        lines = []
        with torch.no_grad():
            for views in self._chunks(len(x)):
                # The slices of a batch are channels: they share the grid.
                sampled = functional.grid_sample(x[None], self._grid(views, x), **GRID_SAMPLE)
                total = sampled.reshape(len(x), -1, self.samples).sum(-1) * self.step
                lines.append(total.reshape(len(x), len(views), *self._panel))
        return self._ordered(torch.cat(lines, dim=1))

    def project(self, x: Tensor) -> Tensor:
        """The same, differentiable to any order in ``x`` and in the poses."""
        flat = x.reshape(len(x), -1)
        lines = []
        for views in self._chunks(len(x)):
            total = torch.zeros((), dtype=x.dtype, device=x.device)
            for index, weight in self._corners(views, x.dtype):
                total = total + (flat[:, index] * weight).sum(-1)
            lines.append(total * self.step)
        return self._ordered(torch.cat(lines, dim=1))

    def backward(self, y: Tensor) -> Tensor:
        """``(batch, *data)`` to ``(batch, *image)``, without a graph."""
        image = torch.zeros(1, len(y), *self.geometry.volume_shape, dtype=y.dtype, device=y.device)
        transpose = _TRANSPOSES[self.geometry.ndim]
        by_view = y if self.geometry.ndim == 2 else y.transpose(1, 2)
        with torch.no_grad():
            total = torch.zeros_like(image)
            for views in self._chunks(len(y)):
                grid = self._grid(views, y)
                part = by_view[:, views.start : views.stop].reshape(1, len(y), -1, 1) * self.step
                values = part.expand(-1, -1, -1, self.samples).reshape(1, len(y), *grid.shape[1:-1])
                total += transpose(values, image, grid, 0, 0, False, [True, False])[0]
        return total[0]

    @property
    def _panel(self) -> tuple[int, ...]:
        g = self.geometry
        return (g.columns,) if g.rows is None else (g.rows, g.columns)

    def _ordered(self, lines: Tensor) -> Tensor:
        return lines if self.geometry.ndim == 2 else lines.transpose(1, 2)

    def _chunks(self, batch: int) -> Iterator[range]:
        views = max(1, CHUNK // (math.prod(self._panel) * self.samples * batch))
        for start in range(0, len(self.poses), views):
            yield range(start, min(start + views, len(self.poses)))

    def _rays(self, views: range) -> tuple[Tensor, Tensor]:
        """Point nearest to the origin and unit direction: ``(views, [rows,] columns, 3)`` each."""
        g = self.geometry
        pose = self.poses[views.start : views.stop]
        head, centre, u, v = pose.split(3, dim=-1)
        options: dict[str, Any] = {"dtype": pose.dtype, "device": pose.device}
        i = torch.arange(g.columns, **options) - (g.columns - 1) / 2
        pixel = centre[:, None] + i[:, None] * u[:, None]
        if g.rows is not None:
            j = torch.arange(g.rows, **options) - (g.rows - 1) / 2
            pixel = pixel[:, None] + (j[:, None] * v[:, None])[:, :, None]
        lead = head.reshape(len(views), *([1] * (pixel.ndim - 2)), 3)
        direction = lead.expand_as(pixel) if g.beam == "parallel" else pixel - lead
        direction = direction / torch.linalg.vector_norm(direction, dim=-1, keepdim=True)
        nearest = pixel - (pixel * direction).sum(-1, keepdim=True) * direction
        return nearest, direction

    def _grid(self, views: range, like: Tensor) -> Tensor:
        """Samples of the rays for `grid_sample`: ``(1, rays, samples, [1,] 2 or 3)``."""
        nearest, direction = self._rays(views)
        signs = nearest.new_tensor([1.0, -1.0, 1.0])[: self.geometry.ndim]
        # Volume axes run (z,) y, x with y downwards; edges of the volume are at ±1.
        sizes = zip(self.geometry.volume_shape, self.voxel, strict=True)
        half = nearest.new_tensor([0.5 * n * h for n, h in sizes]).flip(0)
        origin = (nearest[..., : len(half)] * signs / half).reshape(-1, 1, len(half)).to(like)
        slope = (direction[..., : len(half)] * signs / half).reshape(-1, 1, len(half)).to(like)
        grid = origin + self._along(like.dtype, like.device)[:, None] * slope
        return grid[None] if self.geometry.ndim == 2 else grid[None, :, :, None]

    def _along(self, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Positions of the samples along a ray, from the point nearest to the axis's middle."""
        t = torch.arange(self.samples, dtype=dtype, device=device) + 0.5
        return (t - self.samples / 2) * self.step

    def _corners(self, views: range, dtype: torch.dtype) -> Iterator[tuple[Tensor, Tensor]]:
        """Voxel index and interpolation weight at each sample, one corner at a time."""
        nearest, direction = self._rays(views)
        t = self._along(nearest.dtype, nearest.device)
        # Volume axes run (z,) y, x with y downwards; the points are (x, y, z).
        axes = [(0, 1.0), (1, -1.0), (2, 1.0)][: self.geometry.ndim][::-1]
        places = []
        for (axis, sign), n, h in zip(axes, self.geometry.volume_shape, self.voxel, strict=True):
            point = nearest[..., axis, None] + t * direction[..., axis, None]
            places.append((sign * point / h + (n - 1) / 2).to(dtype))
        lows = [p.detach().floor() for p in places]
        for corner in itertools.product((0, 1), repeat=len(places)):
            index: Tensor | int = 0
            weight: Tensor | float = 1.0
            inside: Tensor | bool = True
            for place, low, bit, n in zip(
                places, lows, corner, self.geometry.volume_shape, strict=True
            ):
                cell = low.long() + bit
                fraction = place - low
                weight = weight * (fraction if bit else 1 - fraction)
                inside = inside & (cell >= 0) & (cell < n)
                index = index * n + cell.clamp(0, n - 1)
            assert isinstance(index, Tensor)
            assert isinstance(weight, Tensor)
            yield index, weight * inside
