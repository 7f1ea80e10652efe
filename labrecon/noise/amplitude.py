"""Photon noise of square roots."""

from __future__ import annotations

import torch
from torch import Tensor

from labrecon.noise.model import Noise, NoiseError, standard_normal

__all__ = ["Amplitude"]


class Amplitude(Noise):
    """Intensities judged by their roots: ``density = (√(p + ε) − √(y + ε))² / 2σ²``.

    The data term of Fourier ptychography and phase retrieval: it is nearly that of photon noise,
    whose root has the same variance at every intensity (Yeh et al. 2015). `sample` draws
    ``(√p + σ n)²``; σ = ½ is photon noise of counts.

    Args:
        sigma: standard deviation of the roots.
        floor: ``ε``, which keeps the derivative finite where no light falls.
    """

    sigma: Tensor

    def __init__(self, sigma: Tensor | float = 0.5, floor: float = 1e-7) -> None:
        super().__init__()
        value = torch.as_tensor(sigma, dtype=torch.float64)
        if not bool((value > 0).all()) or not floor > 0:
            raise NoiseError("sigma and floor of amplitude noise must be positive")
        self.register_buffer("sigma", value)
        self.floor = float(floor)

    def _root(self, intensity: Tensor) -> Tensor:
        return (intensity.clamp_min(0) + self.floor).sqrt()

    def sample(self, clean: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """``(√p + σ n)²`` with standard normal ``n``."""
        n = standard_normal(clean, generator)
        return (clean.clamp_min(0).sqrt() + self.sigma.to(clean.dtype) * n).square()

    def density(self, predicted: Tensor, measured: Tensor) -> Tensor:
        """``(√(p + ε) − √(y + ε))² / 2σ²``."""
        difference = self._root(predicted) - self._root(measured)
        return 0.5 * difference.square() / self.sigma.to(predicted.dtype).square()

    def variance(self, predicted: Tensor) -> Tensor:
        """``4 σ² (p + ε)``: that of the root, carried to the intensity."""
        return 4 * self.sigma.to(predicted.dtype).square() * (predicted.clamp_min(0) + self.floor)

    def check(self, measured: Tensor) -> None:
        """Intensities are not negative."""
        low = measured < 0
        if bool(low.any()):
            raise NoiseError(
                f"{int(low.sum())} of {low.numel()} intensities are negative (lowest "
                f"{float(measured.min()):.4g}) and have no root: clip them in preparation, or take "
                "photon noise"
            )
