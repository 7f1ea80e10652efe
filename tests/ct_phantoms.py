"""Ellipses and ellipsoids with exact chords, independent of the plugin's own geometry code."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from labrecon_ct.geometry import CTGeometry

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Ellipsoid:
    """``value`` inside an ellipsoid (2D: an ellipse, z ignored), turned by ``phi`` about z."""

    centre: tuple[float, float, float] = (0.0, 0.0, 0.0)
    axes: tuple[float, float, float] = (1.0, 1.0, math.inf)
    phi: float = 0.0
    value: float = 1.0

    def _unit(self, vectors: Array) -> Array:
        c, s = math.cos(self.phi), math.sin(self.phi)
        turned = vectors @ np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
        return turned / np.asarray(self.axes)

    def chord(self, point: Array, direction: Array) -> Array:
        """Integral along the lines through ``point`` with ``direction`` ``(…, 3)``."""
        direction = direction / np.linalg.norm(direction, axis=-1, keepdims=True)
        p = self._unit(point - np.asarray(self.centre))
        d = self._unit(direction)
        a, b = (d * d).sum(-1), (p * d).sum(-1)
        inside = b * b - a * ((p * p).sum(-1) - 1)
        return self.value * 2 * np.sqrt(np.maximum(inside, 0)) / a

    def raster(self, geometry: CTGeometry, fine: int) -> Tensor:
        """Mean over each voxel, ``fine`` samples per axis; row 0 at y = +max."""
        axes = []
        for n, h in zip(geometry.volume_shape, geometry.voxel, strict=True):
            axes.append(((np.arange(n * fine) + 0.5) / fine - n / 2) * h)
        z = axes[0] if geometry.ndim == 3 else np.zeros(1)
        y, x = -axes[-2], axes[-1]
        slices = []
        for plane in np.split(z, max(1, len(z) // fine)):
            total = 0.0
            for height in plane:
                r = np.stack(np.broadcast_arrays(x[None, :], y[:, None], height), -1)
                inside = (self._unit(r - np.asarray(self.centre)) ** 2).sum(-1) <= 1
                ny, nx = geometry.volume_shape[-2:]
                total = total + inside.reshape(ny, fine, nx, fine).mean((1, 3))
            slices.append(total / len(plane))
        image = np.stack(slices) if geometry.ndim == 3 else slices[0]
        return torch.from_numpy(self.value * image)


def rays(geometry: CTGeometry, sub: int = 1) -> tuple[Array, Array]:
    """A point and the direction of each ray, as the geometry's documentation states them.

    Shapes ``(views, columns · sub, 3)`` in 2D, ``(rows, views, columns, 3)`` in 3D.
    """
    theta = np.asarray(geometry.angles)
    n = geometry.columns * sub
    u = (np.arange(n) + 0.5) / sub - geometry.columns / 2 - geometry.centre_offset
    u = u * geometry.column_pitch
    v = np.zeros(1)
    if geometry.rows is not None:
        v = (np.arange(geometry.rows) - (geometry.rows - 1) / 2) * (geometry.row_pitch or 1.0)
    v, theta, u = v[:, None, None], theta[None, :, None], u[None, None, :]
    zero = 0 * (u + v + theta)
    c, s = np.cos(theta), np.sin(theta)
    if geometry.beam == "parallel":
        point = np.stack([u * c + zero, u * s + zero, v + zero], -1)
        direction = np.stack([s + zero, -c + zero, zero], -1)
    else:
        near, far = geometry.source_origin or 0.0, geometry.origin_detector or 0.0
        source = np.stack([near * s + zero, -near * c + zero, zero], -1)
        pixel = np.stack([-far * s + u * c + zero, far * c + u * s + zero, v + zero], -1)
        point, direction = source, pixel - source
    return (point[0], direction[0]) if geometry.rows is None else (point, direction)


def chords(geometry: CTGeometry, *bodies: Ellipsoid, sub: int = 1) -> Tensor:
    """Exact data of a sum of bodies; ``sub > 1`` averages over detector columns."""
    point, direction = rays(geometry, sub)
    total = sum(body.chord(point, direction) for body in bodies)
    if sub > 1:
        total = total.reshape(*total.shape[:-1], geometry.columns, sub).mean(-1)
    return torch.from_numpy(np.asarray(total))


def gaussian(geometry: CTGeometry, x0: float, y0: float, width: float) -> Tensor:
    """A smooth blob ``exp(−(Δx² + ½Δy² + z²)/2w²)``, row 0 at y = +max."""
    ny, nx = geometry.volume_shape[-2:]
    h = geometry.voxel[-1]
    x = (torch.arange(nx, dtype=torch.float64) - (nx - 1) / 2) * h
    y = -(torch.arange(ny, dtype=torch.float64) - (ny - 1) / 2)[:, None] * h
    blob = torch.exp(-((x - x0) ** 2 + 0.5 * (y - y0) ** 2) / (2 * width**2))
    if geometry.ndim == 2:
        return blob
    nz = geometry.volume_shape[0]
    z = (torch.arange(nz, dtype=torch.float64) - (nz - 1) / 2) * geometry.voxel[0]
    return torch.exp(-(z**2) / (2 * width**2))[:, None, None] * blob


def gaussian_lines(geometry: CTGeometry, x0: float, y0: float, width: float) -> Tensor:
    """Exact data of `gaussian`."""
    point, direction = rays(geometry)
    direction = direction / np.linalg.norm(direction, axis=-1, keepdims=True)
    scale = np.array([1.0, math.sqrt(0.5), 0.0 if geometry.ndim == 2 else 1.0]) / width
    p, d = (point - np.array([x0, y0, 0.0])) * scale, direction * scale
    a, b, c = (d * d).sum(-1), (p * d).sum(-1), (p * p).sum(-1)
    return torch.from_numpy(np.sqrt(2 * math.pi / a) * np.exp(-0.5 * (c - b * b / a)))


def error(a: Tensor, b: Tensor) -> float:
    """Relative L2 error of ``a`` against ``b``."""
    return float(torch.linalg.vector_norm(a.double() - b) / torch.linalg.vector_norm(b.double()))


def turn(views: int, arc: float = math.pi) -> tuple[float, ...]:
    """``views`` equidistant angles over an arc, its end left out."""
    return tuple(arc * i / views for i in range(views))
