"""Data terms that are filters, so that a regularised solve is one division in Fourier space."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from labrecon.algebra import Composition
from labrecon.operator import Operator
from labrecon.operators.fourier import MaskedFourier
from labrecon.operators.real import AsComplex

__all__ = ["Spectrum", "normal_spectrum"]


class Spectrum(NamedTuple):
    """A filter ``x ↦ F⁻¹ (values · F x)`` with the DFT over ``axes``, its origin at index 0."""

    values: Tensor
    axes: tuple[int, ...]

    def divide(self, x: Tensor) -> Tensor:
        """``F⁻¹ (F x / values)``; 0 where a value is 0, as it is for the shortest solution."""
        spectrum = torch.fft.fftn(x, dim=self.axes)
        present = self.values != 0
        quotient = torch.where(present, spectrum / torch.where(present, self.values, 1.0), 0.0)
        image = torch.fft.ifftn(quotient, dim=self.axes)
        return image if x.is_complex() else image.real


def normal_spectrum(operator: Operator, weights: Tensor | None = None) -> Spectrum | None:
    """``AᴴWA`` as a filter, or None where it is none: Cartesian sampling, also of real objects."""
    if isinstance(operator, MaskedFourier):
        power = operator.mask.square()
        power = power if weights is None else weights * power
        return Spectrum(torch.fft.ifftshift(power, dim=operator.axes), operator.axes)
    if isinstance(operator, Composition) and isinstance(operator.inner, AsComplex):
        spectrum = normal_spectrum(operator.outer, weights)
        if spectrum is None:
            return None
        values, axes = spectrum
        # Of a real image, frequency k carries what −k does: each is measured by the other too.
        mirrored = torch.roll(values.flip(axes), [1] * len(axes), axes)
        return Spectrum((values + mirrored) / 2, axes)
    return None
