"""``Aᴴ W A`` of non-uniform samples as a convolution: two FFTs of twice the size."""

from __future__ import annotations

import math
from typing import Any

import torch
from scipy.fft import next_fast_len
from torch import Tensor

from labrecon import linear_function
from labrecon_mri.sums import type1

__all__ = ["Toeplitz"]

#: Padded samples that are transformed at once: what a CPU's cache holds, and what a GPU needs.
CPU_CHUNK, GPU_CHUNK = 2**18, 2**26


class Toeplitz:
    """``x ↦ Aᴴ W A x``: ``q[l] = Σ_m w_m exp(iω_m·l)`` embedded in a circulant (Chan and Ng 1996).

    Args:
        spectrum: the DFT of ``q`` on the padded grid, real since ``W`` is; ([points,] *padded).
        shape: of the image.
    """

    def __init__(self, spectrum: Tensor, shape: tuple[int, ...]) -> None:
        self.spectrum = spectrum
        self.shape = shape
        self.padded = tuple(spectrum.shape[-len(shape) :])
        self.shared = spectrum.ndim == len(shape)
        self._axes = tuple(range(-len(shape), 0))
        self._inside: Any = (..., *(slice(n) for n in shape))
        size = math.prod(self.padded)
        self.chunk = max(1, (GPU_CHUNK if spectrum.is_cuda else CPU_CHUNK) // size)

    @classmethod
    def of(
        cls,
        omega: Tensor,
        weights: Tensor,
        shape: tuple[int, ...],
        dtype: torch.dtype,
        backend: str,
    ) -> Toeplitz:
        """For ``omega ([points,] m, axis)`` in rad/pixel and ``weights (*batch, [points,] m)``.

        The scale is that of the orthonormal transform, ``1/∏N``.
        """
        ndim, frames = len(shape), omega.shape[:-2]
        double = (2 * n for n in shape)
        wide = weights.to(torch.complex128)
        batch = wide.shape[: wide.ndim - len(frames) - 1]
        sums = wide.reshape(-1, *wide.shape[len(batch) :])
        sums = sums.movedim(0, len(frames))
        # In double precision: it is made once per solve, and every iteration sees its error.
        q = type1(sums, omega, tuple(double), backend)
        q = q.movedim(len(frames), 0).reshape(*batch, *frames, *q.shape[-ndim:])
        for axis, n in zip(range(-ndim, 0), shape, strict=True):
            # No pair of pixels is N apart: that entry has no say, and no mirror image.
            q = q.narrow(axis, 1, 2 * n - 1)
        padded = tuple(next_fast_len(2 * n - 1) for n in shape)
        axes = tuple(range(-ndim, 0))
        grid = q.new_zeros(*q.shape[:-ndim], *padded)
        inside: Any = (..., *(slice(0, 2 * n - 1) for n in shape))
        grid[inside] = q
        grid = grid.roll(tuple(1 - n for n in shape), axes)
        spectrum = torch.fft.fftn(grid, dim=axes).real / math.prod(shape)
        return cls(spectrum.to(dtype.to_real()), shape)

    def __call__(self, x: Tensor) -> Tensor:
        """Apply to images ``(*batch, [points,] *shape)``; differentiable."""
        if self.spectrum.requires_grad and torch.is_grad_enabled():
            padded = torch.fft.fftn(x, s=self.padded, dim=self._axes)
            return torch.fft.ifftn(self.spectrum * padded, dim=self._axes)[self._inside]
        return linear_function(x, self._apply, self._apply)

    def _apply(self, x: Tensor) -> Tensor:
        images = x.reshape(-1, *self.shape)
        if not self.shared or len(images) <= self.chunk:
            padded = torch.fft.fftn(x, s=self.padded, dim=self._axes)
            return torch.fft.ifftn(padded.mul_(self.spectrum), dim=self._axes)[self._inside]
        result = torch.empty_like(images)
        pad = self.workspace(min(self.chunk, len(images)), x)
        for start in range(0, len(images), self.chunk):
            part = images[start : start + self.chunk]
            pad[: len(part)][self._inside] = part
            result[start : start + len(part)] = self.filtered(pad[: len(part)])
        return result.reshape(x.shape)

    def workspace(self, n: int, like: Tensor) -> Tensor:
        """Zeros for ``n`` padded images, to fill in their corner for `filtered`."""
        return torch.zeros(n, *self.padded, dtype=like.dtype, device=like.device)

    def corner(self, workspace: Tensor) -> Tensor:
        """The part of padded images that holds the image."""
        return workspace[self._inside]

    def filtered(self, workspace: Tensor) -> Tensor:
        """The convolution of padded images, which stay as they are."""
        spectrum = torch.fft.fftn(workspace, dim=self._axes)
        return torch.fft.ifftn(spectrum.mul_(self.spectrum), dim=self._axes)[self._inside]
