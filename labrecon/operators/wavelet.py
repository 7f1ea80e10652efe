"""Orthonormal wavelet transforms with PyWavelets' filters."""

from __future__ import annotations

import pywt
import torch
from torch import Tensor

from labrecon.operator import Operator
from labrecon.space import Space, SpaceError

__all__ = ["Wavelet"]


class Wavelet(Operator):
    """Separable orthonormal wavelet transform over the last ``ndim`` axes, periodic boundary.

    The coefficients have the shape of the image, in Mallat's layout (approximation first), as
    ``pywt.coeffs_to_array(pywt.wavedecn(x, wavelet, mode="periodization"))``.

    Args:
        space: real or complex.
        wavelet: name of an orthogonal wavelet of PyWavelets: "haar", "db4", "sym8", "coif2".
        levels: number of levels (default: 3, or as many as the shape allows).
        ndim: how many trailing axes (default all, at most 3).

    Raises:
        SpaceError: the wavelet is not orthogonal, or an axis is not divisible by ``2^levels``.
    """

    low: Tensor
    high: Tensor

    def __init__(
        self,
        space: Space,
        wavelet: str = "db4",
        levels: int | None = None,
        ndim: int | None = None,
    ) -> None:
        super().__init__(space, space)
        try:
            filters = pywt.Wavelet(wavelet)
        except ValueError as error:
            raise SpaceError(f"PyWavelets knows no wavelet {wavelet!r}") from error
        if not filters.orthogonal:
            raise SpaceError(f"{wavelet!r} is not orthogonal; take haar, dbN, symN or coifN")
        self.axes = tuple(range(-(space.ndim if ndim is None else ndim), 0))
        sizes = space.shape[-len(self.axes) :]
        allowed = min((n & -n).bit_length() - 1 for n in sizes)
        self.levels = min(3, allowed) if levels is None else levels
        if self.levels < 1 or self.levels > allowed:
            raise SpaceError(
                f"axes of {sizes} samples allow {allowed} wavelet levels, {self.levels} asked: "
                "pad or crop the image to a multiple of 2^levels"
            )
        # PyWavelets correlates with the reversed decomposition filter: that is rec_lo itself.
        self.register_buffer("low", torch.tensor(filters.rec_lo, dtype=space.real_dtype))
        self.register_buffer("high", torch.tensor(filters.rec_hi, dtype=space.real_dtype))

    def forward(self, x: Tensor) -> Tensor:
        """The coefficients ``W x``."""
        for level in range(self.levels):
            corner = self._corner(x, level)
            for axis in self.axes:
                corner = self._analyse(corner, axis)
            x = self._with_corner(x, corner)
        return x

    def adjoint(self, y: Tensor) -> Tensor:
        """The image ``Wᴴ y = W⁻¹ y``."""
        for level in reversed(range(self.levels)):
            corner = self._corner(y, level)
            for axis in reversed(self.axes):
                corner = self._synthesise(corner, axis)
            y = self._with_corner(y, corner)
        return y

    def normal(self, x: Tensor, weights: Tensor | None = None) -> Tensor:
        """``x`` without weights."""
        return x if weights is None else super().normal(x, weights)

    def norm(self, iterations: int = 60, tolerance: float = 1e-4) -> float:
        """1."""
        return 1.0

    def _corner(self, x: Tensor, level: int) -> Tensor:
        for axis in self.axes:
            x = x.narrow(axis, 0, self.domain.shape[axis] >> level)
        return x

    def _with_corner(self, x: Tensor, corner: Tensor) -> Tensor:
        if corner.shape == x.shape:
            return corner
        index = (..., *(slice(0, corner.shape[a]) for a in self.axes))
        result = x.clone()
        result[index] = corner
        return result

    def _analyse(self, x: Tensor, axis: int) -> Tensor:
        n = x.shape[axis]
        index = self._taps(n, x.device)
        windows = x.movedim(axis, -1)[..., index]
        both = torch.cat([windows @ self.low.to(x.dtype), windows @ self.high.to(x.dtype)], -1)
        return both.movedim(-1, axis)

    def _synthesise(self, y: Tensor, axis: int) -> Tensor:
        n = y.shape[axis]
        coefficients = y.movedim(axis, -1)
        low, high = coefficients[..., : n // 2], coefficients[..., n // 2 :]
        spread = low[..., None] * self.low + high[..., None] * self.high
        flat = spread.flatten(-2)
        x = torch.zeros_like(coefficients)
        return x.index_add(-1, self._taps(n, y.device).flatten(), flat).movedim(-1, axis)

    def _taps(self, n: int, device: torch.device) -> Tensor:
        """Sample read by tap ``t`` of output ``i``: ``2i + t − K/2 + 1``, periodic."""
        taps = len(self.low)
        start = 2 * torch.arange(n // 2, device=device)
        return (start[:, None] + torch.arange(taps, device=device) - taps // 2 + 1) % n
