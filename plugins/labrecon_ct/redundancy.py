"""Weights of views and rays: angular spacing, rays measured twice, short scans, offset detectors."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from labrecon_ct.geometry import CTGeometry

__all__ = ["coverage", "missing_columns", "view_weights"]


def coverage(angles: Tensor) -> float:
    """Angle that the views cover in rad, their own spacing included: π for a 180° scan."""
    if len(angles) < 2:
        return 0.0
    ordered = angles.sort().values
    gaps = ordered.diff()
    return float(ordered[-1] - ordered[0] + gaps.median())


def view_weights(geometry: CTGeometry, angles: Tensor, centre: Tensor) -> Tensor:
    """Weight of each ray ``(views, columns)``, in rad; the sum over a ray's copies is its share.

    Args:
        geometry: the acquisition.
        angles: of the views in rad.
        centre: offset of the rotation axis in columns.
    """
    span = coverage(angles)
    full = span > 1.95 * math.pi
    if geometry.beam == "parallel":
        period = 2 * math.pi if full else math.pi
        spacing = _spacing(angles, period)
        factor = 0.5 if full else 1.0
        return factor * spacing[:, None] * _overlap(geometry, centre, full).to(spacing)
    if full:
        spacing = _spacing(angles, 2 * math.pi)
        return 0.5 * spacing[:, None] * _overlap(geometry, centre, full).to(spacing)
    return _spacing(angles, 2 * math.pi)[:, None] * _parker(geometry, angles, centre, span)


def _spacing(angles: Tensor, period: float) -> Tensor:
    """Half the distance to the neighbours on a circle; across a missing wedge, the usual one."""
    if len(angles) == 1:
        return torch.full_like(angles, period)
    order = (angles % period).argsort()
    ordered = (angles % period)[order]
    gaps = torch.cat([ordered.diff(), ordered[:1] + period - ordered[-1:]])
    usual = gaps[gaps > 1e-9].median() if bool((gaps > 1e-9).any()) else gaps.new_tensor(period)
    gaps = torch.where(gaps > 3 * usual, usual, gaps)
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


def _parker(geometry: CTGeometry, angles: Tensor, centre: Tensor, span: float) -> Tensor:
    """Short-scan weights (Parker 1982, with Silver's 2000 overscan); 1 below a short scan."""
    columns = geometry.columns
    pitch = geometry.column_pitch / geometry.magnification
    u = torch.arange(columns, dtype=torch.float64) - (columns - 1) / 2 - float(centre)
    # Parker's fan angle grows with the source's turn: against our column axis.
    gamma = -torch.atan(u * pitch / (geometry.source_origin or 1.0))
    delta = 0.5 * (span - math.pi)
    if delta < float(gamma.abs().max()):
        return torch.ones(len(angles), columns, dtype=torch.float64)
    step = span / len(angles)
    beta = (angles - angles.min()).cpu()[:, None] + 0.5 * step
    # A ray (β, γ) is seen again at (β + π + 2γ, −γ).
    first = 2 * (delta - gamma)
    last = math.pi - 2 * gamma
    rising = torch.sin(0.25 * math.pi * beta / (delta - gamma).clamp_min(1e-6)).square()
    fall = (math.pi + 2 * delta - beta) / (delta + gamma).clamp_min(1e-6)
    falling = torch.sin(0.25 * math.pi * fall).square()
    weight = torch.where(beta < first, rising, torch.ones_like(rising))
    return torch.where(beta > last, falling, weight)
