"""Between the sky and the frames: positions, rotation, radii."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["offset", "on_frame", "radii", "separation_and_angle", "sky_offsets"]


def offset(separation: float, position_angle: float) -> tuple[float, float]:
    """``(r cos PA, −r sin PA)``: (y, x) of a position angle in degrees, from +y towards −x.

    Example:
        >>> [round(value, 6) for value in offset(2.0, 90.0)]  # east is left
        [0.0, -2.0]
    """
    turn = math.radians(position_angle)
    return separation * math.cos(turn), -separation * math.sin(turn)


def separation_and_angle(y: float, x: float) -> tuple[float, float]:
    """What `offset` was given: separation, and position angle in degrees in [0, 360)."""
    return math.hypot(y, x), math.degrees(math.atan2(-x, y)) % 360.0


def sky_offsets(shape: tuple[int, int], dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    """(y, x) of each pixel of a map from its middle, each of the map's shape."""
    axes = [torch.arange(n, dtype=dtype) - (n - 1) / 2 for n in shape]
    y, x = torch.meshgrid(*axes, indexing="ij")
    return y, x


def on_frame(y: Tensor, x: Tensor, angle: Tensor, centre: Tensor) -> tuple[Tensor, Tensor]:
    """Pixel (y, x) of a frame where a point at (y, x) from the star on the sky is seen.

    ``p = c + R(angle) s`` with ``y' = y cos a − x sin a`` and ``x' = x cos a + y sin a``: the
    position angle becomes smaller by ``a``, in degrees.
    """
    turn = torch.deg2rad(angle)
    c, s = turn.cos(), turn.sin()
    return centre[0] + y * c - x * s, centre[1] + x * c + y * s


def radii(
    shape: tuple[int, int], centre: tuple[float, float], dtype: torch.dtype = torch.float64
) -> Tensor:
    """Distance of each pixel (y, x) from a centre in pixels."""
    y = torch.arange(shape[0], dtype=dtype) - centre[0]
    x = torch.arange(shape[1], dtype=dtype) - centre[1]
    return torch.hypot(y[:, None], x[None, :])
