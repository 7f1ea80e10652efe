"""Convolution: blur by a known (or learned) point-spread function."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from labrecon.operator import Operator
from labrecon.space import Space, SpaceError

__all__ = ["Convolution"]


class Convolution(Operator):
    """``y = k ∗ x`` over the kernel's axes, the last ones of the domain.

    ``y[i] = Σ_j k[j] x[i + c − j]`` with the kernel's centre ``c = K//2``. Periodic boundaries wrap
    around and keep the shape; "valid" keeps the ``N − K + 1`` samples that no boundary touches.

    Args:
        domain: real or complex space.
        kernel: real (or complex, in a complex space), not larger than the domain.
        boundary: "periodic" or "valid".
        learn: make the kernel a parameter with gradients.
    """

    def __init__(
        self,
        domain: Space,
        kernel: Tensor,
        boundary: Literal["periodic", "valid"] = "periodic",
        *,
        learn: bool = False,
    ) -> None:
        if boundary not in ("periodic", "valid"):
            raise SpaceError(f'boundary is "periodic" or "valid", got {boundary!r}')
        if kernel.is_complex() and not domain.dtype.is_complex:
            raise SpaceError("a complex kernel needs a complex space")
        size = domain.shape[domain.ndim - kernel.ndim :]
        if kernel.ndim > domain.ndim or any(k > n for k, n in zip(kernel.shape, size, strict=True)):
            raise SpaceError(
                f"a kernel of shape {tuple(kernel.shape)} does not fit a domain {domain.shape}"
            )
        lead = domain.shape[: domain.ndim - kernel.ndim]
        kept = tuple(n - k + 1 for n, k in zip(size, kernel.shape, strict=True))
        shape = domain.shape if boundary == "periodic" else (*lead, *kept)
        super().__init__(domain, Space(shape, domain.dtype, domain.axes))
        self.boundary = boundary
        self.size = size
        self.kept = kept
        self.axes = tuple(range(-kernel.ndim, 0))
        self.kernel = nn.Parameter(kernel.detach().clone(), requires_grad=learn)

    def _transfer(self) -> Tensor:
        """DFT of the kernel with its centre at the origin."""
        pad = [p for n, k in zip(self.size, self.kernel.shape, strict=True) for p in (n - k, 0)]
        kernel = nn.functional.pad(self.kernel, pad[::-1])
        centre = [-(k // 2) for k in self.kernel.shape]
        return torch.fft.fftn(torch.roll(kernel, centre, self.axes), dim=self.axes)

    def _filter(self, x: Tensor, transfer: Tensor) -> Tensor:
        y = torch.fft.ifftn(transfer * torch.fft.fftn(x, dim=self.axes), dim=self.axes)
        return y if x.is_complex() else y.real

    def forward(self, x: Tensor) -> Tensor:
        """``k ∗ x``."""
        y = self._filter(x, self._transfer())
        if self.boundary == "periodic":
            return y
        for axis, (k, n) in zip(
            self.axes, zip(self.kernel.shape, self.kept, strict=True), strict=True
        ):
            y = y.narrow(axis, (k - 1) - k // 2, n)
        return y

    def adjoint(self, y: Tensor) -> Tensor:
        """Correlation with the kernel, after zeros fill what "valid" left out."""
        if self.boundary == "valid":
            pad: list[int] = []
            for n, m, k in zip(self.size, self.kept, self.kernel.shape, strict=True):
                before = (k - 1) - k // 2
                pad += [n - m - before, before]
            y = nn.functional.pad(y, pad[::-1])
        return self._filter(y, self._transfer().conj())

    def solve(
        self,
        rhs: Tensor,
        rho: Tensor | float,
        *,
        weights: Tensor | None = None,
        **options: Any,
    ) -> Tensor:
        """Diagonal in the Fourier domain for periodic boundaries without weights."""
        if self.boundary == "valid" or weights is not None:
            return super().solve(rhs, rho, weights=weights, **options)
        power = self._transfer().abs().square()
        return self._filter(rhs, (1 / (power + rho)).to(rhs.dtype.to_complex()))
