"""The pupil of a microscope: aperture, Zernike aberrations, defocus."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from labrecon.zernike import zernike

__all__ = ["ZERNIKES", "pupil"]

#: Coefficients of a pupil: tilt, defocus, astigmatism, coma, trefoil, spherical, by Noll's index.
ZERNIKES = 15


def pupil(
    y: Tensor,
    x: Tensor,
    *,
    wavelength: float,
    na: float,
    index: float,
    defocus: float,
    zernikes: Tensor,
    edge: float,
) -> Tensor:
    """``P(ν)``: 1 inside ``NA/λ``, times ``exp i[Σ c_j Z_j + 2π z (√(n²/λ² − |ν|²) − n/λ)]``.

    Args:
        y: frequency along y in 1/µm.
        x: along x.
        wavelength: in µm.
        na: numerical aperture.
        index: of the immersion.
        defocus: ``z`` in µm.
        zernikes: coefficients in rad rms, by Noll's index from 1.
        edge: width of a linear fall at the rim in 1/µm; 0 is a hard rim.
    """
    cut = na / wavelength
    square = x * x + y * y
    if edge > 0:
        radius = (square + torch.finfo(square.dtype).tiny).sqrt()
        aperture = ((cut - radius) / edge + 0.5).clamp(0, 1)
    else:
        aperture = (square <= cut * cut * (1 + 4e-7)).to(square.dtype)
    phase: Tensor | None = None
    if defocus:
        top = (index / wavelength) ** 2
        # Written without a difference of large numbers.
        depth = (top - square).clamp_min(0).sqrt() + index / wavelength
        phase = -2 * math.pi * defocus * square / depth
    if zernikes.requires_grad or bool((zernikes != 0).any()):
        used = range(len(zernikes)) if zernikes.requires_grad else zernikes.nonzero()[:, 0].tolist()
        terms = [zernikes[j] * zernike(j + 1, y / cut, x / cut) for j in used]
        bent = torch.stack(terms).sum(0)
        phase = bent if phase is None else phase + bent
    if phase is None:
        return aperture.to(aperture.dtype.to_complex())
    return torch.polar(aperture, phase.expand_as(aperture))
