"""Positions of LEDs, usual patterns, and the order in which they are lit."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["half_circles", "na_of", "planar", "quasi_dome", "random_patterns", "rings", "spiral"]


def planar(count: int, pitch: float, height: float) -> Tensor:
    """A square array of ``count²`` LEDs, row by row: (led, 3) in mm.

    Args:
        count: LEDs along a side.
        pitch: distance of neighbours in mm.
        height: from the sample in mm.
    """
    place = (torch.arange(count, dtype=torch.float64) - (count - 1) / 2) * pitch
    y, x = torch.meshgrid(place, place, indexing="ij")
    return torch.stack([x.flatten(), y.flatten(), torch.full((count**2,), float(height))], 1)


def rings(counts: Sequence[int], na: float, distance: float = 60.0) -> Tensor:
    """Concentric rings of LEDs, the outermost at ``na``, the rest evenly between: (led, 3) in mm.

    Args:
        counts: LEDs of each ring from the middle on; 1 for one in the middle.
        na: of the outermost ring.
        distance: from the sample in mm, along the optical axis.
    """
    steps = len(counts) - 1
    places = []
    for ring, count in enumerate(counts):
        own = na * ring / max(steps, 1)
        radius = distance * own / math.sqrt(1 - own**2)
        angle = 2 * math.pi * torch.arange(count, dtype=torch.float64) / count
        height = torch.full_like(angle, distance)
        places.append(torch.stack([radius * angle.cos(), radius * angle.sin(), height], 1))
    return torch.cat(places)


def quasi_dome(na: float, spacing: float, radius: float = 60.0) -> Tensor:
    """LEDs on a sphere about the sample, evenly in their aperture: (led, 3) in mm.

    Args:
        na: of the outermost LEDs.
        spacing: distance of neighbours in numerical aperture.
        radius: of the sphere in mm.
    """
    half = math.ceil(na / spacing)
    ticks = torch.arange(-half, half + 1, dtype=torch.float64) * spacing
    y, x = torch.meshgrid(ticks, ticks, indexing="ij")
    inside = torch.hypot(x, y) <= na + 1e-9
    x, y = x[inside], y[inside]
    return radius * torch.stack([x, y, (1 - x * x - y * y).sqrt()], 1)


def spiral(count: int, pitch: float, height: float) -> Tensor:
    """A square array of ``count²`` LEDs from the middle outwards: (led, 3) in mm.

    The order is right, down, left, up from the middle, in arms of length 1, 1, 2, 2, 3, 3, ….
    """
    x = y = 0
    places = [(0, 0)]
    heading, arm = 0, 1
    while len(places) < count**2:
        for _ in range(2):
            for _ in range(arm):
                dx, dy = ((1, 0), (0, 1), (-1, 0), (0, -1))[heading]
                x, y = x + dx, y + dy
                places.append((x, y))
            heading = (heading + 1) % 4
        arm += 1
    flat = pitch * torch.tensor(places[: count**2], dtype=torch.float64)
    return torch.cat([flat, torch.full((count**2, 1), float(height), dtype=torch.float64)], 1)


def na_of(leds: Tensor) -> Tensor:
    """Direction sines (led, 2) along (y, x)."""
    return leds[:, [1, 0]] / torch.linalg.vector_norm(leds, dim=1, keepdim=True)


def half_circles(leds: Tensor, na: float, count: int) -> Tensor:
    """Differential phase contrast: half discs of the bright-field LEDs, (exposure, led), sum 1.

    Two exposures are a pair along x, then one along y (Tian and Waller 2015): with 1 to 4 of them
    top, left, bottom, right in the order left, top, right, bottom; more are turned evenly.

    Raises:
        ValueError: no LED is in the bright field.
    """
    own = na_of(leds)
    bright = torch.linalg.vector_norm(own, dim=1) <= na * (1 + 1e-9)
    turn = math.pi / 2 if count <= 4 else 2 * math.pi / count
    made = []
    for k in range(count):
        direction = torch.tensor([math.sin(k * turn), math.cos(k * turn)], dtype=own.dtype)
        lit = bright & (own @ direction > 1e-9)
        if not bool(lit.any()):
            raise ValueError(f"no LED is within the aperture {na} in the direction of {k * turn}")
        made.append(lit.double() / lit.sum())
    return torch.stack(made)


def random_patterns(allowed: Tensor, generator: torch.Generator) -> Tensor:
    """Uniform random brightness of the LEDs that an exposure may light, sum 1.

    Args:
        allowed: (exposure, led), 1 or 0.
        generator: of the numbers.
    """
    drawn = torch.rand(allowed.shape, generator=generator, dtype=torch.float64) * allowed
    return drawn / drawn.sum(1, keepdim=True)
