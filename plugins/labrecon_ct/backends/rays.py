"""Rays sampled in torch: any dtype and device, 2D and 3D, differentiable in the geometry."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import torch
from torch import Tensor

from labrecon_ct.geometry import CTGeometry

__all__ = ["RayBackend"]

#: samples of one chunk of views: bounds the memory to about 0.3 GB in float32
CHUNK = 2**22


class RayBackend:
    """Line integrals by interpolation at equidistant points, half a voxel apart.

    The transpose scatters with the same weights: the adjoint is exact. Slow; the reference for
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
        with torch.no_grad():
            return self.project(x)

    def project(self, x: Tensor) -> Tensor:
        """The same, differentiable in ``x`` and in the poses."""
        flat = x.reshape(len(x), -1)
        lines = []
        for views in self._chunks():
            total = torch.zeros((), dtype=x.dtype, device=x.device)
            for index, weight in self._corners(views, x.dtype):
                total = total + (flat[:, index] * weight).sum(-1)
            lines.append(total * self.step)
        return self._ordered(torch.cat(lines, dim=1))

    def backward(self, y: Tensor) -> Tensor:
        """``(batch, *data)`` to ``(batch, *image)``, without a graph."""
        volume = torch.zeros(
            len(y), math.prod(self.geometry.volume_shape), dtype=y.dtype, device=y.device
        )
        by_view = y if self.geometry.ndim == 2 else y.transpose(1, 2)
        with torch.no_grad():
            for views in self._chunks():
                part = by_view[:, views.start : views.stop] * self.step
                for index, weight in self._corners(views, y.dtype):
                    values = (part[..., None] * weight).reshape(len(y), -1)
                    volume.index_add_(1, index.reshape(-1), values)
        return volume.reshape(len(y), *self.geometry.volume_shape)

    def _ordered(self, lines: Tensor) -> Tensor:
        return lines if self.geometry.ndim == 2 else lines.transpose(1, 2)

    def _chunks(self) -> Iterator[range]:
        rays = (self.geometry.rows or 1) * self.geometry.columns
        views = max(1, CHUNK // (rays * self.samples))
        for start in range(0, len(self.poses), views):
            yield range(start, min(start + views, len(self.poses)))

    def _rays(self, views: range) -> tuple[Tensor, Tensor]:
        """Point nearest to the origin and unit direction of each ray ``(views, [rows,] columns, 3)``."""
        g = self.geometry
        pose = self.poses[views.start : views.stop]
        head, centre, u, v = pose.split(3, dim=-1)
        options = {"dtype": pose.dtype, "device": pose.device}
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

    def _corners(self, views: range, dtype: torch.dtype) -> Iterator[tuple[Tensor, Tensor]]:
        """Voxel index and interpolation weight at each sample, one corner at a time."""
        nearest, direction = self._rays(views)
        t = torch.arange(self.samples, dtype=nearest.dtype, device=nearest.device) + 0.5
        t = t * self.step - self.samples * self.step / 2
        # Volume axes run (z,) y, x with y downwards; the points are (x, y, z).
        axes = [(0, 1.0), (1, -1.0), (2, 1.0)][: self.geometry.ndim][::-1]
        places = []
        for (axis, sign), n, h in zip(
            axes, self.geometry.volume_shape, self.voxel, strict=True
        ):
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
            assert isinstance(index, Tensor) and isinstance(weight, Tensor)
            yield index, weight * inside
