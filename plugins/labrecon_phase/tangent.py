"""Tangent: the Jacobian of Abbe imaging at an object, with the fields of all LEDs at hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from labrecon.algebra import Linearized

if TYPE_CHECKING:
    from labrecon_phase.abbe import AbbeImaging

__all__ = ["Tangent"]


class Tangent(Linearized):
    """``J u = Σ_l w_jl 2 Re[ψ_l* F⁻¹{P(ν + ν_l) F{t u}}]``, ``t = ∂o/∂x``, on the camera.

    ``ψ_l`` are the fields at the point. Not differentiable in the point: for solves.
    """

    operator: AbbeImaging

    def __init__(self, operator: AbbeImaging, x: Tensor) -> None:
        super().__init__(operator, x)
        self._at = operator.transmission(x)
        self._windows = operator.windows()
        cut, rows, columns = self._windows
        spectrum = torch.fft.fft2(self._at, norm="forward")
        self._parts = []
        for chunk, lit in operator.chunks(operator.patterns.detach(), spectrum.shape[:-2]):
            window = (cut[chunk], rows[chunk], columns[chunk])
            field = operator.fields(spectrum, *window)
            self._parts.append((window, field, lit, operator.patterns.detach()[lit][:, chunk]))

    def _moved(self, u: Tensor) -> Tensor:
        """``t u``: the change of the transmission."""
        sample = self.operator.geometry.sample
        if sample == "field":
            return u
        if sample == "phase":
            return 1j * self._at * u
        return self._at * torch.complex(u[..., 1, :, :], u[..., 0, :, :])

    def forward(self, x: Tensor) -> Tensor:
        """``J u``."""
        own = self.operator
        spectrum = torch.fft.fft2(self._moved(x), norm="forward")
        lead = spectrum.shape[:-2]
        total = x.new_zeros(*lead, own.range.shape[0], *own.grid, dtype=own.real)
        for window, psi, lit, weights in self._parts:
            change = own.fields(spectrum, *window)
            power = 2 * (psi.real * change.real + psi.imag * change.imag)
            mixed = torch.matmul(weights, power.reshape(*lead, len(window[0]), -1))
            total.index_add_(-3, lit, mixed.reshape(*lead, len(lit), *own.grid))
        return own.on_camera(total)

    def adjoint(self, y: Tensor) -> Tensor:
        """``Jᴴ v``."""
        own = self.operator
        back = self._from_camera(y)
        lead = back.shape[:-3]
        height, width = own.geometry.object_shape
        spectrum = y.new_zeros(*lead, height * width, dtype=own.real.to_complex())
        for (cut, rows, columns), psi, lit, weights in self._parts:
            mixed = torch.matmul(weights.T, back[..., lit, :, :].reshape(*lead, len(lit), -1))
            weighted = 2 * mixed.reshape(*lead, len(cut), *own.grid) * psi
            part = torch.fft.fft2(weighted)[..., : own.size[0], : own.size[1]] * cut.conj()
            place = (rows[:, :, None] * width + columns[:, None, :]).flatten()
            spectrum.index_add_(-1, place, part.flatten(-3))
        spectrum = spectrum.reshape(*lead, height, width)
        back = torch.fft.ifft2(spectrum)
        sample = own.geometry.sample
        if sample == "field":
            return back
        turned = self._at.conj() * back
        if sample == "phase":
            return turned.imag
        return torch.stack([turned.imag, turned.real], -3)

    def _from_camera(self, y: Tensor) -> Tensor:
        """The transpose of what leads from intensities to the camera."""
        own = self.operator
        like = y.new_zeros(*y.shape[:-2], *own.grid)
        differentiable = torch.is_grad_enabled()
        with torch.enable_grad():
            like.requires_grad_()
            made = own.on_camera(like)
            if made is like:
                return y
            (back,) = torch.autograd.grad(made, like, y, create_graph=differentiable)
        return back
