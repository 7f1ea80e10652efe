"""Objects to simulate with: random bodies with inclusions, and the Shepp–Logan head."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from labrecon_ct.geometry import CTGeometry

__all__ = ["aligned_bars", "discs", "random_objects", "shepp_logan"]

#: Line integral through the middle of a body, where absorption contrast is near its best.
THICKNESS = 1.5

#: Toft 1996: value, semi-axes, centre, rotation in degrees.
HEAD = (
    (1.0, 0.69, 0.92, 0.0, 0.0, 0),
    (-0.8, 0.6624, 0.874, 0.0, -0.0184, 0),
    (-0.2, 0.11, 0.31, 0.22, 0.0, -18),
    (-0.2, 0.16, 0.41, -0.22, 0.0, 18),
    (0.1, 0.21, 0.25, 0.0, 0.35, 0),
    (0.1, 0.046, 0.046, 0.0, 0.1, 0),
    (0.1, 0.046, 0.046, 0.0, -0.1, 0),
    (0.1, 0.046, 0.023, -0.08, -0.605, 0),
    (0.1, 0.023, 0.023, 0.0, -0.606, 0),
    (0.1, 0.023, 0.046, 0.06, -0.605, 0),
)


def shepp_logan(geometry: CTGeometry) -> Tensor:
    """The modified Shepp–Logan head in 1/mm, filling the field of view; extruded in 3D."""
    x, y, pixel = _grid(geometry)
    image = torch.zeros_like(x + y)
    for value, a, b, cx, cy, degrees in HEAD:
        centre = torch.tensor([cx, cy])
        image += value * _ellipse(x, y, centre, a, b, math.radians(degrees), pixel)
    image = image.clamp_min(0) * _attenuation(geometry) * 3
    return image.expand(geometry.volume_shape).contiguous()


def random_objects(geometry: CTGeometry, n: int, generator: torch.Generator) -> Tensor:
    """Random bodies ``(n, *volume)`` in 1/mm: an elliptic body with ellipses and polygons in it.

    Edges are smooth over one voxel. In 3D each inclusion extends over a random range of slices.
    The line integral through a whole body is about 1.5, as a sensible exposure has it.
    """
    return torch.stack([_body(geometry, generator) for _ in range(n)])


def aligned_bars(
    geometry: CTGeometry,
    n: int,
    generator: torch.Generator,
    *,
    direction: float = math.radians(25),
    spread: float = math.radians(3),
) -> Tensor:
    """Long bars ``(n, y, x)`` in 1/mm that lie nearly one way, as fibres and laminates do.

    Which views are worth taking then depends on their direction.

    Args:
        geometry: two-dimensional.
        n: how many objects.
        generator: of the bars.
        direction: of the bars in rad.
        spread: standard deviation of their directions.
    """
    x, y, pixel = _grid(geometry)

    def bar() -> Tensor:
        at = torch.rand(2, generator=generator) - 0.5
        length = 0.25 + 0.2 * torch.rand((), generator=generator)
        width = 0.03 + 0.05 * torch.rand((), generator=generator)
        turn = direction + spread * float(torch.randn((), generator=generator))
        dx, dy = x - at[0], y - at[1]
        along = (dx * math.cos(turn) + dy * math.sin(turn)).abs() - length
        across = (dy * math.cos(turn) - dx * math.sin(turn)).abs() - width
        return _soft(torch.maximum(along, across), pixel)

    return _scattered(geometry, n, generator, bar)


def discs(geometry: CTGeometry, n: int, generator: torch.Generator) -> Tensor:
    """Discs ``(n, y, x)`` in 1/mm: no direction is worth more than another."""
    x, y, pixel = _grid(geometry)

    def disc() -> Tensor:
        at = torch.rand(2, generator=generator) - 0.5
        radius = 0.12 + 0.28 * float(torch.rand((), generator=generator))
        return _soft(torch.hypot(x - at[0], y - at[1]) - radius, pixel)

    return _scattered(geometry, n, generator, disc)


def _scattered(
    geometry: CTGeometry, n: int, generator: torch.Generator, draw: Callable[[], Tensor]
) -> Tensor:
    """Four shapes per object, of attenuations between 0.3 and 1 of that of a body."""
    made = []
    for _ in range(n):
        image = torch.zeros(geometry.volume_shape)
        for _ in range(4):
            value = 0.3 + 0.7 * float(torch.rand((), generator=generator))
            image = torch.maximum(image, value * draw())
        made.append(image * _attenuation(geometry))
    return torch.stack(made)


def _body(geometry: CTGeometry, generator: torch.Generator) -> Tensor:
    x, y, pixel = _grid(geometry)

    def draw(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator))

    a, b, turn = draw(0.55, 0.8), draw(0.55, 0.8), draw(0, math.pi)
    centre = torch.tensor([draw(-0.1, 0.1), draw(-0.1, 0.1)])
    inside = _ellipse(x, y, centre, a, b, turn, pixel)
    image = inside.expand(geometry.volume_shape).clone()
    for _ in range(int(draw(5, 10))):
        radius, angle = 0.75 * math.sqrt(draw(0, 1)), draw(0, 2 * math.pi)
        place = centre + torch.tensor([a * radius * math.cos(angle), b * radius * math.sin(angle)])
        size = draw(0.04, 0.22)
        value = draw(-0.8, -0.3) if draw(0, 1) < 0.5 else draw(0.3, 1.0)
        if draw(0, 1) < 0.5:
            shape = _ellipse(x, y, place, size, size * draw(0.4, 1), draw(0, math.pi), pixel)
        else:
            shape = _polygon(x, y, place, size, int(draw(3, 7)), draw(0, math.pi), pixel)
        shape = value * shape * inside
        if geometry.ndim == 3:
            depth = geometry.volume_shape[0]
            low = int(draw(-0.5, 0.8) * depth)
            high = low + max(1, int(draw(0.3, 1) * depth))
            image[max(low, 0) : max(high, 1)] += shape
        else:
            image += shape
    return image.clamp_min(0) * _attenuation(geometry)


def _attenuation(geometry: CTGeometry) -> float:
    """1/mm, such that a body of 0.7 of the field of view has a line integral of `THICKNESS`."""
    extent = min(geometry.volume_shape[-2:]) * geometry.voxel[-1]
    return THICKNESS / (0.7 * extent)


def _grid(geometry: CTGeometry) -> tuple[Tensor, Tensor, float]:
    """X (…, x), y (y, 1) from −1 to 1 across the shorter side, y up; size of a voxel."""
    ny, nx = geometry.volume_shape[-2:]
    half = min(ny, nx) / 2
    x = (torch.arange(nx) - (nx - 1) / 2) / half
    y = ((ny - 1) / 2 - torch.arange(ny))[:, None] / half
    return x, y, 1 / half


def _soft(distance: Tensor, pixel: float) -> Tensor:
    """1 inside (negative distance), 0 outside, linear over one voxel."""
    return (0.5 - distance / pixel).clamp(0, 1)


def _ellipse(
    x: Tensor, y: Tensor, centre: Tensor, a: float, b: float, turn: float, pixel: float
) -> Tensor:
    dx, dy = x - centre[0], y - centre[1]
    u = (dx * math.cos(turn) + dy * math.sin(turn)) / a
    v = (dy * math.cos(turn) - dx * math.sin(turn)) / b
    radius = torch.sqrt(u.square() + v.square())
    # Distance to first order: (r − 1) over the gradient's length.
    slope = torch.sqrt((u / a).square() + (v / b).square()) / radius.clamp_min(1e-6)
    return _soft((radius - 1) / slope.clamp_min(1e-6), pixel)


def _polygon(
    x: Tensor, y: Tensor, centre: Tensor, size: float, corners: int, turn: float, pixel: float
) -> Tensor:
    """A regular polygon whose inscribed circle has the radius ``size``."""
    dx, dy = x - centre[0], y - centre[1]
    angles = [turn + 2 * math.pi * k / corners for k in range(corners)]
    sides = torch.stack([dx * math.cos(t) + dy * math.sin(t) for t in angles])
    return _soft(sides.amax(0) - size, pixel)
