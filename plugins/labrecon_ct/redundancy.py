"""Weights of rays: angular spacing, rays measured twice, short scans, offset detectors."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from labrecon_ct.geometry import CTGeometry

__all__ = ["arc_start", "coverage", "missing_columns", "view_weights"]

#: A gap so many times the next widest is a missing wedge. The widths of gaps say nothing else:
#: views may be random, repeated, or denser here than there.
WEDGE = 3.0


def coverage(angles: Tensor) -> float:
    """Angle that the views cover in rad, their own spacing included: π for a 180° scan.

    At most 2π; views of several turns, or that pass 360°, are taken modulo 2π.
    """
    return _arc(angles)[1]


def arc_start(angles: Tensor) -> float:
    """The first view in rad, going round from the largest gap."""
    return _arc(angles)[0]


def _arc(angles: Tensor) -> tuple[float, float]:
    """Where the views start, going round from the largest gap, and what they cover."""
    if len(angles) < 2:
        return float(angles[0]) if len(angles) else 0.0, 0.0
    order, gaps = _gaps(angles, 2 * math.pi)
    missing, usual = gaps.topk(2).values.tolist()
    start = float((angles % (2 * math.pi))[order[(int(gaps.argmax()) + 1) % len(angles)]])
    return start, 2 * math.pi if missing <= WEDGE * usual else 2 * math.pi - missing + usual


def _gaps(angles: Tensor, period: float) -> tuple[Tensor, Tensor]:
    """The order of the views on a circle, and the gap that follows each of them."""
    turned = angles % period
    order = turned.argsort()
    ordered = turned[order]
    return order, torch.cat([ordered.diff(), ordered[:1] + period - ordered[-1:]])


def view_weights(geometry: CTGeometry, angles: Tensor, centre: Tensor) -> Tensor:
    """Weight of each ray ``(views, columns)``, in rad; the sum over a ray's copies is its share.

    Args:
        geometry: the acquisition.
        angles: of the views in rad.
        centre: offset of the rotation axis in columns.
    """
    full = coverage(angles) > 1.95 * math.pi
    if geometry.beam == "parallel":
        period = 2 * math.pi if full else math.pi
        spacing = _spacing(angles, period)
        factor = 0.5 if full else 1.0
        return factor * spacing[:, None] * _overlap(geometry, centre, full).to(spacing)
    if full:
        spacing = _spacing(angles, 2 * math.pi)
        return 0.5 * spacing[:, None] * _overlap(geometry, centre, full).to(spacing)
    spacing = _spacing(angles, 2 * math.pi)
    return spacing[:, None] * _short_scan(geometry, angles, centre).to(spacing)


def _spacing(angles: Tensor, period: float) -> Tensor:
    """Half the distance to the neighbours on a circle; across a missing wedge, the next widest."""
    if len(angles) == 1:
        return torch.full_like(angles, period)
    order, gaps = _gaps(angles, period)
    missing, usual = gaps.topk(2).values.tolist()
    if missing > WEDGE * usual > 0:
        gaps = gaps.clamp_max(usual)
    spacing = torch.empty_like(angles)
    spacing[order] = 0.5 * (gaps + gaps.roll(1))
    return spacing


def _overlap(geometry: CTGeometry, centre: Tensor, full: bool) -> Tensor:
    """Half acquisition: rays seen from one side only count twice, with a smooth passage.

    ``w(s) + w(−s) = 2`` wherever both are on the detector.
    """
    columns = geometry.columns
    missing = missing_columns(geometry, centre) if full else (0, 0)
    if not any(missing):
        return torch.ones(columns, dtype=torch.float64)
    s = torch.arange(columns, dtype=torch.float64) - (columns - 1) / 2 - float(centre)
    side = s if missing[0] else -s
    short = 0.5 - float(side.min())
    return 1 + torch.sin(0.5 * math.pi * (side / short).clamp(-1, 1))


def missing_columns(geometry: CTGeometry, centre: Tensor) -> tuple[int, int]:
    """Columns that an offset detector lacks on its left and right to see all from both sides.

    An offset below a tenth of the detector is what a misaligned axis looks like: (0, 0).
    """
    excess = 2 * float(centre)
    if abs(excess) < 0.1 * geometry.columns or abs(excess) >= geometry.columns:
        return 0, 0
    lacking = math.ceil(abs(excess))
    return (lacking, 0) if excess < 0 else (0, lacking)


def _short_scan(geometry: CTGeometry, angles: Tensor, centre: Tensor) -> Tensor:
    """Shares of rays measured twice on less than a full turn of a fan.

    ``m = c(β) / (c(β) + c(β'))`` with ``β' = β + π − 2γ`` where the ray is seen from behind and
    ``c`` fading out at both ends of the arc (Noo et al. 2002). It does what Parker's weights do on
    a short scan, needs no least arc, and leaves rays that are measured once at 1.
    """
    columns = geometry.columns
    pitch = geometry.column_pitch / geometry.magnification
    u = torch.arange(columns, dtype=torch.float64) - (columns - 1) / 2 - float(centre)
    gamma = torch.atan(u * pitch / (geometry.source_origin or 1.0))
    start, span = _arc(angles)
    half = 0.5 * span / len(angles)
    # The arc begins half a spacing before its first view; never exactly at its end.
    beta = (angles.cpu() - start + half) % (2 * math.pi)
    fade = min(math.radians(10), 0.25 * span)

    def present(angle: Tensor) -> Tensor:
        depth = (torch.minimum(angle, span - angle) / fade).clamp(0, 1)
        return torch.sin(0.5 * math.pi * depth).square()

    here = present(beta).clamp_min(1e-6)[:, None]
    behind = present((beta[:, None] + math.pi - 2 * gamma) % (2 * math.pi))
    return here / (here + behind)
