"""Fourier transforms on Cartesian grids."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from labrecon.design import FeasibleSet
from labrecon.functional import Map
from labrecon.operator import Operator
from labrecon.operators.unitary import Unitary
from labrecon.space import Space, SpaceError, is_per_element

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
    chosen = tuple(range(-space.ndim, 0)) if axes is None else tuple(axes)
    if not chosen or any(a >= 0 or a < -space.ndim for a in chosen):
        raise SpaceError(f"count axes from the end, -{space.ndim} to -1, got {chosen}")
    if len(set(chosen)) != len(chosen):
        raise SpaceError(f"an axis is named twice in {chosen}")
    return chosen


def _spectrum(space: Space, axes: tuple[int, ...]) -> Space:
    """The space of spectra: the axis ``y`` becomes ``ky``."""
    transformed = {axis % space.ndim for axis in axes}
    names = (f"k{n}" if i in transformed else n for i, n in enumerate(space.axes))
    return Space(space.shape, space.dtype, tuple(names))


class Fourier(Unitary):
    """The orthonormal, centred DFT over ``axes`` (default all): unitary.

    ``y[k] = N^{−1/2} Σ_r x[r] e^{−i2π k r / N}`` with ``k``, ``r`` counted from ``N//2``.

    Args:
        space: complex domain; the range has its shape.
        axes: transformed axes, counted from the end.

    Raises:
        SpaceError: the space is real, or an axis is missing, named twice or not negative.

    Example:
        >>> fourier = Fourier(Space((4,), torch.complex64))
        >>> fourier(torch.ones(4, dtype=torch.complex64)).real
        tensor([0., 0., 2., 0.])
    """

    def __init__(self, space: Space, axes: tuple[int, ...] | None = None) -> None:
        chosen = _axes(space, axes)
        super().__init__(space, _spectrum(space, chosen))
        self.axes = chosen

    def forward(self, x: Tensor) -> Tensor:
        """``F x``."""
        return centred_fft(x, self.axes)

    def adjoint(self, y: Tensor) -> Tensor:
        """``Fᴴ y = F⁻¹ y``."""
        return centred_ifft(y, self.axes)


class MaskedFourier(Operator):
    """Cartesian sampling ``y = m · F x`` with a mask ``m`` over all of k-space.

    Samples that were not measured are zeros of ``y``.

    Args:
        space: complex domain.
        mask: real, broadcasts to the space; 0 and 1, or sampling weights in between.
        axes: transformed axes, counted from the end (default all).
        feasible: what the scanner can sample; makes the mask a design.

    Raises:
        SpaceError: as `Fourier`, or the mask is complex or does not broadcast to the space.

    Example:
        >>> space = Space((4,), torch.complex64)
        >>> sampling = MaskedFourier(space, torch.tensor([True, False, True, False]))
        >>> sampling(torch.ones(4, dtype=torch.complex64)).real
        tensor([0., 0., 2., 0.])
    """

    mask: Tensor

    def __init__(
        self,
        space: Space,
        mask: Tensor,
        axes: tuple[int, ...] | None = None,
        feasible: FeasibleSet | None = None,
    ) -> None:
        chosen = _axes(space, axes)
        super().__init__(space, _spectrum(space, chosen))
        self.axes = chosen
        try:
            torch.broadcast_to(mask, space.shape)
        except RuntimeError as error:
            raise SpaceError(
                f"a mask {tuple(mask.shape)} does not broadcast to {space.shape}"
            ) from error
        if mask.is_complex():
            raise SpaceError(f"a mask is real, got {mask.dtype}")
        # With every axis there, of size 1 where it broadcasts, the shift of k-space needs no copy.
        mask = mask.to(space.real_dtype)[(None,) * (space.ndim - mask.ndim)]
        if feasible is None:
            self.register_buffer("mask", mask)
        else:
            self.design("mask", mask, feasible)

    def forward(self, x: Tensor) -> Tensor:
        """``m · F x``."""
        return self.mask * centred_fft(x, self.axes)

    def adjoint(self, y: Tensor) -> Tensor:
        """``Fᴴ (m · y)``."""
        return centred_ifft(self.mask * y, self.axes)

    def normal(self, x: Tensor, weights: Tensor | None = None) -> Tensor:
        """``Fᴴ (w m² · F x)``, in the frame of the FFT to save four shifts."""
        return self.normal_map(weights)(x)

    def normal_map(self, weights: Tensor | None = None) -> Map:
        """`normal` with ``w m²`` computed once."""
        power, axes = self._power(weights), self.axes
        return lambda x: torch.fft.ifftn(power * torch.fft.fftn(x, dim=axes), dim=axes)

    def solve(
        self,
        rhs: Tensor,
        rho: Tensor | float,
        *,
        weights: Tensor | None = None,
        **options: Any,
    ) -> Tensor:
        """``Fᴴ (F rhs / (w m² + ρ))``; conjugate gradients where ``ρ`` varies in the image."""
        if not is_per_element(rho, self.domain.ndim):
            return super().solve(rhs, rho, weights=weights, **options)
        spectrum = torch.fft.fftn(rhs, dim=self.axes) / (self._power(weights) + rho)
        return torch.fft.ifftn(spectrum, dim=self.axes)

    def norm(self, iterations: int = 60, tolerance: float = 1e-4) -> float:
        """The largest sampling weight."""
        return float(self.mask.detach().abs().max())

    def _power(self, weights: Tensor | None) -> Tensor:
        power = self.mask.square() if weights is None else weights * self.mask.square()
        # The shifts of image space cancel between F and its adjoint; those of k-space remain.
        return torch.fft.ifftshift(power, dim=self.axes)
