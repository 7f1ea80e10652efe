"""Flux in apertures of one resolution element, and where on a circle they lie."""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

from labrecon_coronagraph.derotation import sampled

__all__ = ["aperture_sums", "full_width", "ring"]


def full_width(psf: Tensor) -> float:
    """Full width at half maximum in pixels: of the disc of the area where it exceeds half.

    Args:
        psf: (y, x) of odd size, 1 in its middle pixel.
    """
    fine = 8
    # Only around the peak: wings that speckles lift do not count.
    y, x = (torch.arange(-(n // 2) * fine, (n // 2) * fine + 1) / fine + n // 2 for n in psf.shape)
    values = sampled(psf.double(), *torch.meshgrid(y.double(), x.double(), indexing="ij"))
    return 2 * math.sqrt(int((values >= 0.5).sum()) / math.pi) / fine


def aperture_sums(image: Tensor, diameter: float) -> Tensor:
    """Sum (y, x) over a disc around each pixel, with pixels on its rim counted in part."""
    disc = _disc(diameter).to(image)
    padded = torch.nn.functional.conv2d(
        image[None, None], disc[None, None], padding=disc.shape[0] // 2
    )
    return padded[0, 0]


@functools.cache
def _disc(diameter: float) -> Tensor:
    """Part of each pixel inside the disc."""
    half, fine = math.ceil(diameter / 2), 40
    ticks = (torch.arange((2 * half + 1) * fine, dtype=torch.float64) + 0.5) / fine - half - 0.5
    inside = (torch.hypot(ticks[:, None], ticks[None, :]) <= diameter / 2).double()
    return torch.nn.functional.avg_pool2d(inside[None, None], fine)[0, 0]


def ring(y: Tensor, x: Tensor, diameter: float) -> tuple[Tensor, Tensor, Tensor]:
    """Centres of the other apertures that fit side by side on a source's circle.

    Args:
        y: of sources (source,) from the star, in pixels.
        x: likewise.
        diameter: of the apertures.

    Returns:
        y and x (source, aperture) from the star, and which of them exist: ``⌊2πr/d⌋ − 1``.
    """
    radius = torch.hypot(y, x)
    count = (2 * math.pi * radius / diameter).floor()
    most = max(1, int(count.max()))
    place = torch.arange(1, most, dtype=y.dtype, device=y.device)
    turn = 2 * math.pi * place / count.clamp_min(1)[:, None] + torch.atan2(y, x)[:, None]
    exists = place < count[:, None]
    return radius[:, None] * turn.sin(), radius[:, None] * turn.cos(), exists
