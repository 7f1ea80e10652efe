"""How far LEDs seem to be from a sample on a glass slide."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["apparent_heights"]


def apparent_heights(
    radii: Tensor, height: float, thickness: float, index: float, iterations: int = 8
) -> Tensor:
    """Heights in mm from which straight rays meet the sample at the angle of the refracted ones.

    A ray that leaves an LED at the angle ``θ`` runs ``h`` through air, enters a plane-parallel
    plate with ``sin θ = n sin θ_g`` (Snell) and meets the sample, on the plate's other side, at
    ``ρ = h tan θ + t tan θ_g``. Its direction sine at the sample is ``sin θ`` as well, whatever the
    plate does in between. The straight ray of that direction starts at the height ``ρ / tan θ =
    h + t cos θ / √(n² − sin²θ)``, which is found by iteration: it varies by less than ``t``, so
    that each pass gains some two digits.

    Args:
        radii: ``ρ``, lateral distances of LEDs from the sample in mm.
        height: ``h``, from the LEDs to the plate in mm.
        thickness: ``t`` of the plate in mm.
        index: ``n`` of the plate.
        iterations: passes.
    """
    apparent = torch.full_like(radii, height + thickness / index)
    for _ in range(iterations):
        distance = torch.hypot(radii, apparent)
        sine, cosine = radii / distance, apparent / distance
        apparent = height + thickness * cosine / (index**2 - sine.square()).sqrt()
    return apparent
