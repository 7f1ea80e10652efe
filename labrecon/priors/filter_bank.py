"""A bank of small learned filters, made of the atoms of a cosine transform."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn

from labrecon.options import whole
from labrecon.prior import PriorError

__all__ = ["FilterBank", "cosine_atoms"]

_CONVOLVE = {1: nn.functional.conv1d, 2: nn.functional.conv2d, 3: nn.functional.conv3d}


def cosine_atoms(size: int, axes: int) -> Tensor:
    """The orthonormal cosine atoms of ``size`` taps along each axis, without the constant one.

    Atom ``(p, q)`` is ``m_p ⊗ m_q`` with ``m_p[r] ∝ cos(π (2r + 1) p / 2 size)``; they are listed
    as ``(0, 1), (0, 2), …, (1, 0), …``: ``(size^axes − 1, size, …)``.
    """
    position = torch.arange(size, dtype=torch.float64)
    rows = torch.cos(math.pi / (2 * size) * (2 * position + 1) * position.unsqueeze(-1))
    rows = rows / torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
    atoms = []
    for numbers in itertools.product(range(size), repeat=axes):
        atom = rows[numbers[0]]
        for number in numbers[1:]:
            atom = atom.unsqueeze(-1) * rows[number]
        atoms.append(atom)
    return torch.stack(atoms[1:])


class FilterBank(nn.Module):
    """``c_l = D_l ∗ x`` with ``D_l = Σ_m γ_lm B_m`` over the cosine atoms ``B_m`` but the constant.

    So each filter sums to zero, whatever ``γ`` is learned. Convolutions are periodic and centred;
    complex images have both parts filtered. Before training ``γ = 1``: the atoms themselves, a
    tight frame of the images without mean (Yang, Sun, Li and Xu 2016, Deep ADMM-Net, eq. 7).

    Args:
        axes: how many trailing image axes are filtered.
        size: taps along each, odd.

    Raises:
        PriorError: ``size`` is even or below 3, or there are more than 3 axes.

    Example:
        >>> FilterBank(1)(torch.tensor([0.0, 1.0, 0.0, 0.0])).shape
        torch.Size([2, 4])
    """

    atoms: Tensor

    def __init__(self, axes: int = 2, size: int = 3) -> None:
        super().__init__()
        self.axes = whole("FilterBank: axes", axes, error=PriorError)
        self.size = whole("FilterBank: size", size, at_least=3, error=PriorError)
        if axes not in _CONVOLVE or size % 2 == 0:
            raise PriorError(f"FilterBank: 1 to 3 axes and an odd size, got {axes} and {size}")
        atoms = cosine_atoms(size, axes)
        self.register_buffer("atoms", atoms.to(torch.get_default_dtype()))
        self.coefficients = nn.Parameter(torch.eye(len(atoms)))

    def filters(self) -> Tensor:
        """``D (filters, size, …)``."""
        return torch.tensordot(self.coefficients, self.atoms, 1)

    def forward(self, x: Tensor) -> Tensor:
        """``(*lead, *image)`` to ``(*lead, filters, *image)``."""
        # The network convention of a convolution does not flip the kernel.
        return self._convolve(x.unsqueeze(-self.axes - 1), self._flipped().unsqueeze(1))

    def adjoint(self, c: Tensor) -> Tensor:
        """``Σ_l D_l ⋆ c_l``: ``(*lead, filters, *image)`` to ``(*lead, *image)``."""
        return self._convolve(c, self.filters().unsqueeze(0)).squeeze(-self.axes - 1)

    def power(self, weights: Tensor, shape: tuple[int, ...]) -> Tensor:
        """``Σ_l w_l |D̂_l|²`` over the DFT of an image of ``shape``."""
        spectra = torch.fft.fftn(self.filters(), s=shape, dim=tuple(range(-self.axes, 0)))
        power = spectra.real.square() + spectra.imag.square()
        return torch.tensordot(weights, power, 1)

    def _flipped(self) -> Tensor:
        return self.filters().flip(tuple(range(-self.axes, 0)))

    def _convolve(self, channels: Tensor, kernels: Tensor) -> Tensor:
        if channels.is_complex():
            real, imag = (self._convolve(p, kernels) for p in (channels.real, channels.imag))
            return torch.complex(real, imag)
        axes, margin = self.axes, self.size // 2
        image = channels.shape[-axes:]
        if any(n < self.size for n in image):
            raise PriorError(f"FilterBank: filters of {self.size} taps on an image {tuple(image)}")
        flat = channels.reshape(-1, *channels.shape[-axes - 1 :])
        wrapped = nn.functional.pad(flat, [margin] * (2 * axes), mode="circular")
        out = _CONVOLVE[axes](wrapped, kernels)
        # In mixed precision a convolution returns half of it.
        return out.reshape(*channels.shape[: -axes - 1], *out.shape[1:]).to(channels.dtype)
