"""Where source and detector are in each view, differentiable in angles, centre and tilt."""

from __future__ import annotations

import torch
from torch import Tensor

from labrecon_ct.geometry import CTGeometry

__all__ = ["poses"]


def poses(
    geometry: CTGeometry, angles: Tensor, centre: Tensor, tilt: Tensor | None = None
) -> Tensor:
    """Pose of each view ``(views, 12)`` in mm: ray or source, detector centre, steps u and v.

    2D geometries lie in the plane z = 0.

    Args:
        geometry: distances and pitches; ``vectors``, if any, take the place of angles and tilt.
        angles: of each view in rad.
        centre: offset of the rotation axis from the detector's middle, in columns. The detector
            is moved so that the axis falls on that column.
        tilt: rotation of the detector in its plane in rad; by default the geometry's.
    """
    if geometry.vectors is not None:
        given = torch.tensor(geometry.vectors, dtype=angles.dtype, device=angles.device)
        given = given if geometry.ndim == 3 else _lifted(given)
        source, middle, u, v = given.split(3, dim=-1)
        return torch.cat([source, middle - centre * u, u, v], -1)
    zero = torch.zeros_like(angles)
    across = torch.stack([angles.cos(), angles.sin(), zero], -1)
    along = torch.stack([angles.sin(), -angles.cos(), zero], -1)
    up = torch.stack([zero, zero, zero + 1], -1)
    turn = angles.new_tensor(geometry.detector_tilt) if tilt is None else tilt
    cos_t, sin_t = turn.cos(), turn.sin()
    u = (cos_t * across + sin_t * up) * geometry.column_pitch
    v = (cos_t * up - sin_t * across) * (geometry.row_pitch or 1.0)
    # In the frame of the volume's middle.
    below = -geometry.slice_offset * up
    middle = across * (-centre * geometry.column_pitch) - geometry.row_offset * v + below
    if geometry.beam == "parallel":
        return torch.cat([along, middle, u, v], -1)
    middle = middle - along * (geometry.origin_detector or 0.0)
    return torch.cat([along * (geometry.source_origin or 0.0) + below, middle, u, v], -1)


def _lifted(flat: Tensor) -> Tensor:
    """2D poses (x, y) as 3D ones in the plane z = 0, with v along z."""
    zero = torch.zeros_like(flat[:, :1])
    parts = [flat[:, 0:2], zero, flat[:, 2:4], zero, flat[:, 4:6], zero, zero, zero, zero + 1]
    return torch.cat(parts, -1)
