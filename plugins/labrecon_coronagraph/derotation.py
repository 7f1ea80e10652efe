"""Frames turned so that north is up and the star in the middle."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from labrecon_coronagraph.geometry import CoronagraphGeometry
from labrecon_coronagraph.sky import on_frame, sky_offsets

__all__ = ["derotate", "sampled"]


def derotate(data: Tensor, geometry: CoronagraphGeometry) -> Tensor:
    """``d_t(s) = y_t(c + R(angle_t) s)`` by cubic convolution; 0 outside the frame.

    Args:
        data: (frame, y, x).
        geometry: its angles, centre and field.

    Returns:
        (frame, y, x) on the map of the sky.
    """
    y, x = sky_offsets(geometry.field_shape, torch.float64)
    centre = torch.tensor(geometry.centre, dtype=torch.float64)
    frames = []
    for frame, angle in zip(data, geometry.angles, strict=True):
        at = on_frame(y, x, torch.tensor(angle, dtype=torch.float64), centre)
        frames.append(sampled(frame, *at))
    return torch.stack(frames)


def sampled(image: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Values of an image (y, x) at pixels (y, x), which may lie between its own; 0 outside."""
    sizes: Sequence[int] = image.shape
    at = torch.stack([2 * x / (sizes[1] - 1) - 1, 2 * y / (sizes[0] - 1) - 1], -1).to(image)
    grid = at.reshape(1, 1, -1, 2)
    values = torch.nn.functional.grid_sample(
        image[None, None], grid, mode="bicubic", padding_mode="zeros", align_corners=True
    )
    return values.reshape(y.shape)
