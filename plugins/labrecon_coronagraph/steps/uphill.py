"""Towards the highest point of a score that is smooth in the place on a frame."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["uphill"]


def uphill(
    score: Callable[[Tensor], Tensor], start: tuple[float, float], first_step: float
) -> tuple[float, float]:
    """(y, x) where a score is highest, by paraboloids through nine points in ever smaller steps.

    Args:
        score: (place,) of places (place, 2) in pixels.
        start: (y, x) near the summit.
        first_step: between the nine points in pixels; halved until it is below 0.01.
    """
    place, step = start, first_step
    while step > 0.01:
        place = _vertex(score, place, step)
        step /= 2
    return place


def _vertex(
    score: Callable[[Tensor], Tensor], around: tuple[float, float], step: float
) -> tuple[float, float]:
    """Of the paraboloid through nine points, at most one step away."""
    ticks = torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)
    y, x = (v.flatten() for v in torch.meshgrid(ticks, ticks, indexing="ij"))
    places = torch.tensor(around, dtype=torch.float64) + step * torch.stack([y, x], 1)
    terms = torch.stack([torch.ones_like(y), y, x, y * y, x * x, x * y], 1)
    fit = torch.linalg.lstsq(terms, score(places)[:, None]).solution[:, 0]
    hessian = torch.stack([torch.stack([2 * fit[3], fit[5]]), torch.stack([fit[5], 2 * fit[4]])])
    if bool((torch.linalg.eigvalsh(hessian) >= 0).any()):
        return around
    move = torch.linalg.solve(hessian, -fit[1:3]).clamp(-1, 1) * step
    return around[0] + float(move[0]), around[1] + float(move[1])
