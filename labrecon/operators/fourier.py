"""Fourier transforms on Cartesian grids."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from labrecon.operator import Operator
from labrecon.space import Space, SpaceError

__all__ = ["Fourier", "MaskedFourier", "centred_fft", "centred_ifft"]


def centred_fft(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Orthonormal DFT with the origin at index ``N//2`` in both domains; kernel ``e^{−i2πkr}``."""
    shifted = torch.fft.ifftshift(x, dim=axes)
    return torch.fft.fftshift(torch.fft.fftn(shifted, dim=axes, norm="ortho"), dim=axes)


def centred_ifft(y: Tensor, axes: tuple[int, ...]) -> Tensor:
    """The inverse, and adjoint, of `centred_fft`."""
    shifted = torch.fft.ifftshift(y, dim=axes)
    return torch.fft.fftshift(torch.fft.ifftn(shifted, dim=axes, norm="ortho"), dim=axes)


def _axes(space: Space, axes: tuple[int, ...] | None) -> tuple[int, ...]:
    if not space.dtype.is_complex:
        raise SpaceError(f"a Fourier transform needs a complex space, got {space.dtype}")
    chosen = tuple(range(-space.ndim, 0)) if axes is None else axes
    if any(a >= 0 or a < -space.ndim for a in chosen):
        raise SpaceError(f"count axes from the end, -{space.ndim} to -1, got {chosen}")
    return chosen


class Fourier(Operator):
    """The orthonormal, centred DFT over ``axes`` (default all): unitary.

    ``y[k] = N^{−1/2} Σ_r x[r] e^{−i2π k r / N}`` with ``k``, ``r`` counted from ``N//2``.
    """

    def __init__(self, space: Space, axes: tuple[int, ...] | None = None) -> None:
        super().__init__(space, Space(space.shape, space.dtype))
        self.axes = _axes(space, axes)

    def forward(self, x: Tensor) -> Tensor:
        """``F x``."""
        return centred_fft(x, self.axes)

    def adjoint(self, y: Tensor) -> Tensor:
        """``Fᴴ y = F⁻¹ y``."""
        return centred_ifft(y, self.axes)

    def normal(self, x: Tensor, weights: Tensor | None = None) -> Tensor:
        """``x`` without weights."""
        return x if weights is None else super().normal(x, weights)


class MaskedFourier(Operator):
    """Cartesian sampling ``y = m · F x`` with a mask ``m`` over all of k-space.

    Samples that were not measured are zeros of ``y``.

    Args:
        space: complex domain.
        mask: real, broadcasts to the space; 0 and 1, or sampling weights in between.
        axes: transformed axes, counted from the end (default all).
    """

    mask: Tensor

    def __init__(
        self, space: Space, mask: Tensor, axes: tuple[int, ...] | None = None
    ) -> None:
        super().__init__(space, Space(space.shape, space.dtype))
        self.axes = _axes(space, axes)
        try:
            torch.broadcast_to(mask, space.shape)
        except RuntimeError as error:
            raise SpaceError(
                f"a mask {tuple(mask.shape)} does not broadcast to {space.shape}"
            ) from error
        self.register_buffer("mask", mask.to(space.real_dtype))

    def forward(self, x: Tensor) -> Tensor:
        """``m · F x``."""
        return self.mask * centred_fft(x, self.axes)

    def adjoint(self, y: Tensor) -> Tensor:
        """``Fᴴ (m · y)``."""
        return centred_ifft(self.mask * y, self.axes)

    def normal(self, x: Tensor, weights: Tensor | None = None) -> Tensor:
        """``Fᴴ (w m² · F x)``, in the frame of the FFT to save four shifts."""
        power = self._power(weights)
        return torch.fft.ifftn(power * torch.fft.fftn(x, dim=self.axes), dim=self.axes)

    def solve(
        self, rhs: Tensor, rho: Tensor | float, *, weights: Tensor | None = None, **_: Any
    ) -> Tensor:
        """``Fᴴ (F rhs / (w m² + ρ))``."""
        spectrum = torch.fft.fftn(rhs, dim=self.axes) / (self._power(weights) + rho)
        return torch.fft.ifftn(spectrum, dim=self.axes)

    def _power(self, weights: Tensor | None) -> Tensor:
        power = torch.broadcast_to(self.mask.square(), self.domain.shape)
        if weights is not None:
            power = weights * power
        # The shifts of image space cancel between F and its adjoint; those of k-space remain.
        return torch.fft.ifftshift(power, dim=self.axes)
