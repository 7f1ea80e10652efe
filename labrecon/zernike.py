"""Zernike polynomials: aberrations of a round pupil by Noll's index."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["noll", "zernike"]


def noll(j: int) -> tuple[int, int]:
    """Degree ``n`` and order ``m`` of Noll's index ``j``; negative orders are sines.

    Source: Noll 1976, J. Opt. Soc. Am. 66, 207, table 1.

    Example:
        >>> [noll(j) for j in (1, 2, 3, 4, 5, 11)]
        [(0, 0), (1, 1), (1, -1), (2, 0), (2, -2), (4, 0)]
    """
    if j < 1:
        raise ValueError(f"Noll's index counts from 1, got {j}")
    degree = (math.isqrt(8 * j - 7) - 1) // 2
    place = j - degree * (degree + 1) // 2 - 1
    order = place + (place + degree) % 2
    return degree, order if j % 2 == 0 else -order


def zernike(j: int, y: Tensor, x: Tensor) -> Tensor:
    """``Z_j = √(n+1) R(ρ)``, times ``√2 cos mθ`` or ``√2 sin mθ``, at points of the unit disc.

    Of unit root mean square over the disc.

    Args:
        j: Noll's index, from 1 (piston).
        y: in radii of the disc; broadcasts with ``x``.
        x: likewise.

    Source: Noll 1976, J. Opt. Soc. Am. 66, 207, eq. 1–3.

    Example:
        >>> zernike(3, torch.tensor([0.5]), torch.tensor([0.0]))
        tensor([1.])
    """
    degree, order = noll(j)
    turns, square = abs(order), y * y + x * x
    radial = torch.zeros_like(square)
    for k in range((degree - turns) // 2 + 1):
        factor = (-1) ** k * math.comb(degree - k, k)
        factor *= math.comb(degree - 2 * k, (degree - turns) // 2 - k)
        # ρ^m is left to the power of x + iy, a polynomial without an undefined angle at 0.
        radial = radial + factor * square ** ((degree - turns) // 2 - k)
    power = torch.complex(x + 0 * y, y + 0 * x) ** turns
    angular = power.imag if order < 0 else power.real
    return math.sqrt((degree + 1) * (2 if order else 1)) * radial * angular
