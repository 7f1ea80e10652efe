"""Noise of data in other units."""

from __future__ import annotations

import torch
from torch import Tensor

from labrecon.noise.model import Noise, NoiseError

__all__ = ["Scaled"]


class Scaled(Noise):
    """Noise in other units: ``y = n / gain`` with ``n`` as another noise has it at ``gain · p``.

    Photon noise of intensities that are 1 in an empty field is ``Scaled(Poisson(), electrons)``.

    Args:
        noise: in its own units, such as electrons.
        gain: its units per unit of the data; a number or a tensor that broadcasts.

    Example:
        >>> from labrecon.noise import PoissonGaussian
        >>> noise = Scaled(PoissonGaussian(1.5), 30_000.0)
        >>> float(noise.variance(torch.tensor(1.0))) * 30_000
        1.0000...
    """

    gain: Tensor

    def __init__(self, noise: Noise, gain: Tensor | float) -> None:
        super().__init__()
        self.noise = noise
        value = torch.as_tensor(gain, dtype=torch.float64)
        if not bool((value > 0).all()) or not bool(torch.isfinite(value).all()):
            raise NoiseError("the gain of a noise must be positive and finite")
        self.register_buffer("gain", value)

    def _gain(self, like: Tensor) -> Tensor:
        return self.gain.to(like.real.dtype)

    def sample(self, clean: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """A draw at ``gain · clean``, divided by the gain."""
        gain = self._gain(clean)
        return self.noise.sample(gain * clean, generator) / gain

    def density(self, predicted: Tensor, measured: Tensor) -> Tensor:
        """That of the other noise at ``gain · p`` and ``gain · y``."""
        gain = self._gain(predicted)
        return self.noise.density(gain * predicted, gain * measured)

    def score(self, predicted: Tensor, measured: Tensor) -> Tensor:
        """``gain`` times that of the other noise."""
        gain = self._gain(predicted)
        return gain * self.noise.score(gain * predicted, gain * measured)

    def curvature(self, measured: Tensor) -> Tensor | float:
        """``gain²`` times that of the other noise."""
        gain = self._gain(measured)
        return gain.square() * self.noise.curvature(gain * measured)

    def prox(self, v: Tensor, measured: Tensor, step: Tensor | float) -> Tensor:
        """That of the other noise with a step of ``gain² · step``, divided by the gain."""
        gain = self._gain(v)
        return self.noise.prox(gain * v, gain * measured, step * gain.square()) / gain

    def variance(self, predicted: Tensor) -> Tensor:
        """That of the other noise over ``gain²``."""
        gain = self._gain(predicted)
        return self.noise.variance(gain * predicted) / gain.square()

    def check(self, measured: Tensor) -> None:
        """What the other noise says of ``gain · y``."""
        self.noise.check(self._gain(measured) * measured)
