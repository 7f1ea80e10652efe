"""What adaptive optics leave of the turbulence: power spectra of the phase."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from labrecon_coronagraph.fourier import Grid

__all__ = ["AdaptiveOptics", "kolmogorov"]


def kolmogorov(frequency: Tensor, strength: Tensor | float) -> Tensor:
    """``0.0229 (D/r0)^{5/3} f^{−11/3}`` in rad² per (cycle/D)²; 0 at ``f = 0``.

    Args:
        frequency: ``f`` in cycles/D.
        strength: ``D/r0``, with Fried's parameter at the wavelength of the phase.

    Source: Noll 1976, J. Opt. Soc. Am. 66, 207, eq. 21.
    """
    away = torch.where(frequency > 0, frequency, torch.ones_like(frequency))
    law = torch.where(frequency > 0, away ** (-11 / 3), torch.zeros_like(frequency))
    return 0.0229 * torch.as_tensor(strength).to(frequency) ** (5 / 3) * law


@dataclass(frozen=True)
class AdaptiveOptics:
    """Power spectrum of the residual phase on a grid of spatial frequencies, in rad² per sample.

    The deformable mirror corrects ``|f_y|, |f_x| < f_c``, what its actuators can make. Outside
    remains the turbulence (fitting error). Inside remain

    - aliasing: frequencies that the sensor takes for lower ones,
      ``Σ_k W(h) [f·h/f² · f_y/h_y · f_x/h_x]²`` with ``h = f − 2f_c k``, for a Shack–Hartmann
      sensor whose subapertures are as far apart as the actuators;
    - servo lag: ``W(f) · 4 sin²(π τ v·f)``, close to ``W(f) (2π τ v·f)²`` where it matters; the
      halo along the wind.

    The sum over all samples of a grid is the variance of the phase in rad², as far as the grid
    reaches. All values may be tensors through which gradients flow.

    Args:
        strength: ``D/r0``, with Fried's parameter at the reference wavelength.
        wind: velocity along (y, x) in D/s, (2,).
        delay: ``τ`` in s.
        actuators: of the mirror along the diameter; ``f_c = (actuators − 1)/2``.

    Raises:
        ValueError: fewer than 2 actuators, or a wind that is not a pair.

    Source: Rigaut, Véran & Lai 1998, Proc. SPIE 3353, 1038; Cantalloube et al. 2020, A&A 638, A98.

    Example:
        >>> optics = AdaptiveOptics(8.0, torch.tensor([0.0, 1.0]), 0.0, actuators=9)
        >>> fitting = float(optics.fitting(Grid.centred(64, 1.0)).sum())
        >>> round(fitting, 2)  # of 0.23 (d/r0)^{5/3}, with d = D/8, on an endless grid
        0.22
    """

    strength: Tensor | float
    wind: Tensor
    delay: Tensor | float
    actuators: int

    def __post_init__(self) -> None:
        if self.actuators < 2:
            raise ValueError(f"{self.actuators} actuators, expected at least 2 along the diameter")
        if self.wind.shape != (2,):
            raise ValueError(
                f"a wind of shape {tuple(self.wind.shape)}, expected (2,): along (y, x) in D/s"
            )

    @property
    def cutoff(self) -> float:
        """``f_c`` in cycles/D."""
        return (self.actuators - 1) / 2

    def fitting(self, grid: Grid) -> Tensor:
        """What the mirror can't make (f_y, f_x), in rad² per sample."""
        fy, fx = self._frequencies(grid)
        law = kolmogorov(torch.hypot(fy, fx), self.strength)
        return law * ~self._corrected(fy, fx) * grid.step**2

    def servo_lag(self, grid: Grid) -> Tensor:
        """What the mirror makes too late (f_y, f_x), in rad² per sample."""
        fy, fx = self._frequencies(grid)
        wind_y, wind_x = self.wind.to(fy)
        turns = math.pi * self.delay * (wind_y * fy + wind_x * fx)
        law = kolmogorov(torch.hypot(fy, fx), self.strength) * 4 * turns.sin().square()
        return law * self._corrected(fy, fx) * grid.step**2

    def aliasing(self, grid: Grid, orders: int = 3) -> Tensor:
        """What the sensor takes for lower frequencies (f_y, f_x), in rad² per sample.

        Args:
            grid: of frequencies in cycles/D.
            orders: largest ``|k_y|``, ``|k_x|`` of the sum.
        """
        fy, fx = self._frequencies(grid)
        corrected = self._corrected(fy, fx)
        # Outside, where a frequency may meet one of its own images, nothing is asked for.
        fy, fx = fy * corrected, fx * corrected
        square = fy * fy + fx * fx
        total = torch.zeros_like(square)
        ticks = range(-orders, orders + 1)
        for shift_y, shift_x in ((ky, kx) for ky in ticks for kx in ticks if (ky, kx) != (0, 0)):
            high_y, high_x = fy - 2 * self.cutoff * shift_y, fx - 2 * self.cutoff * shift_x
            share = (fy * high_y + fx * high_x) / square.clamp_min(1e-30)
            # Where k is 0 the mean over a subaperture is the same for both frequencies.
            for low, high, shift in ((fy, high_y, shift_y), (fx, high_x, shift_x)):
                share = share * (low / high) if shift else share
            total = total + share.square() * kolmogorov(torch.hypot(high_y, high_x), self.strength)
        return total * corrected * grid.step**2

    def psd(self, grid: Grid) -> Tensor:
        """All of them together (f_y, f_x), in rad² per sample, 0 at ``f = 0``."""
        return self.fitting(grid) + self.servo_lag(grid) + self.aliasing(grid)

    def _frequencies(self, grid: Grid) -> tuple[Tensor, Tensor]:
        fy, fx = torch.broadcast_tensors(*grid.meshed())
        return fy.to(self.wind.device), fx.to(self.wind.device)

    def _corrected(self, fy: Tensor, fx: Tensor) -> Tensor:
        return (fy.abs() < self.cutoff) & (fx.abs() < self.cutoff)
