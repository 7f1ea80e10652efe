"""The pupil of a microscope: aperture, Zernike aberrations, defocus."""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

__all__ = ["ZERNIKES", "noll", "pupil", "zernike"]

#: Coefficients of a pupil: tilt, defocus, astigmatism, coma, trefoil, spherical, by Noll's index.
ZERNIKES = 15


@functools.cache
def noll(j: int) -> tuple[int, int]:
    """Degree ``n`` and order ``m`` of Noll's (1976) index; negative orders are sines.

    Example:
        >>> [noll(j) for j in (1, 2, 3, 4, 11)]
        [(0, 0), (1, 1), (1, -1), (2, 0), (4, 0)]
    """
    n = 0
    while (n + 1) * (n + 2) // 2 < j:
        n += 1
    rest = j - n * (n + 1) // 2 - 1
    # Orders of a degree: each twice but 0, from the lowest.
    order = 2 * ((rest + 1) // 2) if n % 2 == 0 else 1 + 2 * (rest // 2)
    return n, order if j % 2 == 0 or order == 0 else -order


def zernike(j: int, y: Tensor, x: Tensor) -> Tensor:
    """``Z_j`` at points of the unit disc, of unit root mean square there (Noll 1976)."""
    n, m = noll(j)
    order, square = abs(m), x * x + y * y
    radial = torch.zeros_like(square)
    for s in range((n - order) // 2 + 1):
        factor = (-1) ** s * math.factorial(n - s)
        factor //= math.factorial(s) * math.factorial((n + order) // 2 - s)
        radial = radial + factor / math.factorial((n - order) // 2 - s) * square ** (
            (n - order) // 2 - s
        )
    # ρ^m cos mθ and ρ^m sin mθ are polynomials of x and y: no angle is undefined in the middle.
    c, s_ = torch.ones_like(x), torch.zeros_like(x)
    for _ in range(order):
        c, s_ = c * x - s_ * y, c * y + s_ * x
    norm = math.sqrt((2.0 if m else 1.0) * (n + 1))
    return norm * radial * (s_ if m < 0 else c)


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
