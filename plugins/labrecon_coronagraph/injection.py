"""Planets put into a sequence, exactly between the pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from labrecon_coronagraph.geometry import CoronagraphGeometry
from labrecon_coronagraph.sky import offset, on_frame

__all__ = ["Planet", "inject", "planet_frames"]


@dataclass(frozen=True)
class Planet:
    """A point source.

    Attributes:
        separation: from the star in arcsec.
        position_angle: from north towards east in degrees.
        flux: peak of its image far from the mask, in the unit of the data.
    """

    separation: float
    position_angle: float
    flux: float


def inject(data: Tensor, geometry: CoronagraphGeometry, planets: Sequence[Planet]) -> Tensor:
    """``data`` (frame, y, x) with the frames of `planet_frames` added."""
    return data + planet_frames(geometry, planets).to(data)


def planet_frames(geometry: CoronagraphGeometry, planets: Sequence[Planet]) -> Tensor:
    """Frames (frame, y, x) of planets alone, in float64: the PSF moved by the shift theorem.

    Raises:
        ValueError: a planet's peak lies off a frame.
    """
    psf = geometry.psf.tensor(torch.float64)
    sizes = [n + 2 * (m // 2) + 1 for n, m in zip(geometry.shape, psf.shape, strict=True)]
    spectrum = torch.fft.fft2(psf, s=sizes)
    frequencies = [torch.fft.fftfreq(n, dtype=torch.float64) for n in sizes]
    total = torch.zeros(geometry.frames, *geometry.shape, dtype=torch.float64)
    for planet in planets:
        flux = planet.flux * _transmitted(geometry, planet.separation)
        y, x = _positions(geometry, planet)
        moves = (y - psf.shape[0] // 2, x - psf.shape[1] // 2)
        # Half a period is the one frequency whose shift is not real.
        down, across = (
            torch.exp(-2j * math.pi * k * move[..., None])
            for k, move in zip(frequencies, moves, strict=True)
        )
        ramp = (down[..., :, None] * across[..., None, :]).mean(1)
        image = torch.fft.ifft2(spectrum * ramp).real
        total += flux * image[:, : geometry.shape[0], : geometry.shape[1]]
    return total


def _positions(geometry: CoronagraphGeometry, planet: Planet) -> tuple[Tensor, Tensor]:
    """Pixels (frame, step) of a planet, at steps of its smear within the exposure."""
    pixels = 1000 * planet.separation / geometry.pixel_scale
    sky = [torch.tensor(v, dtype=torch.float64) for v in offset(pixels, planet.position_angle)]
    count = max(1, math.ceil(8 * math.radians(geometry.smear) * pixels))
    steps = ((torch.arange(count, dtype=torch.float64) + 0.5) / count - 0.5) * geometry.smear
    angles = torch.tensor(geometry.angles, dtype=torch.float64)[:, None] + steps
    centre = torch.tensor(geometry.centre, dtype=torch.float64)
    y, x = on_frame(sky[0], sky[1], angles, centre)
    for at, size, axis in ((y, geometry.shape[0], "y"), (x, geometry.shape[1], "x")):
        if float(at.min()) < 0 or float(at.max()) > size - 1:
            raise ValueError(
                f"a planet at {planet.separation:g} arcsec leaves the frame: {axis} from "
                f"{float(at.min()):.1f} to {float(at.max()):.1f} of {size} pixels"
            )
    return y, x


def _transmitted(geometry: CoronagraphGeometry, separation: float) -> float:
    if not geometry.transmission:
        return 1.0
    places, values = zip(*geometry.transmission, strict=True)
    return float(np.interp(1000 * separation, places, values))
