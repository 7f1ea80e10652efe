"""Through a vortex: its many scales, gathered once into one convolution of the pupil plane."""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

from labrecon_coronagraph.fourier import Grid, MatrixFourier
from labrecon_coronagraph.placed import Placed

__all__ = ["VortexConvolution"]

#: Scale of the outermost window in λ/D, the ratio of one to the next, and how many follow.
OUTERMOST, RATIO, INNER = 2.0, 4.0, 5
#: Samples of the whole field per λ/D, and of the others per scale of the innermost detail.
FIELD_SAMPLES, SAMPLES = 4, 5


class VortexConvolution:
    """``E_C = F⁻¹{exp(i l θ) F{E}}`` on the samples of the pupil.

    The phase turns arbitrarily fast near the axis, so it is sampled ever finer towards it (Por
    et al. 2018). Each of these levels is a convolution of the pupil plane, and so is their sum:
    its kernel is computed once for a charge and a size of the pupil, and applied by transforms of
    twice that size, without wrapping around.

    Args:
        charge: ``l``, even.
        n: samples of the pupil plane along each axis.
    """

    def __init__(self, charge: int, n: int) -> None:
        self.n = n
        self._transfer = Placed(_transfer(charge, n))

    def __call__(self, field: Tensor, scale: float) -> Tensor:
        """Field (…, y, x) before the Lyot stop; a vortex has no scale, λ0/λ does not matter."""
        twice = (2 * self.n, 2 * self.n)
        spectrum = torch.fft.fft2(field, s=twice) * self._transfer.like(field)
        return torch.fft.ifft2(spectrum)[..., : self.n, : self.n]


@functools.lru_cache(maxsize=8)
def _transfer(charge: int, n: int) -> Tensor:
    """Transform (2n, 2n) of the convolution's kernel."""
    with torch.inference_mode(False), torch.no_grad():
        return torch.fft.fft2(torch.fft.ifftshift(_kernel(charge, n)))


def _kernel(charge: int, n: int) -> Tensor:
    """``K(d) = Δx² ∫ exp(i l θ) exp(2πi u·d) du`` over ``|u_y|, |u_x| < n/2`` (2n, 2n).

    ``1 = (1 − w_0) + (w_0 − w_1) + … + w_J`` with ``w_j = exp(−(r/s_j)^|l|)`` cuts the integral
    into parts that are sampled each on a grid of its own. As ``r^|l| exp(i l θ)`` is a polynomial,
    each part is an entire function, for which a sum over samples is exact but for the tails.
    """
    # Distances of two samples of the pupil: −1 … 1 − 1/n; half a sample off a centred grid.
    distances = Grid((2 * n, 2 * n), 1 / n, (-0.5 / n, -0.5 / n))
    reach = 37.0 ** (1 / abs(charge))
    # No window may reach beyond the square.
    inner = min(OUTERMOST, n / 2 / reach)
    field = Grid.centred(n * FIELD_SAMPLES, 1 / FIELD_SAMPLES)
    total = MatrixFourier(distances, field).backward(_part(field, charge, None, inner))
    for level in range(INNER + 1):
        outer, inner = inner, inner / RATIO
        samples = 2 * math.ceil(reach * outer / inner * SAMPLES)
        grid = Grid.centred(samples, 2 * reach * outer / samples)
        part = _part(grid, charge, outer, inner if level < INNER else None)
        total = total + MatrixFourier(distances, grid).backward(part)
    return total / n**2


def _part(grid: Grid, charge: int, outer: float | None, inner: float | None) -> Tensor:
    """``exp(i l θ) (w_outer − w_inner)``; no outer window is 1, no inner one 0."""
    y, x = grid.meshed()
    power = (y * y + x * x) ** (abs(charge) / 2)
    amplitude = torch.ones_like(power)
    if outer is not None:
        amplitude = (-power / outer ** abs(charge)).exp()
    if inner is not None and outer is None:
        amplitude = -(-power / inner ** abs(charge)).expm1()
    elif inner is not None:
        amplitude = amplitude - (-power / inner ** abs(charge)).exp()
    return torch.polar(amplitude.abs(), charge * torch.atan2(y, x))
