"""Convolution: blur by a known (or learned) point-spread function."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from labrecon.design import FeasibleSet
from labrecon.functional import Map
from labrecon.operator import Operator
from labrecon.space import Space, SpaceError, is_per_element

__all__ = ["Convolution"]


class Convolution(Operator):
    """``y = k ∗ x`` over the kernel's axes, the last ones of the domain, by FFT.

    ``y[i] = Σ_j k[j] x[i + c − j]`` with the kernel's centre ``c = K//2``. Periodic boundaries wrap
    around and keep the shape; "valid" keeps the ``N − K + 1`` samples that no boundary touches.
    The kernel is a nuisance, or a design where ``feasible`` is given: ``at(kernel=…)`` replaces
    it, also by one per batch element (with an axis of size one for each axis that it does not
    cover). Not for kernels of a few samples on a large image, where a direct sum is faster.

    Args:
        domain: real or complex space.
        kernel: real (or complex, in a complex space), not larger than the domain.
        boundary: "periodic" or "valid".
        learn: turn gradients of the kernel on.
        feasible: what the kernel may be; makes it a design.

    Raises:
        SpaceError: the kernel does not fit the domain, or its dtype is not the domain's
            (or its real counterpart).

    Example:
        >>> blur = Convolution(Space((4,)), torch.tensor([0.25, 0.5, 0.25]))
        >>> blur(torch.tensor([0.0, 4.0, 0.0, 0.0]))
        tensor([1., 2., 1., 0.])
    """

    kernel: Tensor

    def __init__(
        self,
        domain: Space,
        kernel: Tensor,
        boundary: Literal["periodic", "valid"] = "periodic",
        *,
        learn: bool = False,
        feasible: FeasibleSet | None = None,
    ) -> None:
        if boundary not in ("periodic", "valid"):
            raise SpaceError(f'boundary is "periodic" or "valid", got {boundary!r}')
        if kernel.dtype not in (domain.dtype, domain.real_dtype):
            raise SpaceError(
                f"a kernel of {kernel.dtype} for a space of {domain.dtype}; convert it"
            )
        size = domain.shape[domain.ndim - kernel.ndim :]
        if not 1 <= kernel.ndim <= domain.ndim or any(
            not 1 <= k <= n for k, n in zip(kernel.shape, size, strict=True)
        ):
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
        self.taps = tuple(kernel.shape)
        self.axes = tuple(range(-kernel.ndim, 0))
        if feasible is None:
            self.nuisance("kernel", kernel)
        else:
            self.design("kernel", kernel, feasible)
        self.kernel.requires_grad_(learn)

    def forward(self, x: Tensor) -> Tensor:
        """``k ∗ x``."""
        y = self._filter(x, self._transfer())
        if self.boundary == "periodic":
            return y
        for axis, k, n in zip(self.axes, self.taps, self.kept, strict=True):
            y = y.narrow(axis, (k - 1) - k // 2, n)
        return y

    def adjoint(self, y: Tensor) -> Tensor:
        """Correlation with the kernel, after zeros fill what "valid" left out."""
        if self.boundary == "valid":
            before = [(k - 1) - k // 2 for k in self.taps]
            after = [k // 2 for k in self.taps]
            y = nn.functional.pad(y, _padding(before, after))
        return self._filter(y, self._transfer().conj())

    def normal(self, x: Tensor, weights: Tensor | None = None) -> Tensor:
        """One filter by ``|k̂|²`` for periodic boundaries without weights."""
        if self.boundary == "valid" or weights is not None:
            return super().normal(x, weights)
        return self.normal_map()(x)

    def normal_map(self, weights: Tensor | None = None) -> Map:
        """`normal` with ``|k̂|²`` computed once, for periodic boundaries without weights."""
        if self.boundary == "valid" or weights is not None:
            return super().normal_map(weights)
        power, axes, size = _power(self._transfer()), self.axes, self.size
        if self.domain.dtype.is_complex:
            return lambda x: torch.fft.ifftn(power * torch.fft.fftn(x, dim=axes), dim=axes)
        return lambda x: torch.fft.irfftn(power * torch.fft.rfftn(x, dim=axes), s=size, dim=axes)

    def solve(
        self,
        rhs: Tensor,
        rho: Tensor | float,
        *,
        weights: Tensor | None = None,
        **options: Any,
    ) -> Tensor:
        """One filter by ``1 / (|k̂|² + ρ)`` for periodic boundaries.

        By conjugate gradients for "valid" ones, with weights, or where ``ρ`` varies in the image.
        """
        uniform = is_per_element(rho, self.domain.ndim)
        if self.boundary == "valid" or weights is not None or not uniform:
            return super().solve(rhs, rho, weights=weights, **options)
        return self._filter(rhs, 1 / (_power(self._transfer()) + rho))

    def norm(self, iterations: int = 60, tolerance: float = 1e-4) -> float:
        """The largest ``|k̂|`` for periodic boundaries, else by Lanczos' method."""
        if self.boundary == "valid":
            return super().norm(iterations, tolerance)
        return float(self._transfer().detach().abs().max())

    def _transfer(self) -> Tensor:
        """DFT of the kernel with its centre at the origin; half of it in a real space."""
        spare = [n - k for n, k in zip(self.size, self.taps, strict=True)]
        kernel = nn.functional.pad(self.kernel, _padding([0] * len(spare), spare))
        kernel = torch.roll(kernel, [-(k // 2) for k in self.taps], self.axes)
        return self._spectrum(kernel)

    def _spectrum(self, x: Tensor) -> Tensor:
        transform = torch.fft.fftn if self.domain.dtype.is_complex else torch.fft.rfftn
        return transform(x, dim=self.axes)

    def _filter(self, x: Tensor, transfer: Tensor) -> Tensor:
        y = transfer * self._spectrum(x)
        if x.is_complex():
            return torch.fft.ifftn(y, dim=self.axes)
        return torch.fft.irfftn(y, s=self.size, dim=self.axes)


def _padding(before: list[int], after: list[int]) -> list[int]:
    """The argument of ``pad``, which counts axes from the last."""
    return [n for pair in zip(reversed(before), reversed(after), strict=True) for n in pair]


def _power(transfer: Tensor) -> Tensor:
    return transfer.real.square() + transfer.imag.square()
