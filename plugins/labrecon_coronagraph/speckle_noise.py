"""Speckle statistics: the modified Rician distribution of intensities in a stellar halo."""

from __future__ import annotations

import torch
from torch import Tensor

from labrecon.noise import Noise, NoiseError

__all__ = ["ModifiedRician"]

#: Steps of the bisection that finds the mode of the distribution.
BISECTIONS = 60


class ModifiedRician(Noise):
    """Short exposures of a halo: a steady field, and one that fluctuates as a complex Gaussian.

    With mean intensities ``I_c`` of the steady and ``I_s`` of the fluctuating field,

        ``p(I) = 1/I_s · exp(−(I + I_c)/I_s) · I₀(2√(I I_c)/I_s)``

    (Aime and Soummer 2004), of mean ``I_c + I_s`` and variance ``I_s² + 2 I_c I_s``; it has a
    longer tail than a Gaussian, so that bright speckles look like planets. What else is there (a
    planet, the sky) adds to it: ``y = clean + I − I_c − I_s`` keeps the mean.

    Detector noise comes on top, in a sample and in the variance; the density is that of the halo
    alone.

    Args:
        steady: ``I_c`` in the unit of the data; a number or a tensor that broadcasts.
        fluctuating: ``I_s``, likewise.
        detector: photon and read noise.

    Raises:
        NoiseError: an intensity that is negative or not finite, or no fluctuating light.

    Example:
        >>> noise = ModifiedRician(3.0, 1.0)
        >>> float(noise.variance(torch.tensor(4.0)))
        7.0
    """

    steady: Tensor
    fluctuating: Tensor

    def __init__(
        self, steady: Tensor | float, fluctuating: Tensor | float, detector: Noise | None = None
    ) -> None:
        super().__init__()
        for name, value in (("steady", steady), ("fluctuating", fluctuating)):
            tensor = torch.as_tensor(value, dtype=torch.float64)
            if not bool((tensor >= 0).all()) or not bool(torch.isfinite(tensor).all()):
                raise NoiseError(f"the {name} intensity must be finite and not negative")
            self.register_buffer(name, tensor)
        if not bool((self.fluctuating > 0).all()):
            raise NoiseError("without fluctuating light there are no speckles: take another noise")
        self.detector = detector

    def _light(self, like: Tensor) -> tuple[Tensor, Tensor]:
        return self.steady.to(like.dtype), self.fluctuating.to(like.dtype)

    def sample(self, clean: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """``clean + |√I_c + √(I_s/2)(a + ib)|² − I_c − I_s``, ``a`` and ``b`` standard normal."""
        steady, fluctuating = self._light(clean)
        where = generator.device if generator is not None else clean.device
        shape = torch.broadcast_shapes(clean.shape, steady.shape, fluctuating.shape)
        a, b = torch.randn(2, *shape, dtype=clean.dtype, device=where, generator=generator).to(
            clean.device
        )
        spread = (fluctuating / 2).sqrt()
        halo = (steady.sqrt() + spread * a).square() + (spread * b).square()
        y = clean + halo - steady - fluctuating
        return y if self.detector is None else self.detector.sample(y, generator)

    def density(self, predicted: Tensor, measured: Tensor) -> Tensor:
        """``−log p(y − predicted + I_c + I_s)``, 0 at the mode; infinite below a dark halo."""
        steady, fluctuating = self._light(predicted)
        halo = measured - predicted + steady + fluctuating
        value = _cost(halo.clamp_min(0), steady, fluctuating)
        lowest = _cost(_mode(steady, fluctuating), steady, fluctuating)
        return torch.where(halo >= 0, value - lowest, torch.inf)

    def variance(self, predicted: Tensor) -> Tensor:
        """``I_s² + 2 I_c I_s``, and that of the detector."""
        steady, fluctuating = self._light(predicted)
        own = (fluctuating.square() + 2 * steady * fluctuating).expand(predicted.shape)
        return own if self.detector is None else own + self.detector.variance(predicted)


def _cost(halo: Tensor, steady: Tensor, fluctuating: Tensor) -> Tensor:
    """``−log p`` without overflow: ``(I + I_c)/I_s − z − log(e^{−z} I₀(z))``."""
    z = 2 * (halo * steady).sqrt() / fluctuating
    return (halo + steady) / fluctuating - z - torch.special.i0e(z).log()


def _mode(steady: Tensor, fluctuating: Tensor) -> Tensor:
    """Where ``p`` is largest: the root of its derivative between 0 and ``I_c``, by bisection."""
    low, high = torch.zeros_like(steady + fluctuating), (steady + 0 * fluctuating)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        z = 2 * (middle * steady).sqrt() / fluctuating
        # d log p/dI = [2 (I_c/I_s) I₁(z)/(z I₀(z)) − 1] / I_s; the quotient falls with z.
        bessel = torch.where(
            z > 0, torch.special.i1e(z) / (z * torch.special.i0e(z)).clamp_min(1e-300), 0.5
        )
        rises = 2 * steady / fluctuating * bessel > 1
        low, high = torch.where(rises, middle, low), torch.where(rises, high, middle)
    return (low + high) / 2
