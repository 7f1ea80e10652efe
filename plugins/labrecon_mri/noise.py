"""Thermal noise of a coil array: complex Gaussian, correlated between coils."""

from __future__ import annotations

import torch
from torch import Tensor

from labrecon.noise import Noise, NoiseError

__all__ = ["CoilNoise"]


class CoilNoise(Noise):
    """``y = A(x) + L n`` with ``Ψ = L Lᴴ`` over the coils; ``density = ½ |L⁻¹(p − y)|²``.

    ``n`` has standard deviation 1 in the real and in the imaginary part each, as everywhere in
    labrecon; so ``E[(L n)(L n)ᴴ] = 2Ψ``: half the covariance that a noise scan gives as a complex
    average. Prewhitened data have `Gaussian` noise of σ = 1 and faster solvers: the step
    ``prewhiten`` makes them.

    Args:
        covariance: ``Ψ`` (coil, coil), Hermitian, positive definite, per real and imaginary part.
        axis: of the coils in the data, counted from the end.

    Raises:
        NoiseError: ``Ψ`` is not square, not Hermitian or not positive definite.
    """

    factor: Tensor
    inverse: Tensor

    def __init__(self, covariance: Tensor, axis: int = -3) -> None:
        super().__init__()
        wide = torch.as_tensor(covariance).to(torch.complex128)
        if wide.ndim != 2 or wide.shape[0] != wide.shape[1]:
            raise NoiseError(f"a coil covariance is (coil, coil), got {tuple(wide.shape)}")
        if not bool(torch.isfinite(torch.view_as_real(wide)).all()) or not torch.allclose(
            wide, wide.mH, rtol=1e-4, atol=1e-6 * float(wide.abs().max())
        ):
            raise NoiseError("a coil covariance is Hermitian and finite")
        try:
            factor = torch.linalg.cholesky(wide)
        except RuntimeError as error:
            raise NoiseError(
                "the coil covariance is not positive definite: fewer noise samples than coils, or "
                "a coil that is dead or a copy of another"
            ) from error
        if axis >= 0:
            raise NoiseError(f"the coil axis is counted from the end, got {axis}")
        self.register_buffer("factor", factor)
        self.register_buffer("inverse", torch.linalg.inv(factor))
        self.axis = axis

    def _mix(self, matrix: Tensor, values: Tensor) -> Tensor:
        if values.shape[self.axis] != len(matrix):
            raise NoiseError(f"noise of {len(matrix)} coils, data {tuple(values.shape)}")
        moved = values.movedim(self.axis, -1) @ matrix.to(values.dtype).mT
        return moved.movedim(-1, self.axis)

    def whiten(self, values: Tensor) -> Tensor:
        """``L⁻¹ y``: uncorrelated, of unit deviation per real and imaginary part."""
        return self._mix(self.inverse, values)

    def sample(self, clean: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """``clean + L n``."""
        device = generator.device if generator is not None else clean.device
        n = torch.randn(clean.shape, dtype=clean.dtype, device=device, generator=generator)
        return clean + 2**0.5 * self._mix(self.factor, n.to(clean.device))

    def density(self, predicted: Tensor, measured: Tensor) -> Tensor:
        """``½ |L⁻¹(p − y)|²``, of each whitened channel."""
        return 0.5 * self.whiten(predicted - measured).abs().square()

    def score(self, predicted: Tensor, measured: Tensor) -> Tensor:
        """``Ψ⁻¹ (p − y)``."""
        return self._mix(self.inverse.mH, self.whiten(predicted - measured))

    def curvature(self, measured: Tensor) -> Tensor | float:
        """The largest eigenvalue of ``Ψ⁻¹``."""
        return float(torch.linalg.matrix_norm(self.inverse, 2)) ** 2

    def variance(self, predicted: Tensor) -> Tensor:
        """``diag Ψ``."""
        own = self.factor.abs().square().sum(-1).to(predicted.real.dtype)
        shape = [1] * predicted.ndim
        shape[self.axis] = len(own)
        return own.reshape(shape).expand(predicted.shape)
