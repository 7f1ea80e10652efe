"""Views that a lab would take, and pictures of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from labrecon_ct.geometry import CTGeometry

__all__ = [
    "draw_views",
    "golden_angles",
    "usual_angles",
    "usual_doses",
    "usual_members",
    "with_views",
]

GOLDEN = (math.sqrt(5) - 1) / 2


def _span(geometry: CTGeometry) -> float:
    """The range of angles: half a turn, or that of the geometry where it is a whole one or less."""
    steps = np.diff(np.sort(np.array(geometry.angles)))
    step = float(np.median(steps)) if len(steps) else math.pi
    return float(np.ptp(geometry.angles)) + step


def with_views(geometry: CTGeometry, count: int) -> CTGeometry:
    """So many views, evenly over the angles of a geometry, each with the same dose.

    Raises:
        ValueError: the poses are given by vectors.
    """
    if geometry.vectors is not None:
        raise ValueError("views that are given by vectors can not be spread anew: give angles")
    first, span = min(geometry.angles), _span(geometry)
    angles = tuple(first + span * k / count for k in range(count))
    return CTGeometry.model_validate({**dict(geometry), "angles": angles, "dose": None})


def golden_angles(count: int, span: float = math.pi, first: float = 0.0) -> Tensor:
    """Each view in the largest gap of those before it: (view) in rad."""
    return first + (torch.arange(count, dtype=torch.float64) * GOLDEN * span).remainder(span)


def usual_angles(geometry: CTGeometry, generator: torch.Generator) -> Mapping[str, Tensor]:
    """Equispaced, golden and random angles, as many as a geometry has."""
    count, first, span = len(geometry.angles), min(geometry.angles), _span(geometry)
    even = first + span * torch.arange(count, dtype=torch.float64) / count
    drawn = first + span * torch.rand(count, generator=generator, dtype=torch.float64)
    return {
        "equispaced": even,
        "golden angle": golden_angles(count, span, first),
        "random": drawn.sort().values,
    }


def usual_members(geometry: CTGeometry, k: int) -> Mapping[str, Tensor]:
    """The ``k`` candidates next to golden angles, as a mask (view)."""
    angles = torch.tensor(geometry.angles, dtype=torch.float64)
    span = _span(geometry)
    mask = torch.zeros(len(angles))
    for wanted in golden_angles(k, span, float(angles.min())).tolist():
        away = (angles - wanted + span / 2).remainder(span) - span / 2
        away[mask > 0] = math.inf
        mask[away.abs().argmin()] = 1.0
    return {"golden angle": mask}


def usual_doses(geometry: CTGeometry, generator: torch.Generator) -> Mapping[str, Tensor]:
    """Dose (view) of the same sum: alike in each view, or at random."""
    views = len(geometry.angles)
    total = sum(geometry.dose or (1.0,) * views)
    drawn = 0.1 + torch.rand(views, generator=generator, dtype=torch.float64)
    return {
        "the same in each view": torch.full((views,), total / views, dtype=torch.float64),
        "random": drawn * total / drawn.sum(),
    }


def draw_views(geometry: CTGeometry, designs: Mapping[str, Tensor], figure: Any) -> bool:
    """Dose over angle, or the fan of views over the object; whether there was one to draw."""
    if "dose" in designs:
        axes = figure.subplots()
        axes.plot(np.rad2deg(geometry.angles), designs["dose"].numpy(), "k.-", lw=0.8, ms=3)
        axes.set(xlabel="angle in degrees", ylabel="relative dose")
        axes.set_ylim(bottom=0)
        return True
    if "members" in designs and designs["members"].numel() == len(geometry.angles):
        angles = torch.tensor(geometry.angles)[designs["members"] > 0.5]
    elif "angles" in designs:
        angles = designs["angles"]
    else:
        return False
    axes, table = figure.subplots(1, 2, width_ratios=[1, 1.4])
    for angle in angles.tolist():
        c, s = math.cos(angle), math.sin(angle)
        axes.plot([-s, s], [c, -c], color="k", lw=0.8)
    turn = np.linspace(0, 2 * math.pi, 90)
    axes.plot(np.cos(turn), np.sin(turn), color="0.6", lw=0.8)
    axes.set(aspect="equal", xticks=[], yticks=[], title=f"{len(angles)} ray directions")
    table.hist(np.rad2deg(angles.numpy()) % 180, bins=36, range=(0, 180), color="k")
    table.set(xlabel="angle in degrees, modulo 180", ylabel="views per 5°")
    return True
