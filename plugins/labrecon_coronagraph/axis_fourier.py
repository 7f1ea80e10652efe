"""The matrix Fourier transform along one axis, by cosines and sines."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["AxisFourier"]


class AxisFourier:
    """``g(u) = Δx Σ_x f(x) exp(−2πi s u x)`` along the axis before the last, and back.

    Around the middles of the two axes samples come in pairs ``±x`` and ``±u``. With
    ``f± = f(x) ± f(−x)`` and sums over one of each pair it is
    ``g(±u) = Σ cos(2πsux) f₊ ∓ i Σ sin(2πsux) f₋``: two products with real matrices, together a
    quarter of the work of one with a complex matrix. Middles other than 0 are ramps of the phase,
    before and after.

    Args:
        x: coordinates (sample,), evenly spaced.
        u: of the transform.
        steps: weights ``Δx`` of `forward` and ``s Δu`` of `backward`.
        scale: ``s``.
        like: a complex field whose precision and device are used.
    """

    def __init__(
        self, x: Tensor, u: Tensor, steps: tuple[float, float], scale: float, like: Tensor
    ) -> None:
        # A tensor made in inference mode could never be part of a gradient.
        with torch.inference_mode(False), torch.no_grad():
            middle_x, middle_u = float((x[0] + x[-1]) / 2), float((u[0] + u[-1]) / 2)
            half_x, half_u = (x - middle_x)[len(x) // 2 :], (u - middle_u)[len(u) // 2 :]
            phase = 2 * math.pi * scale * torch.outer(half_u, half_x)
            kernel = torch.stack([phase.cos(), phase.sin()])
            real = like.dtype.to_real()
            self.there = (steps[0] * kernel).to(like.device, real)
            self.back = (steps[1] * kernel.mT).contiguous().to(like.device, real)
            self.before = _ramp((x - middle_x) * middle_u * scale, like)
            self.after = _ramp(u * middle_x * scale, like)
        self.sizes = (len(x), len(u))

    def forward(self, field: Tensor) -> Tensor:
        """From (…, x, other) to (…, u, other)."""
        if self.before is not None:
            field = field * self.before
        found = _pairwise(field, self.there, self.sizes[1], -1.0)
        return found if self.after is None else found * self.after

    def backward(self, field: Tensor) -> Tensor:
        """From (…, u, other) to (…, x, other), with the conjugate kernel."""
        if self.after is not None:
            field = field * self.after.conj()
        found = _pairwise(field, self.back, self.sizes[0], 1.0)
        return found if self.before is None else found * self.before.conj()


def _ramp(turns: Tensor, like: Tensor) -> Tensor | None:
    """``exp(−2πi turns)`` (sample, 1), or None where all are 0."""
    if not bool(turns.any()):
        return None
    phase = -2 * math.pi * turns[:, None]
    return torch.polar(torch.ones_like(phase), phase).to(like.device, like.dtype)


def _pairwise(field: Tensor, kernel: Tensor, samples: int, sign: float) -> Tensor:
    count = field.shape[-2]
    upper = field[..., count // 2 :, :]
    lower = field[..., : count - count // 2, :].flip(-2)
    odd = _product(kernel[1], upper - lower)
    even = lower.add_(upper)
    if count % 2:
        # The middle is its own mirror image: it counts once.
        even = torch.cat([upper[..., :1, :], even[..., 1:, :]], -2)
    even = _product(kernel[0], even)
    mirrored = torch.add(even, odd, alpha=complex(0, -sign))[..., samples % 2 :, :].flip(-2)
    return torch.cat([mirrored, torch.add(even, odd, alpha=complex(0, sign))], -2)


def _product(matrix: Tensor, field: Tensor) -> Tensor:
    """A real matrix times a complex field, as one product of real numbers."""
    parts = torch.view_as_real(field.resolve_conj()).flatten(-2)
    return torch.view_as_complex(torch.matmul(matrix, parts).unflatten(-1, (-1, 2)))
